"""Invariant: what an agent sends is one answer, read whole within limits, or a ProtocolError."""

from __future__ import annotations

from attempts import Dice, main
from tele.errors import ProtocolError
from tele.wire import agent
from tele.wire.fields import string, uint32

GOOD = [
    string(bytes((agent.IDENTITIES_ANSWER,)) + uint32(2) + (string(b"key") + string(b"text")) * 2),
    string(bytes((agent.SIGN_RESPONSE,)) + string(string(b"ssh-ed25519") + string(b"s" * 64))),
    string(bytes((agent.FAILURE,))),
]


def check(received: bytes) -> None:
    """Hold the invariant for what was received."""
    try:
        message = agent.take_message(received)
    except ProtocolError:
        return
    if message is None:
        assert len(received) < 4 + agent.MESSAGE_LIMIT
        return
    assert received[4:].startswith(message)
    assert 0 < len(message) <= agent.MESSAGE_LIMIT
    for read in (agent.read_identities, agent.read_signature):
        try:
            found = read(message)
        except ProtocolError:
            continue
        size = sum(map(len, found)) if isinstance(found, tuple) else len(found)
        assert size < len(message)


def attempt(dice: Dice) -> None:
    """An answer with damage."""
    check(dice.damaged(dice.choice(GOOD), 3) + dice.bytes_up_to(8))


if __name__ == "__main__":
    main(attempt)
