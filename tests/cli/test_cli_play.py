"""A replay in a real terminal: what it leaves there."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tele.cli.player import Player
from tele.cli.positions import KeptPositions
from tele.model.codec import encode
from tele.model.frame import Frame, FrameKind
from tele.model.session import RecordingStart
from tele.recording.playback import Source, from_file, schedule
from tele.tape.file import write_file
from tele.tape.writer import TapeWriter
from tele_command import Cluster, Tele
from test_cli_player import FakeDisplay

START = RecordingStart(
    "5b8b6f2e-6a0c-4c8e-9a53-2f7d5d2d9a11", "ssh", "c", "alice", "root", ("access",), "s", "web1",
    "5b8b6f2e-6a0c-4c8e-9a53-2f7d5d2d9a22", "192.0.2.1:1",
    datetime(2026, 11, 24, 12, tzinfo=UTC),
)  # fmt: skip
PTY = {"kind": "shell", "command": "", "pty": {"term": "vt", "columns": 80, "rows": 24}}
#: A full-screen program, with a scroll region and mouse reports, that ends; then a shell that does.
SESSION = (
    b"$ vim\r\n\x1b[?1049h\x1b[2J\x1b[1;5r\x1b[?1002h\x1b[1;1Htext of the file"
    b"\x1b[?1049l\r$ second\r\n$ third\r\n$ exit\r\nlogout\r\n"
)


def recording(path: Path, output: list[bytes], seconds: float = 0.001) -> str:
    """Write a recording of a terminal's output, not closed; return the file's name.

    ``seconds`` pass before each but the first.
    """
    writer = TapeWriter()
    writer.add(Frame(0, 0, FrameKind.START, encode(START)))
    writer.add(Frame(0, 1, FrameKind.OPEN, json.dumps(PTY).encode()))
    for number, data in enumerate(output):
        writer.add(Frame(1000 + int(number * seconds * 1e9), 1, FrameKind.OUTPUT, data))
    cut = writer.cut(last=True)
    assert cut is not None
    source = Source(START.id, START, None, lambda: iter((cut[1],)))
    path.write_bytes(b"".join(write_file(source.blobs())))
    return str(path)


def until(found: Callable[[], bool]) -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + 60
    while not found():
        assert time.monotonic() < deadline, "it does not come"
        time.sleep(0.05)


class Tmux:
    """A terminal of the size 80x24 that runs one command in ``sh`` and stays."""

    def __init__(self, tele: Tele, socket: Path, command: str) -> None:
        self._tele = tele
        self._words = ["tmux", "-S", str(socket), "-f", "/dev/null"]
        self.ask("new", "-d", "-x", "80", "-y", "24", f"{command}; echo 'after'; exec bash --norc")

    def __enter__(self) -> Tmux:
        return self

    def __exit__(self, *_: object) -> None:
        self.ask("kill-server")

    def ask(self, *words: str) -> str:
        return subprocess.run(
            [*self._words, *words], env=self._tele.environment | {"TERM": "xterm-256color"},
            capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip

    def lines(self) -> list[str]:
        return self.ask("capture-pane", "-p").split("\n")

    def shows(self, text: str) -> bool:
        return text in self.ask("capture-pane", "-p")

    def keys(self, *keys: str) -> None:
        self.ask("send-keys", *keys)

    def modes(self) -> str:
        """What of a terminal's state a program may have left behind."""
        flags = (
            "alternate_on", "mouse_any_flag", "keypad_cursor_flag", "keypad_flag", "insert_flag",
            "origin_flag", "scroll_region_upper", "scroll_region_lower",
        )  # fmt: skip
        return self.ask("display", "-p", " ".join(f"#{{{flag}}}" for flag in flags)) + self.ask(
            "display", "-p", "#{wrap_flag} #{cursor_flag} #{pane_title}"
        )

    def attributes(self) -> str:
        """What ``stty -a`` says of the pane's terminal."""
        device = self.ask("display", "-p", "#{pane_tty}").strip()
        with open(device) as terminal:
            return subprocess.run(
                ["stty", "-a"], stdin=terminal, capture_output=True, text=True, check=True
            ).stdout


