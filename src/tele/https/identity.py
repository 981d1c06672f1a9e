"""With which certificate does a program speak TLS?"""

from __future__ import annotations

from pathlib import Path

from attrs import field, frozen

#: The only TLS hosts that the API has: auth, and a proxy that passes the stream on to auth.
#: Said in ALPN, so that a proxy knows what to do before anything is decrypted.
ALPN = ("tele-auth", "http/1.1")


@frozen
class TlsIdentity:
    """A certificate (PEM, leaf first) and its private key (PEM, PKCS #8, not encrypted)."""

    certificate: str
    key: bytes = field(repr=False)


@frozen
class TlsFiles:
    """The same as :class:`TlsIdentity`, in files."""

    certificate: Path
    key: Path
