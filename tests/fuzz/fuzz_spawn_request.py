"""Invariant: a request to the spawner is read to values of the right kinds, or ValueError."""

from __future__ import annotations

from attempts import Dice, main
from tele.spawner.spawn_messages import CLIENT_ENVIRONMENT, KINDS, NODE_ENVIRONMENT, Start, unpack


def check(data: bytes) -> None:
    """Hold the invariant for one message."""
    try:
        header, strings = unpack(data)
        start = Start(header, strings)
    except ValueError:
        return
    assert len(start.words) in KINDS[start.kind]
    assert type(start.login) is str
    assert type(start.pty) is bool
    for name, value in start.environment.items():
        assert CLIENT_ENVIRONMENT.fullmatch(name) or NODE_ENVIRONMENT.fullmatch(name)
        assert b"\0" not in value
        assert not name.startswith(("LD_", "PYTHON", "BASH"))


SEEDS = [
    b'{"kind":"exec","login":"a","pty":false,"words":1}\0ls\0LANG=C\0LC_ALL=C',
    b'{"kind":"shell","login":"a","pty":true,"words":0}\0TERM=xterm',
    b'{"kind":"sftp","login":"a","pty":false,"words":0}\0LD_PRELOAD=x',
    b'{"kind":"forced","login":"a","pty":false,"words":1}\0backup\0TELE_USER=a',
    b'{"kind":"program","login":"a","pty":false,"words":2}\0a\0b',
]


def attempt(dice: Dice) -> None:
    """A request with damage."""
    check(dice.damaged(dice.choice(SEEDS), 6))


if __name__ == "__main__":
    main(attempt)