def non_blank(tmux: Tmux) -> list[str]:
    """Return the lines with text."""
    return [line.rstrip() for line in tmux.lines() if line.strip()]


needs_tmux = pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is not installed")
#: Everything that a program may switch on, and the questions that terminals answer.
HOSTILE = (
    b"\x1b[?1049h\x1b[?1h\x1b=\x1b[?1000h\x1b[?1003h\x1b[?1006h\x1b[?1004h\x1b[?2004h\x1b[>4;2m\x1b[>1u"
    b"\x1b[?25l\x1b[3;9r\x1b[?6h\x1b[4h\x1b[?7l\x1b[1;31;44m\x1b(0\x0e\x1b]2;evil\x07\x1b[22;2t"
    b"\x1b[c\x1b[>c\x1b[5n\x1b[6n\x1b]10;?\x07\x1b]52;c;?\x07\x1bP$qm\x1b\\\x1b[21t\x1bZ\x05\x1b[>q"
    b" full screen"
)


@needs_tmux
@pytest.mark.parametrize("data", [SESSION, SESSION[: SESSION.index(b"\x1b[?1049l")]])
def test_a_replay_leaves_what_it_showed(tele: Tele, tmp_path: Path, data: bytes) -> None:
    """What comes next is below what was shown, on the main screen, without mouse reports."""
    file = recording(tmp_path / "r.tape", [data])
    with Tmux(tele, tmp_path / "t", f"tele play {file}") as tmux:
        until(lambda: tmux.shows("after"))
        lines = tmux.lines()
        assert tmux.modes().startswith("0 0 0 0 0 0 0 23\n1 1 ")
        if data == SESSION:
            assert lines[lines.index("logout") + 1] == "after"
            assert {"$ second", "$ third", "$ exit"} <= set(lines)


@needs_tmux
@pytest.mark.parametrize("end", ["q", "C-c", "TERM", "HUP", "INT", "QUIT"])
def test_the_terminal_is_put_back_at_every_end(tele: Tele, tmp_path: Path, end: str) -> None:
    """By a key or a signal, while a full-screen program shows that has switched on everything: the
    modes, the title and the attributes are as they were, and nothing was typed by the terminal.
    """
    file = recording(tmp_path / "r.tape", [HOSTILE, b"x", b"y"], seconds=3600)
    start = "stty -a > before; tmux display -p '#{pane_title}' > /dev/null"
    with Tmux(tele, tmp_path / "t", f"cd {tmp_path}; {start}; tele play {file}") as tmux:
        until(lambda: tmux.shows("full screen"))
        assert tmux.modes().startswith("1 0 0 0 0 0 0 23\n0 ")  # drawn, and nothing else
        if end.isupper():
            pid = tmux.ask("display", "-p", "#{pane_pid}").strip()
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
            os.kill(int(children[0]), signal.Signals[f"SIG{end}"])
        else:
            tmux.keys(end)
        until(lambda: tmux.shows("after"))
        until(lambda: tmux.shows("bash"))
        assert tmux.modes().startswith("0 0 0 0 0 0 0 23\n1 1 ")
        assert "evil" not in tmux.modes()
        lines = [line for line in tmux.lines() if line]
        assert lines[-1].startswith("bash")
        assert lines[-1].endswith("#") or lines[-1].endswith("$")  # no query was answered
        assert "after" in lines[-2]


