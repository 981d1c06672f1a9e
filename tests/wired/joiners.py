"""OpenSSH clients of a session and of those who join it: for tests."""

from __future__ import annotations

import json
import os
import subprocess
from typing import Any

from attrs import define, field

from small_cluster import SmallCluster, SmallNode, set_role
from tele.model.event import Event
from tele.model.frame import FrameKind
from tele.model.joining import JoinMode, JoinRule, join_login
from tele.testing.recorder import MemoryRecorder

#: A program that answers each line, and ends with "end".
ANSWERS = "stty -echo; echo READY; while read -r l; do [ $l = end ] && exit 7; echo got-$l; done"


def rule(*modes: JoinMode, roles: tuple[str, ...] = ("access",)) -> JoinRule:
    """Return a rule about the sessions of ``roles``."""
    return JoinRule("these", roles, modes or (JoinMode.OBSERVER,))


@define(eq=False)
class Client:
    """A client that runs, and what it has shown."""

    cluster: SmallCluster
    process: subprocess.Popen[bytes]
    shown: bytearray = field(factory=bytearray)

    def read(self) -> bytes:
        """Return what was shown so far."""
        self._read()
        return bytes(self.shown)

    def _read(self) -> None:
        assert self.process.stdout is not None
        try:
            while data := os.read(self.process.stdout.fileno(), 65536):
                self.shown += data
        except BlockingIOError:
            return

    def see(self, text: bytes) -> None:
        """Wait until it has shown ``text``."""
        before = 0

        def seen() -> bool:
            nonlocal before
            at = max(0, before - len(text))
            self._read()
            before = len(self.shown)
            return self.shown.find(text, at) >= 0

        self.cluster.reactor.until(seen, 40)

    def type(self, data: bytes) -> None:
        """Type ``data``."""
        assert self.process.stdin is not None
        self.process.stdin.write(data)
        self.process.stdin.flush()

    def end(self) -> tuple[int, bytes]:
        """Wait for its end; return the exit status, and all that it has shown."""

        def over() -> bool:
            self._read()
            return not self.runs

        self.cluster.reactor.until(over, 40)
        return self.process.wait(), self.read()

    @property
    def runs(self) -> bool:
        """Whether it has not ended."""
        return self.process.poll() is None


@define(eq=False)
class Joining:
    """A cluster with a node, whose recorder keeps all frames; alice has sessions, bob joins."""

    cluster: SmallCluster
    node: SmallNode
    recorder: MemoryRecorder
    clients: list[Client] = field(factory=list)

    def allow(self, *rules: JoinRule, deny: tuple[JoinRule, ...] = (), **options: Any) -> None:
        """Let the users of the one role join these sessions."""
        denied = {"join_sessions": deny} if deny else None
        set_role(self.cluster, self.node, {"join_sessions": rules}, denied, **options)

    def start(self, user: str, *words: str, **named: Any) -> Client:
        """Start OpenSSH's client."""
        args = self.cluster.ssh_words(user, self.node, *words, **named)
        process = subprocess.Popen(
            ["ssh", *args],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=self.cluster.folder,
        )
        assert process.stdout is not None
        os.set_blocking(process.stdout.fileno(), False)
        self.clients.append(Client(self.cluster, process))
        return self.clients[-1]

    def session(self, command: str = ANSWERS, user: str = "alice") -> tuple[Client, str]:
        """Start a session with a terminal; return its client and its id."""
        before = {each.id for each in self.cluster.events("session.start")}
        client = self.start(user, "-tt", "127.0.0.1", command)
        client.see(b"READY")

        def new() -> list[Event]:
            return [e for e in self.cluster.events("session.start") if e.id not in before]

        self.cluster.reactor.until(lambda: bool(new()))
        return client, new()[0].session_id

    def join(self, session_id: str, *command: str, user: str = "bob") -> Client:
        """Join a session."""
        return self.start(user, "-tt", "127.0.0.1", *command, login=join_login(session_id))

    def facts(self, *kinds: FrameKind) -> list[dict[str, Any]]:
        """Return what the frames of these kinds say, in order."""
        return [json.loads(f.data) for f in self.recorder.frames if f.kind in kinds]

    def output(self) -> bytes:
        """Return all that was recorded of output."""
        frames = self.recorder.frames
        return b"".join(f.data for f in frames if f.kind is FrameKind.OUTPUT)

    def end(self) -> None:
        """End what runs."""
        for client in self.clients:
            client.process.kill()
            client.process.communicate()
        self.clients.clear()
