"""What of a session's output reaches the terminals of those who watch it?"""

from __future__ import annotations

import random

import pytest

from tele.terminal.watching import SEQUENCE_LIMIT, WatchedOutput

#: What is shown, colours, the cursor, screens and modes pass.
HARMLESS = [
    b"plain text\r\n\ttabs\x07",
    "größer ☃ \N{EURO SIGN}".encode(),
    b"\x1b[1;31mred\x1b[0m",
    b"\x1b[2J\x1b[H\x1b[10;20Hx\x1b[?25l",
    b"\x1b[?1049h\x1b[?2004h\x1b[?1000h",
    b"\x1b(B\x1b)0\x1b7\x1b8\x1bM\x1b=\x1b>",
    b"\x1b[3 q",
    b"\x1b[4:3m\x1b[38;2;1;2;3m",
    b"\x1b[u\x1b[s",
]
#: What a terminal answers, or what changes more than its screen.
ANSWERED = {
    "status": b"\x1b[6n",
    "private status": b"\x1b[?6n",
    "attributes": b"\x1b[c",
    "secondary attributes": b"\x1b[>c",
    "tertiary attributes": b"\x1b[=c",
    "identify": b"\x1bZ",
    "parameters": b"\x1b[x",
    "title": b"\x1b[21t",
    "window": b"\x1b[8;50;200t",
    "mode": b"\x1b[?2026$p",
    "checksum": b"\x1b[1;1;1;1;1;1*y",
    "version": b"\x1b[>q",
    "keyboard": b"\x1b[?u",
    "modifiers": b"\x1b[?4m",
    "enquiry": b"\x05",
    "clipboard": b"\x1b]52;c;aGk=\x07",
    "colour": b"\x1b]11;?\x1b\\",
    "set title": b"\x1b]0;title\x07",
    "setting": b"\x1bP$qm\x1b\\",
    "tmux": b"\x1bPtmux;\x1b\x1b]52;c;aGk=\x07\x1b\\",
    "application": b"\x1b_Gi=1,a=q;AAAA\x1b\\",
    "eight bits": b"\xc2\x9b6n"[:2],
}


@pytest.mark.parametrize("data", HARMLESS)
def test_a_screen_passes(data: bytes) -> None:
    """Byte for byte, in one piece or in many."""
    assert WatchedOutput().feed(data) == data
    pieces = WatchedOutput()
    assert b"".join(pieces.feed(data[at : at + 1]) for at in range(len(data))) == data


@pytest.mark.parametrize("name", list(ANSWERED))
def test_what_is_answered_does_not(name: str) -> None:
    """Neither in one piece nor in many; what is around it does."""
    data = b"a" + ANSWERED[name] + b"b"
    shown = b"ab" if name != "tmux" else None
    whole = WatchedOutput().feed(data)
    pieces = WatchedOutput()
    apart = b"".join(pieces.feed(data[at : at + 1]) for at in range(len(data)))
    for passed in (whole, apart):
        assert ANSWERED[name] not in passed
        assert b"\x1b]" not in passed
        assert b"\x1bP" not in passed
        assert shown in (None, passed)


def test_controls_within_a_sequence_do_not_hide_it() -> None:
    """A terminal executes control characters within a sequence, and goes on reading it."""
    for data in (b"\x1b[\n6n", b"\x1b\x1b[6n", b"\x1b[6\x1b[6n", b"\x1b]0;\x18\x1b[6n"):
        assert b"\x1b[6n" not in WatchedOutput().feed(data)
        assert b"\x1b" not in WatchedOutput().feed(data)


def test_what_waits_is_bounded() -> None:
    """A sequence without an end is text after a while, and a string without an end is nothing."""
    output = WatchedOutput()
    assert output.feed(b"\x1b[" + b"1" * SEQUENCE_LIMIT) == b"[" + b"1" * SEQUENCE_LIMIT
    for _ in range(100):
        assert output.feed(b"\x1b]52;" + b"A" * 10_000) == b""
    assert len(output._rest) <= 1
    assert output.feed(b"\x07after") == b"after"


def test_pieces_do_not_matter() -> None:
    """However output is cut into pieces, the same passes."""
    alphabet = [b"\x1b", b"[", b"]", b"P", b"?", b"6", b"n", b"c", b"\x07", b"\\", b"x", b"\xc2",
                b"\x9b", b";", b"$", b" "]  # fmt: skip
    choose = random.Random(7)
    for _ in range(3000):
        data = b"".join(choose.choices(alphabet, k=12))
        whole = WatchedOutput().feed(data + b"\x18.")
        pieces, passed, at = WatchedOutput(), b"", 0
        data += b"\x18."
        while at < len(data):
            size = choose.randint(1, 4)
            passed += pieces.feed(data[at : at + size])
            at += size
        assert passed == whole, data
