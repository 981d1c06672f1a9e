"""What can be found in a session: its commands, its files, and what the terminal showed."""

from __future__ import annotations

import pytest

from recorded_sessions import Built, chunks_of, frame, opened, read_all
from tele.model.api.search import LONGEST
from tele.model.frame import FrameKind
from tele.snapshots.builder import OVERLAP, pieces
from tele.snapshots.ghostty import GhosttyTerminal
from tele.snapshots.terminals import MakeTerminal, OwnTerminal
from tele.tape.index import MARK_LIMIT, MarkKind
from test_snapshots_keyframes import BOTH

PROMPT = b"\x1b]133;A\x07$ \x1b]133;B\x07"


@pytest.mark.parametrize("make", BOTH)
def test_lines_are_what_the_terminal_showed(make: MakeTerminal) -> None:
    """Escape sequences split a word on the wire, not on the screen; a wrapped line is found."""
    frames = [opened(), frame(3, FrameKind.OUTPUT, b"DR\x1b[31mOP TA\x1b[0mBLE x;\r\nnext\r\n")]
    frames.append(frame(9, FrameKind.OUTPUT, b"\x1b[2Jlater one\r\n"))
    built = Built(read_all(chunks_of(frames)), make)
    assert (3.0, 1, "DROP TABLE x;") in built.lines
    assert (9.0, 1, "later one") in built.lines


@pytest.mark.parametrize("make", BOTH)
def test_a_screen_that_is_drawn_again_adds_nothing(make: MakeTerminal) -> None:
    """A program that shows the same for an hour is in the text once."""
    frames = [opened(), frame(0, FrameKind.OUTPUT, b"\x1b[?1049h")]
    for second in range(1, 3600, 5):
        frames.append(frame(second, FrameKind.OUTPUT, b"\x1b[Hthe same\r\nthe other"))
    built = Built(read_all(chunks_of(frames)), make)
    assert sorted(built.text) == ["the other", "the same"]


@pytest.mark.parametrize("make", BOTH)
def test_scrolled_output_is_there_once(make: MakeTerminal) -> None:
    """Lines that scroll out are there, in order and once, whether they are read early or late."""
    frames = [opened()]
    for number in range(300):
        frames.append(frame(number * 0.4, FrameKind.OUTPUT, b"line %04d\r\n" % number))
    built = Built(read_all(chunks_of(frames)), make)
    assert built.text == [f"line {number:04d}" for number in range(300)]


