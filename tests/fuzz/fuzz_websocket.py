"""Invariant: any bytes are a stream not longer than they are, or a ProtocolError, in any parts."""

from __future__ import annotations

from attempts import Dice, main
from tele.errors import ProtocolError
from tele.web.websocket import CONTROL_LIMIT, Control, FrameReader

SEEDS = (
    b"\x82\x85\1\2\3\4hello",
    b"\x02\x82\1\2\3\4ab\x89\x81\1\2\3\4?\x80\x82\1\2\3\4cd",
    b"\x82\xfe\0\x80\1\2\3\4" + bytes(128),
    b"\x82\xff\0\0\0\0\0\1\0\0\1\2\3\4" + bytes(300),
    b"\x88\x82\1\2\3\4\3\xe8",
)


def read(parts: list[bytes]) -> tuple[bytes, list[Control], bool]:
    """The stream, the control frames, and whether it ended with an error."""
    reader, stream, controls = FrameReader(), b"", []
    try:
        for part in parts:
            for found in reader.feed(part):
                if isinstance(found, Control):
                    controls.append(found)
                else:
                    stream += found
    except ProtocolError:
        return stream, controls, True
    return stream, controls, False


def check(data: bytes, step: int) -> None:
    """Hold the invariant for ``data``."""
    whole = read([data])
    assert whole == read([data[at : at + step] for at in range(0, len(data), step)])
    stream, controls, _ = whole
    assert len(stream) + sum(len(each.data) for each in controls) <= len(data)
    assert all(len(each.data) <= CONTROL_LIMIT for each in controls)


def attempt(dice: Dice) -> None:
    """Seeds one after the other, with damage."""
    data = dice.choice(SEEDS) + dice.choice(SEEDS)
    check(dice.damaged(data, 4), dice.choice((1, 2, 3, 7, 64)))


if __name__ == "__main__":
    main(attempt)
