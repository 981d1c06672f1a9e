"""Invariant: any bytes make packets or a ProtocolError; what is opened was there, in order."""

from __future__ import annotations

from tele.errors import ProtocolError
from tele.wire.ciphers import CIPHERS, MACS, Secrets, needs_mac
from tele.wire.packets import Opener, PlainOpener

SECRETS = Secrets(b"k", b"h", b"s")
LIMIT = 35000


def openers() -> list[Opener]:
    """A fresh opener of each kind."""
    under_keys = [
        SECRETS.opener(cipher, True, LIMIT, 0, mac)
        for cipher in CIPHERS
        for mac in (MACS if needs_mac(cipher) else (b"",))
    ]
    return [PlainOpener(LIMIT), *under_keys]


def check(data: bytes) -> None:
    """Hold the invariant for ``data``."""
    room = memoryview(bytearray(LIMIT + 64))
    for opener in openers():
        at = 0
        try:
            while taken := opener.open(memoryview(data), at, len(data), room):
                assert 16 <= taken <= len(data) - at
                assert 2 <= opener.payload_end <= taken
                at += taken
        except ProtocolError:
            continue
        assert opener.octets == at