@pytest.mark.parametrize("make", BOTH)
def test_commands_at_a_marked_prompt(make: MakeTerminal) -> None:
    """OSC 133: the command is what the terminal shows of it, with corrections and wrapped lines."""
    long = "echo " + "word " * 30
    frames = [opened(), frame(1, FrameKind.OUTPUT, PROMPT + b"sl\b\b\x1b[Kls -l\r\n\x1b]133;C\x07")]
    frames.append(frame(2, FrameKind.OUTPUT, b"total 0\r\n\x1b]133;D;0\x07" + PROMPT))
    frames.append(frame(3, FrameKind.OUTPUT, long.encode() + b"\r\n\x1b]13"))
    frames.append(frame(4, FrameKind.OUTPUT, b"3;C\x1b\\out\r\n" + PROMPT))
    frames.append(frame(5, FrameKind.OUTPUT, b"x\r\n\x1b]133;C;cmdline_url=git%20log\x07"))
    built = Built(read_all(chunks_of(frames)), make)
    marks = [(m.time // 10**9, m.kind, m.text) for m in built.index.marks]
    assert marks == [
        (1, MarkKind.PROMPT, "ls -l"),
        (4, MarkKind.PROMPT, long.strip()),
        (5, MarkKind.PROMPT, "git log"),
    ]


def test_commands_and_files_are_marks() -> None:
    """An exec, a file and a forward are found by what the recording says of them."""
    frames = [
        opened(1, kind="exec", command="rm -rf /srv/x", pty=None),
        opened(2, 2, kind="subsystem", command="sftp", pty=None),
        frame(3, FrameKind.TRANSFER, {"op": "write", "direction": "upload", "path": "/tmp/a"}, 2),
        frame(4, FrameKind.TRANSFER, {"op": "rename", "path": "/tmp/a", "to": "/tmp/b"}, 2),
        frame(5, FrameKind.OPEN,
              {"kind": "forward", "forward": "direct-tcpip", "target": "db:5432"}, 3),
        frame(6, FrameKind.TRANSFER, {"op": "write", "path": "z" * 5000}, 2),
    ]  # fmt: skip
    built = Built(read_all(chunks_of(frames)), OwnTerminal)
    marks = [(mark.kind.name, mark.text) for mark in built.index.marks[:5]]
    assert marks == [
        ("EXEC", "rm -rf /srv/x"),
        ("EXEC", "subsystem sftp"),
        ("TRANSFER", "upload /tmp/a"),
        ("TRANSFER", "rename /tmp/a -> /tmp/b"),
        ("FORWARD", "direct-tcpip db:5432"),
    ]
    assert len(built.index.marks[5].text) == MARK_LIMIT


def test_output_without_a_terminal_is_text() -> None:
    """The output of an exec has line feeds alone, and is read as lines all the same."""
    frames = [opened(kind="exec", command="cat", pty=None)]
    frames.append(frame(1, FrameKind.OUTPUT, b"one two\nthree four\n"))
    for make in (OwnTerminal, GhosttyTerminal):
        assert Built(read_all(chunks_of(frames)), make).text == ["one two", "three four"]


@pytest.mark.parametrize("filler", ["x", "\u00e4", "\U0001f600"])
def test_attack_a_command_that_is_padded_is_found(filler: str) -> None:
    """Whatever is long before it, and wherever the text falls: it is in one mark."""
    assert LONGEST.limit == OVERLAP
    for before in (0, 1, 800, 824, 1000, 1023, 1024, 5000):
        wanted = "rm -rf /srv/" + "y" * 188
        text = filler * before + wanted + filler * 900
        frames = [opened(kind="exec", command=text, pty=None)]
        marks = Built(read_all(chunks_of(frames)), OwnTerminal).index.marks
        assert any(wanted in mark.text for mark in marks), before
        assert all(len(mark.text.encode()) <= MARK_LIMIT for mark in marks)
    assert [*pieces("")] == []
    assert [*pieces("ls")] == ["ls"]


def test_attack_open_channels_do_not_hide_what_another_shows() -> None:
    """With sixteen channels open and quiet, output and commands of further ones are found."""
    frames = [opened(0, number) for number in range(1, 20)]
    frames += [frame(1, FrameKind.OUTPUT, b"idle", number) for number in range(1, 17)]
    frames.append(frame(2, FrameKind.RESIZE, {"columns": 200, "rows": 5}, 18))
    long = b"x" * 120 + b" the end"
    frames += [
        frame(3, FrameKind.OUTPUT, b"DROP \x1b[1mTABLE users;\r\n", 17),
        frame(4, FrameKind.OUTPUT, long, 18),
        frame(5, FrameKind.OUTPUT, PROMPT + b"rm -rf /srv\r\n\x1b]133;C\x07", 19),
        frame(6, FrameKind.CLOSE, {}, 17),
    ]
    built = Built(read_all(chunks_of(frames)), OwnTerminal)
    assert (3.0, 17, "DROP TABLE users;") in built.lines
    assert (4.0, 18, long.decode()) in built.lines
    assert [(mark.channel, mark.text) for mark in built.index.marks] == [(19, "rm -rf /srv")]


def test_attack_many_channels_that_take_turns_are_bounded() -> None:
    """What channels without a terminal show is drawn in large pieces, and all of it is found."""
    made = []

    def make(columns: int, rows: int, newline: bool) -> OwnTerminal:
        made.append(newline)
        return OwnTerminal(columns, rows, newline)

    frames = [opened(0, number) for number in range(1, 27)]
    for line in range(400):
        frames += [
            frame(line, FrameKind.OUTPUT, b"%d of %d %s\r\n" % (line, channel, b"-" * 70), channel)
            for channel in range(17, 27)
        ]  # fmt: skip
    built = Built(read_all(chunks_of(frames)), make)
    assert len(built.lines) == 4000
    assert len(made) <= 16 + 2 * 10


def test_attack_marks_that_output_makes_hide_no_command() -> None:
    """However many prompts a program pretends, in many or in long marks, commands and files that
    follow are marks; the tables stay readable.
    """
    for prompt in (b"x", b"y" * 1000):
        fake = PROMPT + prompt + b"\x1b]133;C\x07\r\x1b[K"
        flood = [frame(1, FrameKind.OUTPUT, fake * 10) for _ in range(20)]
        frames = [opened(), *flood, opened(2, 2, kind="exec", command="rm -rf /", pty=None)]
        frames.append(frame(3, FrameKind.TRANSFER, {"op": "write", "path": "/tmp/a"}, 2))
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr("tele.snapshots.builder.MARKS", 100)
            patched.setattr("tele.snapshots.builder.MARK_TEXTS", 1 << 15)
            marks = Built(read_all(chunks_of(frames)), OwnTerminal).index.marks
        assert [mark.text for mark in marks[-2:]] == ["rm -rf /", "write /tmp/a"]
        assert 20 < len(marks) <= 102
