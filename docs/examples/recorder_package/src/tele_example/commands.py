"""A recorder that writes a line of JSON for each command.

A recorder must not block the reactor, so a thread writes. It must not keep without bound what the
disk does not take, so a session is paused while many lines wait.
"""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorFromThreads
from zope.interface import implementer

from tele.interfaces import IRecorder, IRecording
from tele.model.frame import Frame, FrameKind
from tele.model.session import RecordingStart

#: Lines that may wait before sessions are paused.
LINES = 1000


@implementer(IRecording)
class CommandRecording:
    """One session."""

    def __init__(self, recorder: CommandRecorder, start: RecordingStart) -> None:
        self._recorder = recorder
        self._start = start

    @property
    def paused(self) -> bool:
        """Whether the session is to stop reading until the disk has taken what waits."""
        return self._recorder.is_behind

    def when_resumed(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` once, when ``paused`` turns false."""
        self._recorder.when_written(callback)

    def write(self, frame: Frame) -> None:
        """Take one frame; only those that open a channel matter here."""
        if frame.kind is not FrameKind.OPEN:
            return
        opened = json.loads(frame.data)
        self._recorder.add(
            {
                "session": self._start.id,
                "user": self._start.user,
                "login": self._start.login,
                "kind": opened["kind"],
                "command": opened.get("command", ""),
                "seconds": frame.time / 1e9,
            }
        )

    def close(self, reason: str, sequence: int = 0) -> Deferred[None]:
        """The session ended: fire when all its lines are written."""
        done: Deferred[None] = Deferred()
        self._recorder.when_written(lambda: done.callback(None))
        return done


@implementer(IRecorder)
class CommandRecorder:
    """Appends to the file ``path``."""

    def __init__(self, path: Path, reactor: Any) -> None:
        self._path = path
        self._reactor = reactor
        self._lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._waiting = 0
        self._written: list[Callable[[], None]] = []
        threading.Thread(target=self._run, name="commands", daemon=True).start()

    def open(self, start: RecordingStart) -> Deferred[CommandRecording]:
        """Open the recording of a session."""
        return succeed(CommandRecording(self, start))

    @property
    def is_behind(self) -> bool:
        """Whether many lines wait for the disk."""
        return self._waiting >= LINES

    def add(self, row: dict[str, Any]) -> None:
        """Write one line, soon."""
        self._waiting += 1
        self._lines.put(json.dumps(row).encode() + b"\n")

    def when_written(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` when no line waits any more."""
        if self._waiting:
            self._written.append(callback)
        else:
            callback()

    def _run(self) -> None:
        """In the thread: write what comes. A line that cannot be written is tried again."""
        while True:
            line = self._lines.get()
            while not self._append(line):
                threading.Event().wait(1)
            IReactorFromThreads(self._reactor).callFromThread(self._done)

    def _append(self, line: bytes) -> bool:
        try:
            with self._path.open("ab") as file:
                file.write(line)
        except OSError:
            return False
        return True

    def _done(self) -> None:
        self._waiting -= 1
        if not self._waiting:
            written, self._written = self._written, []
            for callback in written:
                callback()
