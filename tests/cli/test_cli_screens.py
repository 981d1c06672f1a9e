"""Real sessions on a node replay to the screen of the original, as another terminal has it.

What the user's terminal received is written to @xterm/headless; what was recorded, to tele's own.
At each point at which the user looked both have to show the same: text, styles and cursor.
"""

from __future__ import annotations

import fcntl
import os
import pty
import select
import shutil
import signal
import socket
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest
from attrs import define, field

from independent_terminal import IndependentTerminal, as_shown, as_text
from tele.model.api.operation import Octets
from tele.model.frame import FrameKind
from tele.recording.playback import Step, from_file, schedule
from tele.recording.seek import IndexedRecording
from tele.snapshots.builder import IndexBuilder
from tele.snapshots.terminals import MakeTerminal, OwnTerminal
from tele.tape.details import details, terminal
from tele.tape.index import read_index
from tele.tape.layout import read_chunk
from tele.terminal.emulator import Emulator
from tele.terminal.screen import Screen
from tele_command import BIN, Cluster

pytestmark = pytest.mark.skipif(not shutil.which("ssh"), reason="needs OpenSSH's client")
SIZE = (90, 28)
#: A terminal is quiet when nothing came for so many seconds.
QUIET = 0.7


@define
class Session:
    """A user's terminal, and what it received: bytes, and sizes that it got."""

    descriptor: int
    process: int
    received: list[bytes | tuple[int, int]] = field(factory=list)
    #: Where the user looked: how many entries of ``received`` there were.
    looks: list[int] = field(factory=list)

    @classmethod
    def start(cls, cluster: Cluster, command: str) -> Session:
        process, descriptor = pty.fork()
        if process == 0:
            environment = cluster.tele.environment | {"TERM": "xterm-256color"}
            words = [str(BIN / "tele"), "ssh", "-t", socket.gethostname(), command]
            fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", SIZE[1], SIZE[0], 0, 0))
            os.execve(words[0], words, environment)
        return cls(descriptor, process)

    def read(self, seconds: float) -> bool:
        """Read once; False at the end, or if nothing comes."""
        if not select.select([self.descriptor], [], [], seconds)[0]:
            return False
        try:
            data = os.read(self.descriptor, 65536)
        except OSError:  # the session has ended
            return False
        self.received.append(data)
        return bool(data)

    @property
    def text(self) -> str:
        return b"".join(e for e in self.received if isinstance(e, bytes)).decode("utf-8", "replace")

    def until(self, text: str) -> None:
        """Wait for a text that comes from now on, and until the terminal is quiet; look at it."""
        before, deadline = len(self.text), time.monotonic() + 60
        while text not in self.text[before:]:
            assert time.monotonic() < deadline, self.text[-2000:]
            self.read(1)
        while self.read(QUIET):
            assert time.monotonic() < deadline
        self.looks.append(len(self.received))

    def look(self, seconds: float) -> None:
        """Look after some time, whatever comes."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self.read(0.2)
        self.looks.append(len(self.received))

    def type(self, keys: str) -> None:
        os.write(self.descriptor, keys.encode())

    def resize(self, columns: int, rows: int) -> None:
        self.received.append((columns, rows))
        fcntl.ioctl(self.descriptor, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def close(self) -> None:
        """Wait for the end."""
        deadline = time.monotonic() + 30
        while os.waitpid(self.process, os.WNOHANG) == (0, 0):
            if time.monotonic() > deadline:
                os.kill(self.process, signal.SIGKILL)  # others may be ignored, as below nohup
            self.read(0.1)
        os.close(self.descriptor)


def recorded(cluster: Cluster, tmp_path: Path) -> Path:
    """Return the recording of the last session, as a file."""
    deadline = time.monotonic() + 60
    newest = cluster.tele.json("recordings", "ls")[0]["id"]
    while cluster.tele.run("recordings", "verify", newest, status=None).returncode:
        assert time.monotonic() < deadline, "it is not complete"
        time.sleep(0.2)
    file = tmp_path / "session.tape"
    cluster.tele.run("recordings", "export", newest, file)
    return file


def originals(session: Session) -> list[tuple[int, dict[str, Any]]]:
    """What the other terminal shows at each look, and after how many bytes that was."""
    found, count = [], 0
    with IndependentTerminal(*SIZE) as other:
        for number, each in enumerate([*session.received, b""]):
            if number in session.looks:
                found.append((count, other.shows()))
            if isinstance(each, tuple):
                other.resize(*each)
            else:
                other.feed(each)
                count += len(each)
    return found


def replayed(file: Path, counts: Sequence[int]) -> list[tuple[float, int, dict[str, Any]]]:
    """What the replay shows when so many bytes of output have come; the time of that frame, and how
    many bytes of it were not shown yet.
    """
    emulator, left, count = Emulator(Screen(*SIZE)), list(counts), 0
    found = []
    for step in schedule(from_file(file).frames(), 0, None):
        data = resized_by(step, emulator)
        while left and count + len(data) >= left[0]:
            some = left[0] - count
            emulator.feed(data[:some])
            data, count = data[some:], left.pop(0)
            found.append((step.at, len(data), as_shown(emulator.screen)))
        emulator.feed(data)
        count += len(data)
    return found


def resized_by(step: Step, emulator: Emulator) -> bytes:
    """Return the output of a step; if it changes the size, do so."""
    frame = step.frame
    if frame.kind is FrameKind.OUTPUT:
        return frame.data
    size = details(frame) if frame.kind is FrameKind.RESIZE else terminal(details(frame))
    emulator.screen.resize(size["columns"], size["rows"])
    return b""


class Indexed:
    """The file as auth would have it, with an index that ``make`` made."""

    def __init__(self, file: Path, make: MakeTerminal) -> None:
        source = from_file(file)
        assert source.manifest is not None
        self._chunks = list(source.chunks())
        builder = IndexBuilder(make, lambda *_: None)
        for number, data in enumerate(self._chunks):
            builder.add(read_chunk(data, number))
        self._blob = builder.pack()
        self.recording = IndexedRecording(
            source.id, read_index(self._blob), source.manifest, frozenset(), self._perform
        )

    def _perform(self, operation: Any, request: Any) -> Octets:
        if operation.name == "get_index":
            return Octets(self._blob[request.start : request.end or None])
        return Octets(self._chunks[request.number])

    def at(self, time: float, unseen: int) -> dict[str, Any]:
        """What a player shows that seeks to the frame at ``time``, but for its last bytes."""
        position = self.recording.position(time)
        assert position.at <= time
        emulator = Emulator(Screen(position.columns, position.rows, newline=position.newline))
        emulator.feed(position.state)
        due = list(takewhile(lambda step: step.at <= time, position.steps))
        for number, step in enumerate(due):
            data = resized_by(step, emulator)
            emulator.feed(data[: len(data) - unseen] if number == len(due) - 1 else data)
        return as_shown(emulator.screen)


def makers() -> list[MakeTerminal]:
    """What makes keyframes: tele's own terminal, and the other one if it is installed."""
    if find_spec("pyghostty") is None:
        return [OwnTerminal]
    from tele.snapshots.ghostty import GhosttyTerminal

    return [OwnTerminal, GhosttyTerminal]


