"""How does a client that trusts this host learn its plain key (OpenSSH PROTOCOL, section 2.5)?

``hostkeys-00@openssh.com`` names the host's plain keys after authentication. The client asks with
``hostkeys-prove-00@openssh.com`` for a signature by each key that is new to it, and writes the key
into ``known_hosts`` (``UpdateHostKeys``).

Invariants:

* Only requests for our own key are signed, over a text that begins with the request's name and
  holds the session identifier: a signature is valid for no other purpose and no other session.
* A request names one key; any other request is refused, and raises no error.
"""

from __future__ import annotations

from typing import Final, Protocol, runtime_checkable

from tele.certs.algorithms import RSA, RSA_SHA256, RSA_SHA512
from tele.certs.keys import PrivateKey
from tele.errors import ProtocolError
from tele.wire.fields import Reader, boolean, string

ANNOUNCE: Final = b"hostkeys-00@openssh.com"
PROVE: Final = b"hostkeys-prove-00@openssh.com"
#: Requests for proofs that one connection may make; a client needs one.
PROOFS_LIMIT: Final = 8


@runtime_checkable
class HostKeyProver(Protocol):
    """A transport that answers PROVE: a server's."""

    def prove_host_keys(self, request: bytes) -> tuple[bool, bytes] | bool:
        """Return the signatures that ``request`` asks for, or False."""


def announcement(key: PrivateKey) -> bytes:
    """Return the payload of the global request that names ``key``."""
    return string(ANNOUNCE) + boolean(False) + string(key.public.blob)


def proof(key: PrivateKey, session_id: bytes, request: bytes, signature: bytes) -> bytes | None:
    """Return the signature that ``request``, the blob of a key, asks for; None refuses it.

    ``signature`` is the algorithm that signed the key exchange: an RSA key uses it again.
    """
    try:
        reader = Reader(request)
        blob = reader.string()
        reader.end()
    except ProtocolError:
        return None
    if blob != key.public.blob:
        return None
    text = string(PROVE) + string(session_id) + string(blob)
    same = key.public.type == RSA and signature in (RSA_SHA256, RSA_SHA512)
    return string(key.sign(text, signature if same else None))
