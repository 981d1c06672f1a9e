"""Invariant: any bytes make packets or a ProtocolError; what is opened was there, in order."""

from __future__ import annotations

from attempts import Dice, main
from tele.errors import ProtocolError
from tele.wire.ciphers import CIPHERS, MACS, Secrets, needs_mac
from tele.wire.packets import PADDING_SIZE, Opener, PlainOpener, PlainSealer, Sealer

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
    buffer = memoryview(bytearray(LIMIT + 64))
    for opener in openers():
        at = 0
        try:
            while taken := opener.open(memoryview(data), at, len(data), buffer):
                assert 16 <= taken <= len(data) - at
                assert 2 <= opener.payload_end <= taken
                at += taken
        except ProtocolError:
            continue
        assert opener.octets == at


def sealed(dice: Dice) -> bytes:
    """Good packets of one of the formats, one after the other."""
    cipher = dice.choice(CIPHERS)
    mac = dice.choice(MACS) if needs_mac(cipher) else b""
    sealer: Sealer = PlainSealer()
    if dice.random() < 0.8:
        sealer = SECRETS.sealer(cipher, True, bytes(PADDING_SIZE), 0, mac)
    out = memoryview(bytearray(1 << 16))
    end = 0
    for _ in range(dice.randint(1, 4)):
        end = sealer.seal(dice.bytes_up_to(400) or b"x", out, end)
    return bytes(out[:end])


def attempt(dice: Dice) -> None:
    """Good packets with damage, or noise behind a length."""
    if dice.random() < 0.7:
        check(dice.damaged(sealed(dice)))
    else:
        check(dice.number().to_bytes(4, "big") + dice.bytes_up_to(300))


if __name__ == "__main__":
    main(attempt)