def differences(found: dict[str, Any], wanted: dict[str, Any]) -> list[object]:
    """Where two screens differ: cursor and size, then cells."""
    differ: list[object] = [
        (name, found[name], wanted[name])
        for name in ("columns", "rows", "row", "column")
        if found[name] != wanted[name]
    ]
    for row, (mine, others) in enumerate(zip(found["lines"], wanted["lines"], strict=True)):
        for what in ("texts", "styles"):
            differ += [
                (row, column, what, one, other)
                for column, (one, other) in enumerate(zip(mine[what], others[what], strict=True))
                if one != other
            ]
    return differ[:20]


def compare(cluster: Cluster, tmp_path: Path, session: Session) -> None:
    """Compare all looks: as the recording plays, and after seeking to each."""
    wanted = originals(session)
    file = recorded(cluster, tmp_path)
    found = replayed(file, [count for count, _ in wanted])
    assert len(found) == len(wanted) >= 2
    indexes = [Indexed(file, make) for make in makers()]
    for (_, original), (at, unseen, replay) in zip(wanted, found, strict=True):
        assert as_text(replay) == as_text(original)
        assert differences(replay, original) == []
        for index in indexes:
            sought = index.at(at, unseen)
            assert as_text(sought) == as_text(original)
            assert differences(sought, original) == []


