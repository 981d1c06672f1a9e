"""What does a server prove itself with, where a plain key is looked at, too?"""

from __future__ import annotations

from attrs import frozen

from tele.certs.algorithms import KEY_TYPES
from tele.certs.certificate import Certificate, parse_certificate
from tele.certs.keys import PublicKey, parse_public_key
from tele.errors import BadCertificate, ProtocolError
from tele.wire.fields import Reader


@frozen
class PlainHostKey:
    """A host key where the engine expects a certificate."""

    key: PublicKey

    @property
    def type(self) -> bytes:
        """Its type."""
        return self.key.type

    @property
    def blob(self) -> bytes:
        """Its SSH encoding."""
        return self.key.blob


def parse_host_key(blob: bytes) -> Certificate | PlainHostKey:
    """Return the :class:`Certificate` or :class:`PlainHostKey`. Raises :class:`BadCertificate`."""
    try:
        kind = Reader(blob).string(64)
    except ProtocolError:
        raise BadCertificate("the host key is malformed", "malformed") from None
    return parse_certificate(blob) if kind in KEY_TYPES else PlainHostKey(parse_public_key(blob))
