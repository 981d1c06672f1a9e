"""Did the owner of a certificate sign a login on an SSH connection, and to which host?

A server that passes this proof on shows that the user has logged in to it. The signature covers the
session identifier of that one connection, so that it proves one login. Which host key the client
has seen is shown in one of two ways:

* the request names it (``publickey-hostbound-v00@openssh.com``, OpenSSH PROTOCOL, section 3.1);
* the request does not (``publickey``, RFC 4252, section 7), but the session identifier is a hash of
  it. The server passes on the whole of what was hashed, the secret of the exchange included.

Invariants:

* A proof that is not wholly as a client signs it is refused with a BadCertificate.
* No server finds another transcript with the hash that the client has signed, which would have
  another host key: only SHA-256 is taken.
"""

from __future__ import annotations

from typing import Final

from attrs import field, frozen

from tele.certs.algorithms import USER_ALGORITHMS
from tele.certs.certificate import Certificate
from tele.errors import BadCertificate, ProtocolError
from tele.wire import numbers as n
from tele.wire.fields import Reader, string
from tele.wire.key_agreement import exchange_hash, host_key_in

_SERVICE: Final = b"ssh-connection"
_PUBLICKEY: Final = b"publickey"
_HOSTBOUND: Final = b"publickey-hostbound-v00@openssh.com"
#: Bytes of a session identifier: a SHA-256 or a SHA-512.
_EXCHANGES: Final = (32, 48, 64)


@frozen
class LoginProof:
    """What a client signed to log in: ``exchange``, the session identifier, and ``request``.

    ``transcript``: see :func:`tele.wire.key_agreement.exchange_transcript`; empty if ``request``
    names the host key.
    """

    exchange: bytes
    request: bytes
    signature: bytes = field(repr=False)
    transcript: bytes = field(default=b"", repr=False)


@frozen
class ProvenLogin:
    """The algorithm of the signature, and the host key (a blob) of the server."""

    algorithm: bytes
    host_key: bytes


def check_login(
    certificate: Certificate, login: str, proof: LoginProof, verify_required: bool = False
) -> ProvenLogin:
    """Return what a signed request to log in as ``login`` with ``certificate`` proves.

    Raises :class:`BadCertificate`.
    """
    try:
        proven = _read(certificate, login, proof)
    except ProtocolError as error:
        raise BadCertificate(f"what was signed is no request to log in: {error}", "proof") from None
    known = USER_ALGORITHMS.get(proven.algorithm)
    if known is None or known.blob_type != certificate.type:
        raise BadCertificate("what was signed is of another kind of key", "proof")
    if len(proof.exchange) not in _EXCHANGES:
        raise BadCertificate("the session identifier is malformed", "proof")
    signed = string(proof.exchange) + proof.request
    certificate.key.verify(
        proof.signature, signed, (known.signature,), user_verified=verify_required
    )
    return proven


def _read(certificate: Certificate, login: str, proof: LoginProof) -> ProvenLogin:
    """Read a request. Raises :class:`ProtocolError`."""
    request = proof.request
    if request[:1] != bytes((n.USERAUTH_REQUEST,)):
        raise ProtocolError("it is another message")
    reader = Reader(request[1:])
    user, service, method = reader.string(), reader.string(), reader.string()
    is_signed, algorithm, blob = reader.boolean(), reader.string(), reader.string()
    if method == _HOSTBOUND:
        host_key = reader.string()
    elif method == _PUBLICKEY:
        host_key = _hashed_host_key(proof)
    else:
        raise ProtocolError("it is of another method")
    reader.end()
    if (user, service, is_signed) != (login.encode(), _SERVICE, True):
        raise ProtocolError("it is for another login or service")
    if blob != certificate.blob:
        raise ProtocolError("it is made with another certificate")
    return ProvenLogin(algorithm, host_key)


def _hashed_host_key(proof: LoginProof) -> bytes:
    """Return the host key that the session identifier is a hash of."""
    if exchange_hash(proof.transcript) != proof.exchange:
        raise ProtocolError("it names no host key, and the transcript is of another key exchange")
    return host_key_in(proof.transcript)
