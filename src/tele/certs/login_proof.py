"""Did the owner of a certificate sign a login on an SSH connection, and to which host?

A server that passes this proof on shows that the user has logged in to it (RFC 4252, section 7, and
OpenSSH PROTOCOL, section 3.1). The signature covers the session identifier of that one connection,
so that it proves one login, and the host key that the client has seen.

Invariant: a proof that is not wholly as a client signs it is refused with a BadCertificate.
"""

from __future__ import annotations

from typing import Final

from attrs import frozen

from tele.certs.algorithms import USER_ALGORITHMS
from tele.certs.certificate import Certificate
from tele.errors import BadCertificate, ProtocolError
from tele.wire import numbers as n
from tele.wire.fields import Reader, string

_SERVICE: Final = b"ssh-connection"
_HOSTBOUND: Final = b"publickey-hostbound-v00@openssh.com"
#: Bytes of a session identifier: a SHA-256 or a SHA-512.
_EXCHANGES: Final = (32, 48, 64)


@frozen
class ProvenLogin:
    """The algorithm of the signature, and the host key (a blob) of the server."""

    algorithm: bytes
    host_key: bytes


def check_login(
    certificate: Certificate,
    login: str,
    exchange: bytes,
    request: bytes,
    signature: bytes,
    verify_required: bool = False,
) -> ProvenLogin:
    """Return what a signed request to log in as ``login`` with ``certificate`` proves.

    ``exchange`` is the session identifier of the connection. Raises :class:`BadCertificate`.
    """
    try:
        proven = _read(certificate, login, request)
    except ProtocolError as error:
        raise BadCertificate(f"what was signed is no request to log in: {error}", "proof") from None
    known = USER_ALGORITHMS.get(proven.algorithm)
    if known is None or known.blob_type != certificate.type:
        raise BadCertificate("what was signed is of another kind of key", "proof")
    if len(exchange) not in _EXCHANGES:
        raise BadCertificate("the session identifier is malformed", "proof")
    certificate.key.verify(
        signature, string(exchange) + request, (known.signature,), user_verified=verify_required
    )
    return proven


def _read(certificate: Certificate, login: str, request: bytes) -> ProvenLogin:
    """Read a request. Raises :class:`ProtocolError`."""
    if request[:1] != bytes((n.USERAUTH_REQUEST,)):
        raise ProtocolError("it is another message")
    reader = Reader(request[1:])
    user, service, method = reader.string(), reader.string(), reader.string()
    is_signed, algorithm, blob = reader.boolean(), reader.string(), reader.string()
    if method != _HOSTBOUND:
        raise ProtocolError(
            "the client does not bind its login to the host; OpenSSH does so since version 8.9"
        )
    host_key = reader.string()
    reader.end()
    if (user, service, is_signed) != (login.encode(), _SERVICE, True):
        raise ProtocolError("it is for another login or service")
    if blob != certificate.blob:
        raise ProtocolError("it is made with another certificate")
    return ProvenLogin(algorithm, host_key)
