"""Invariant: any bytes are a version line as it was sent, a part of one, or a ProtocolError;
however they are cut, the answer is the same.
"""

from __future__ import annotations

from attempts import Dice, main
from tele.errors import ProtocolError
from tele.wire.version import LINE_LIMIT, PREAMBLE_LIMIT, take_version


def check(data: bytes, from_server: bool) -> None:
    """Hold the invariant for ``data``."""
    whole = outcome(data, from_server)
    for end in range(len(data)):
        part = outcome(data[:end], from_server)
        if part is None:
            assert end < LINE_LIMIT + (PREAMBLE_LIMIT + LINE_LIMIT if from_server else 0)
        else:
            assert part == whole
            break
    if isinstance(whole, tuple):
        line, taken = whole
        assert line.startswith(b"SSH-")
        assert data[:taken].endswith(b"\n")
        assert line in data[:taken]
        assert len(line) < LINE_LIMIT
        assert line.isascii()
        assert line.decode("ascii").isprintable()


def outcome(data: bytes, from_server: bool) -> tuple[bytes, int] | str | None:
    """What comes of ``data``; all errors are one."""
    try:
        return take_version(data, from_server)
    except ProtocolError:
        return "error"


SEEDS = [
    b"SSH-2.0-OpenSSH_9.2 Debian\r\n",
    b"SSH-1.99-x\n",
    b"Welcome\r\nto\r\nSSH-2.0-x y z\r\nmore",
    b"SSH-2.0-" + b"x" * 250 + b"\r\n",
    b"GET / HTTP/1.0\r\n\r\n",
]


def attempt(dice: Dice) -> None:
    """A line, or lines, with damage."""
    check(dice.damaged(dice.choice(SEEDS)), dice.random() < 0.5)


if __name__ == "__main__":
    main(attempt)