def vim(session: Session, tmp_path: Path) -> None:
    """Editing, scrolling, splitting, syntax colours, wide characters."""
    session.until("Top")
    session.type("5ji\u6f22\u5b57 hello \x1b")
    session.until("hello")
    session.type("\x06")
    session.until("line")
    session.type(":vsplit\r:split\r")
    session.until("text.py")
    session.type(":syntax on\r:set number cursorline hlsearch\r/line\r")
    session.look(2)
    session.type("G")
    session.until("Bot")
    session.type(":qa!\r")


def resized(session: Session, tmp_path: Path) -> None:
    """Larger, smaller, in both directions, in a full-screen program and in a shell."""
    session.until("Top")
    for columns, rows in ((120, 40), (60, 12), (100, 9), (90, 28), (41, 30)):
        session.resize(columns, rows)
        session.look(2)
    session.type("G")
    session.look(2)
    session.resize(*SIZE)
    session.look(2)
    session.type(":qa!\r")


def htop(session: Session, tmp_path: Path) -> None:
    """Meters, colours, a menu, and lines that change all the time."""
    session.look(6)
    assert "PID" in session.text
    session.type("t")
    session.look(2)
    session.type("\x1b[B\x1b[B\x1b[6~")
    session.look(2)
    session.type("q")


def tmux(session: Session, tmp_path: Path) -> None:
    """Panes with borders, a status line, scroll regions, another full-screen program inside."""
    session.until("0:")
    session.type("seq 1 50; echo PANE''1\r")
    session.until("PANE1")
    session.type('\x02"')
    session.look(2)
    session.type("seq 100 180; echo PANE''2\r")
    session.until("PANE2")
    session.type("\x02%")
    session.look(2)
    session.type(f"less -f {tmp_path}/text.py\r")
    session.until("line")
    session.type(" ")
    session.look(2)
    session.type("\x02:kill-server\r")


PROGRAMS: dict[str, tuple[str, Callable[[Session, Path], None], str]] = {
    "vim": ("vim", vim, "vim -u NONE --cmd 'set nocp shm=aFI mouse=a ruler' {text}"),
    "resized": ("vim", resized, "vim -u NONE --cmd 'set nocp shm=aFI ruler' {text}"),
    "htop": ("htop", htop, "htop -d 5"),
    # Keys that come at once are no paste.
    "tmux": (
        "tmux",
        tmux,
        "tmux -u -S {folder}/socket -f /dev/null new 'bash --norc' ';' set -g assume-paste-time 0",
    ),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_session_replays_to_the_screen_of_the_original(
    cluster: Cluster, tmp_path: Path, name: str
) -> None:
    """Whatever the program drew, wherever the user looked."""
    program, use, command = PROGRAMS[name]
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")
    text = tmp_path / "text.py"
    text.write_text("".join(f"def line_{n}(): return 'a tab\there \u00e9'\n" for n in range(300)))
    command = f"LC_ALL=C.UTF-8 {command.format(text=text, folder=tmp_path)}"
    session = Session.start(cluster, command)
    try:
        use(session, tmp_path)
    finally:
        session.close()
        if name == "tmux":  # a test that fails leaves no server behind
            subprocess.run(
                ["tmux", "-S", tmp_path / "socket", "kill-server"], capture_output=True, check=False
            )
    compare(cluster, tmp_path, session)


def test_the_other_terminal_is_another_one(tmp_path: Path) -> None:
    """It shows what is written to it; what differs is found."""
    with IndependentTerminal(20, 3) as other:
        other.feed(b"one\r\n\x1b[1;31mtwo\x1b[0m")
        shown = other.shows()
    emulator = Emulator(Screen(20, 3))
    emulator.feed(b"one\r\n\x1b[1;31mtwo\x1b[0m")
    assert as_shown(emulator.screen) == shown
    emulator.feed(b"x")
    assert as_shown(emulator.screen) != shown
    assert subprocess.run(["node", "--version"], capture_output=True, check=True).stdout