@needs_tmux
def test_stop_and_go_on(tele: Tele, tmp_path: Path) -> None:
    """Ctrl-Z gives the shell its terminal back, ``fg`` shows the session again."""
    file = recording(tmp_path / "r.tape", [HOSTILE, b"x", b"y"], seconds=3600)
    full = "full screen"
    with Tmux(tele, tmp_path / "t", "true") as tmux:
        until(lambda: tmux.shows("bash"))
        tmux.keys(f"tele play {file}", "Enter")
        until(lambda: tmux.shows(full))
        tmux.keys("C-z")
        until(lambda: tmux.shows("Stopped"))
        assert tmux.modes().startswith("0 0 0 0 0 0 0 23\n1 1 ")
        tmux.keys("fg", "Enter")
        until(lambda: tmux.shows(full) and not tmux.shows("Stopped"))
        tmux.keys("q")
        until(lambda: tmux.shows("Stopped") and not tmux.shows(full))
        tmux.keys("echo again", "Enter")
        until(lambda: "again" in tmux.lines())


@needs_tmux
def test_attributes_of_the_terminal_come_back(tele: Tele, tmp_path: Path) -> None:
    """What ``stty -a`` says after a replay is what it said before."""
    file = recording(tmp_path / "r.tape", [HOSTILE, b"x"], seconds=3600)
    say = "stty -a > $OUT"
    command = f"cd {tmp_path}; OUT=before; {say}; tele play {file}; OUT=after; {say}"
    with Tmux(tele, tmp_path / "t", command.replace("$OUT", '"$OUT"')) as tmux:
        until(lambda: tmux.shows("full screen"))
        tmux.keys("C-c")
        until(lambda: tmux.shows("bash"))
        assert (tmp_path / "after").read_text() == (tmp_path / "before").read_text()


@needs_tmux
@pytest.mark.parametrize("right", ["Right", "Right-application"])
def test_keys_that_are_held_while_a_program_shows(tele: Tele, tmp_path: Path, right: str) -> None:
    """Arrows are understood in whatever mode the terminal was left, and each of many counts."""
    shown = [HOSTILE, *(b"\x1b[H(%03d)" % n for n in range(1, 400))]
    file = recording(tmp_path / "r.tape", shown, seconds=2)
    before = "printf '\\033[?1h\\033='; " if right != "Right" else ""
    with Tmux(tele, tmp_path / "t", f"{before}tele play {file}") as tmux:
        until(lambda: tmux.shows("full screen"))
        tmux.keys(" ", *["Right"] * 20)
        until(lambda: tmux.shows("(099)") or tmux.shows("(100)"))
        tmux.keys(*["Left"] * 10)
        until(lambda: tmux.shows("(049)") or tmux.shows("(050)"))
        tmux.keys("?")
        until(lambda: tmux.shows("space pause"))
        tmux.keys("q")
        until(lambda: tmux.shows("after"))


@needs_tmux
def test_searching_and_pasting_in_a_terminal(tele: Tele, tmp_path: Path) -> None:
    """The status line shows where it is; what is pasted counts, also in brackets."""
    shown = [HOSTILE, *(b"\x1b[H(%03d)" % n for n in range(1, 400))]
    file = recording(tmp_path / "r.tape", shown, seconds=2)
    before = "printf '\\033[?2004h\\033[?1000h'; "
    with Tmux(tele, tmp_path / "t", f"{before}tele play {file}") as tmux:
        until(lambda: tmux.shows("full screen"))
        assert tmux.lines()[23].startswith(" playing 0:00:0")
        tmux.ask("set-buffer", " /(123)")
        tmux.ask("paste-buffer", "-p")
        until(lambda: tmux.shows("/(123)"))
        tmux.keys("Enter")
        until(lambda: tmux.shows("'(123)' at 0:04:06"))
        assert any("(123)" in line for line in tmux.lines()[:23])
        tmux.ask("resize-window", "-x", "40", "-y", "10")
        until(lambda: tmux.shows("part of 80x24") or tmux.shows("at 0:04:06"))
        tmux.keys("G")
        until(lambda: tmux.shows("end 0:13:"))
        tmux.keys("q")
        until(lambda: tmux.shows("after"))
        # What was on before is still on.
        assert tmux.ask("display", "-p", "#{mouse_any_flag}").strip() == "1"


