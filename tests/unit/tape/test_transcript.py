"""What a terminal showed, line by line: what its reader sees, and what cannot be hidden."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tele.model.frame import Frame, FrameKind
from tele.tape.exports.text import text

PTY = {"kind": "shell", "pty": {"columns": 40, "rows": 6}}
SECOND = 10**9


def shown(*output: bytes | tuple[float, bytes], times: bool = False) -> str:
    """The text of a terminal that got this, at once or at these seconds."""
    frames = [Frame(0, 1, FrameKind.OPEN, json.dumps(PTY).encode())]
    for each in output:
        at, data = (0.0, each) if isinstance(each, bytes) else each
        frames.append(Frame(int(at * SECOND), 1, FrameKind.OUTPUT, data))
    return "".join(text(frames, times=times))


def test_lines_are_given_as_they_stood() -> None:
    """Corrections, colours and progress of a line leave what was there at its end."""
    assert shown(b"$ lss\b \b -l\r\n\x1b[31mred\x1b[0m\r\n") == "$ ls -l\nred\n"
    assert shown(b"10%\r50%\r100%\r\n\r\nnext") == "100%\n\nnext\n"
    assert shown(b"".join(b"%d\r\n" % n for n in range(20))) == "".join(f"{n}\n" for n in range(20))


def test_a_long_line_is_one_line() -> None:
    """However often the terminal wraps it; of 10 MB, in pieces."""
    assert shown(b"x" * 1000 + b"\r\nend") == "x" * 1000 + "\nend\n"
    assert shown(*[b"y" * 100_000] * 10, b"\r\n") == "y" * 1_000_000 + "\n"


def test_what_stood_for_a_second_is_not_lost() -> None:
    """Overwritten, erased, scrolled within margins, cleared, or drawn by a full-screen program."""
    for hides in (
        b"\r\x1b[Kharmless",
        b"\x1b[2J\x1b[Hharmless",
        b"\x1bcharmless",
        b"\x15\rharmless!",
    ):
        found = shown((0, b"secret"), (2, hides), (2.1, b"\r\n"))
        assert found.splitlines()[:2] == ["secret", "harmless!" if b"!" in hides else "harmless"]
    drawn = shown(
        (0, b"$ vi\r\n\x1b[?1049h\x1b[Hfirst\x1b[3;5Hsecond"), (3, b"\x1b[H\x1b[Kthird"),
        (5, b"\x1b[?1049l$ "),
    )  # fmt: skip
    assert drawn == "$ vi\nfirst\n    second\nthird\n$\n"
    assert shown((0, b"above\r\n\x1b[A"), (2, b"\x1b[Mbelow")) == "above\nbelow\n"


def test_lines_that_scroll_away_at_once_are_given() -> None:
    """Whatever control function scrolls, and whatever erases the scrollback after it."""
    index = b"".join(b"line %d\x1bD\r" % n for n in range(200))
    assert shown(index).splitlines() == [f"line {n}" for n in range(200)]
    assert "hidden" in shown(b"hidden\r\n" + b"\x1b[99S\x1b[3J" * 50)
    assert "hidden" in shown(b"hidden" + b"\x1b[99S\x1b[3J\x1bc" * 50)


def test_lines_that_are_rewritten_are_given_again_when_they_stay() -> None:
    """Not each of a thousand updates of a progress display."""
    updates = [(n / 100, b"\x1b[A\r%03d\x1b[K\r\n" % n) for n in range(1, 300)]
    assert shown((0, b"000\r\n"), *updates) == "000\n299\n"


def test_times() -> None:
    """Each line has the time at which it was finished, or at which it stood."""
    said = shown((0.5, b"one\r\ntw"), (61.25, b"o\r\nthree"), times=True)
    assert said.splitlines() == ["[0:00:00.500] one", "[0:01:01.250] two", "[0:01:01.250] three"]


def test_a_resize_keeps_what_it_scrolls_away() -> None:
    """A smaller window."""
    frames = [
        Frame(0, 1, FrameKind.OPEN, json.dumps(PTY).encode()),
        Frame(1, 1, FrameKind.OUTPUT, b"one\r\ntwo\r\nthree\r\nfour"),
        Frame(2, 1, FrameKind.RESIZE, b'{"columns": 20, "rows": 2}'),
        Frame(3, 1, FrameKind.RESIZE, b'{"columns": "x"}'),
        Frame(4, 1, FrameKind.OUTPUT, b"\r\nfive"),
        Frame(5, 1, FrameKind.CLOSE, b"{}"),
        Frame(6, 1, FrameKind.OUTPUT, b"six"),
    ]
    assert "".join(text(frames)) == "one\ntwo\nthree\nfour\nfive\nsix"


@given(st.lists(st.tuples(st.floats(0, 5), st.binary(max_size=80)), max_size=8))
def test_any_bytes(parts: list[tuple[float, bytes]]) -> None:
    """No recorded bytes reach the reader's terminal as more than text."""
    at, output = 0.0, []
    for seconds, data in parts:
        at += seconds
        output.append((at, data))
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", shown(*output, times=True))


@pytest.mark.parametrize("letters", [b"\xff\xfe", b"\xc3", "\u202e\u2800x".encode()])
def test_bytes_that_are_no_text(letters: bytes) -> None:
    """Invalid UTF-8 shows as such; what reorders or hides does not."""
    said = shown(b"a" + letters + b"b\r\n")
    assert said.startswith("a")
    assert said.endswith("b\n")
    assert "\u202e" not in said
