"""A tracer as a node starts it, and programs of sessions that are traced."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tele.tracer import program as tracer
from tele.tracer import records
from tele.tracer.messages import JOINED, MAX_MESSAGE
from tele.tracer.records import Executed, Lost, Record

PROGRAM = Path(tracer.__file__)
ALL = ("command", "disk", "network", "syscalls")


class Tracer:
    """A running tracer and the node's ends of its sockets."""

    def __init__(self, *before: str, **options: Any) -> None:
        self.control, control = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.joining, joining = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.control.settimeout(60)
        with control, joining:
            fds = (control.fileno(), joining.fileno())
            words = [sys.executable, "-I", "-S", str(PROGRAM), *map(str, fds), json.dumps(options)]
            self.process = subprocess.Popen([*before, *words], pass_fds=fds, cwd="/", env={})
        self.records: dict[int, list[Record]] = {}
        self.last = 0
        self.hello = self.answer()

    def ask(self, **message: Any) -> dict[str, Any]:
        """Send a request and return its answer."""
        self.control.send(json.dumps(message).encode())
        return self.answer()

    def answer(self) -> dict[str, Any]:
        """Return the next message that is not records."""
        while True:
            data = self.control.recv(MAX_MESSAGE)
            if not data:
                raise EOFError
            if data[:1] != records.BATCH:
                found: dict[str, Any] = json.loads(data)
                return found
            self._note(data)

    def read(self, seconds: float) -> None:
        """Read records as a node does, for a while."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            if select.select([self.control], [], [], left)[0]:
                self._note(self.control.recv(MAX_MESSAGE))

    def _note(self, data: bytes) -> None:
        for record in records.decode(data):
            number = record.session if isinstance(record, Lost) else record.origin.session
            self.records.setdefault(number, []).append(record)

    def start(self, *kinds: str, **more: Any) -> int:
        """Trace a session, and return its number."""
        self.last += 1
        answer = self.ask(op="start", id=self.last, kinds=list(kinds), **more)
        assert answer == {"event": "started", "id": self.last}, answer
        return self.last

    def begin(self, number: int, *words: str, **more: Any) -> subprocess.Popen[bytes]:
        """Start the first program of a session, as a spawner's child does."""

        def join() -> None:
            answer, theirs = os.pipe()
            with contextlib.closing(socket.socket(fileno=os.dup(self.joining.fileno()))) as channel:
                me = os.pidfd_open(os.getpid())
                socket.send_fds(channel, [json.dumps({"id": number}).encode()], [me, theirs])
                said = os.read(answer, 512)
            if said != JOINED:
                raise OSError(said.decode())
            for fd in (answer, theirs, me):
                os.close(fd)

        return subprocess.Popen(words, preexec_fn=join, **more)

    def flush(self, number: int) -> None:
        """Read all records that were made before."""
        answer = self.ask(op="flush", id=number)
        assert answer == {"event": "flushed", "id": number, "missed": 0}

    def stop(self, number: int) -> dict[str, Any]:
        """End a session; return what is known of it."""
        return self.ask(op="stop", id=number)

    def run(
        self, *words: str, kinds: tuple[str, ...] = ALL, settle: float = 0.0, **more: Any
    ) -> list[Record]:
        """Return all records of a session that runs one program to its end."""
        number = self.start(*kinds)
        process = self.begin(number, *words, **more)
        while process.poll() is None:
            self.read(0.05)
        if settle:
            self.read(settle)
        self.stop(number)
        return self.records.pop(number, [])

    def close(self) -> None:
        """End it as a node does that goes away."""
        self.control.close()
        self.joining.close()
        assert self.process.wait(20) == 0

    def kill(self) -> None:
        """End it whatever it does."""
        self.control.close()
        self.joining.close()
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(20)


@contextmanager
def tracing(**options: Any) -> Iterator[Tracer]:
    """A tracer that is ready; a machine that cannot skips the test and says why."""
    found = Tracer(**options)
    try:
        if found.hello["event"] == "unavailable":
            pytest.skip(found.hello["message"])
        yield found
    finally:
        found.kill()


def executed(found: list[Record]) -> list[bytes]:
    """The names of the programs that ran, in order."""
    return [
        os.path.basename(each.path)
        for each in found
        if isinstance(each, Executed) and each.result == 0
    ]