@needs_tmux
def test_a_terminal_that_is_closed_ends_a_replay(tele: Tele, tmp_path: Path) -> None:
    """Nothing is left running."""
    file = recording(tmp_path / "r.tape", [HOSTILE, b"x"], seconds=3600)
    with Tmux(tele, tmp_path / "t", f"tele play {file}") as tmux:
        until(lambda: tmux.shows("full screen"))
        pid = tmux.ask("display", "-p", "#{pane_pid}").strip()
        child = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0]
    until(lambda: not Path(f"/proc/{child}").exists())


@needs_tmux
@pytest.mark.skipif(not shutil.which("vim") or not shutil.which("less"), reason="needs vim, less")
def test_a_real_session_looks_as_it_did(cluster: Cluster, tmp_path: Path) -> None:
    """Vim and less in a session on a node, with the window made larger and smaller meanwhile: the
    replay shows, one after another, what the user saw.
    """
    tele, node = cluster.tele, socket.gethostname()
    text = tmp_path / "text"
    text.write_text("".join(f"line {n} of a text with a tab\there\n" for n in range(300)))
    vim = f"vim -u NONE --cmd 'set nocp shm=aFI mouse=a ruler' {text}"
    command = f'tele ssh -t {node} "{vim}; less {text}"'
    seen: list[list[str]] = []
    with Tmux(tele, tmp_path / "t", command) as tmux:

        def expect_shown(text: str) -> None:
            until(lambda: tmux.shows(text))
            seen.append(non_blank(tmux))

        until(lambda: tmux.shows("Top"))
        tmux.keys("5j", "i", "hello ", "Escape", "C-f")
        expect_shown("line 22 ")
        tmux.ask("resize-window", "-x", "110", "-y", "40")
        until(lambda: any("line 22 " in each for each in tmux.lines()) and tmux.shows("line 57 "))
        tmux.keys("G")
        expect_shown("Bot")
        tmux.ask("resize-window", "-x", "70", "-y", "12")  # the ruler is beyond column 70 now,
        expect_shown("Bot")  # until it is drawn again
        tmux.keys(":q!", "Enter")
        until(lambda: tmux.shows("line 10 ") and not tmux.shows("Bot"))
        tmux.keys("G")
        expect_shown("(END)")
        tmux.keys("q")
        until(lambda: tmux.shows("after"))
    newest = tele.json("recordings", "ls")[0]["id"]
    until(lambda: tele.run("recordings", "verify", newest, status=None).returncode == 0)
    file = tmp_path / "session.tape"
    tele.run("recordings", "export", newest, file)
    display = FakeDisplay((120, 45), [])
    positions = KeptPositions(lambda: schedule(from_file(file).frames(), 0, None), display.size)
    Player(display, positions, 1.0, display.clock).run()
    for wanted in seen:
        assert wanted in [[line for line in lines[:-1] if line] for _, lines in display.seen]


def test_a_replay_needs_a_terminal(tele: Tele, tmp_path: Path) -> None:
    """Elsewhere the text is given, and what was recorded is not sent as it is on request."""
    file = recording(tmp_path / "r.tape", [SESSION])
    assert "needs a terminal" in tele.fails(2, "play", file, "--format", "pty")
    assert "\x1b" not in tele.run("play", file).stdout


def test_what_is_wrong_with_a_file_is_said_with_its_name(tele: Tele, tmp_path: Path) -> None:
    """A file of another kind, and one that is cut off."""
    other = tmp_path / "other.tape"
    other.write_bytes(b"root:x:0:0\n")
    assert f"{other}: not a .tape file" in tele.fails(2, "play", other)
    whole = Path(recording(tmp_path / "r.tape", [SESSION]))
    cut = tmp_path / "cut.tape"
    cut.write_bytes(whole.read_bytes()[:40])
    assert f"{cut}: the file is cut off" in tele.fails(1, "play", cut)
