"""Invariant: any bytes are a KEXINIT whose names are as sent, or a ProtocolError."""

from __future__ import annotations

from attempts import Dice, main
from tele.errors import ProtocolError
from tele.wire.negotiation import make_kexinit, negotiate, parse_kexinit

OURS = make_kexinit((b"curve25519-sha256",), (b"ssh-ed25519",), bytes(16))
SEED = OURS.payload[1:]


def check(data: bytes) -> None:
    """Hold the invariant for ``data``."""
    try:
        theirs = parse_kexinit(data)
        agreement = negotiate(theirs, OURS)
    except ProtocolError:
        return
    assert theirs.payload[1:] == data
    assert agreement.kex in OURS.kex
    assert agreement.kex in theirs.kex
    assert agreement.cipher_to_client in theirs.ciphers_to_client


def attempt(dice: Dice) -> None:
    """A good KEXINIT with damage."""
    check(dice.damaged(SEED, 8))


if __name__ == "__main__":
    main(attempt)
