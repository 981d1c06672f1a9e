"""Sessions that a spawner starts are traced from what they execute on, or do not start."""

from __future__ import annotations

import json
import os
import pwd
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tele.spawner import program as spawner
from tele.spawner.spawn_messages import MAX_MESSAGE, pack, unpack
from tele.tracer.records import Executed, FileAction
from test_spawner_root import account
from traced import Tracer, executed, tracing

pytestmark = pytest.mark.root


class Spawner:
    """A spawner that has the socket of a tracer, and the node's end of its own."""

    def __init__(self, joining: socket.socket) -> None:
        self.socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.settimeout(30)
        self.number = 0
        with theirs:
            fds = (theirs.fileno(), joining.fileno())
            options = json.dumps({"tracer": joining.fileno()})
            words = [sys.executable, "-I", "-S", spawner.__file__, str(fds[0]), options]
            self.process = subprocess.Popen(words, pass_fds=fds, env={}, cwd="/")

    def run(
        self, login: str, *words: bytes, kind: str = "exec", trace: int = 0, stdin: bytes = b""
    ) -> tuple[bytes, dict[str, Any]]:
        """Run a session to its end; return its output and the last report."""
        self.number += 1
        reading, feed = os.pipe()
        output, writing = os.pipe()
        header = {"op": "start", "id": self.number, "kind": kind, "login": login, "pty": False}
        header |= {"words": len(words), "trace": trace}
        socket.send_fds(self.socket, [pack(header, list(words))], [reading, writing, writing])
        os.close(reading)
        os.close(writing)
        os.write(feed, stdin)
        os.close(feed)
        with open(output, "rb") as file:
            text = file.read()
        while True:
            report = unpack(self.socket.recv(MAX_MESSAGE))[0]
            if report["event"] in ("exited", "failed", "refused"):
                return text, report

    def close(self) -> None:
        self.socket.close()
        assert self.process.wait(20) == 0


@pytest.fixture(scope="module")
def user() -> Iterator[pwd.struct_passwd]:
    with account() as made:
        yield made


@pytest.fixture
def tracer() -> Iterator[Tracer]:
    with tracing() as made:
        yield made


@pytest.fixture
def spawning(tracer: Tracer) -> Iterator[Spawner]:
    made = Spawner(tracer.joining)
    try:
        yield made
    finally:
        made.close()


def test_a_session_of_an_account(
    tracer: Tracer, spawning: Spawner, user: pwd.struct_passwd
) -> None:
    """All that it executes is recorded, with its uid; what the spawner does before is not, nor is
    a session at the same time that is not to be traced.
    """
    one = tracer.start("command", "disk")
    for trace in (one, 0, one, 0, one):  # further sessions of a login start in another way
        text, report = spawning.run(user.pw_name, b"/bin/echo hi; id -u", trace=trace)
        assert text == f"hi\n{user.pw_uid}\n".encode()
        assert report["status"] == 0
    assert tracer.stop(one)["lost"] == 0
    found = tracer.records.pop(one)
    assert executed(found) == [b"sh", b"echo", b"id"] * 3
    assert {each.origin.uid for each in found if isinstance(each, Executed)} == {user.pw_uid}
    opened = {each.path for each in found if isinstance(each, FileAction)}
    assert not opened & {b"/etc/shadow", b"/etc/shells"}


def test_files_are_served_traced(
    tracer: Tracer, spawning: Spawner, user: pwd.struct_passwd
) -> None:
    """The server of files that is the spawner's own is traced, though nothing is executed."""
    allowed = {"allow": ["/home/**"], "deny": []}
    rules = json.dumps({"upload": allowed, "download": allowed}).encode()
    number = tracer.start("disk")
    path = f"{user.pw_dir}/made".encode()
    body = b"\x0e\0\0\0\1" + len(path).to_bytes(4, "big") + path + b"\0\0\0\0"
    stdin = b"\0\0\0\5\1\0\0\0\3" + len(body).to_bytes(4, "big") + body
    _, report = spawning.run(user.pw_name, rules, kind="sftp", trace=number, stdin=stdin)
    assert report["event"] == "exited", report
    assert tracer.stop(number)["lost"] == 0
    (made,) = [
        each
        for each in tracer.records.pop(number)
        if isinstance(each, FileAction) and each.action == "mkdir"
    ]
    assert (made.path, made.result) == (path, 0)
    Path(os.fsdecode(path)).rmdir()


def test_nothing_of_the_tracer_in_a_session(
    tracer: Tracer, spawning: Spawner, user: pwd.struct_passwd
) -> None:
    """A session has no descriptor by which it could speak to the tracer (attack)."""
    number = tracer.start("command")
    for trace in (number, 0, 0):
        text, _ = spawning.run(user.pw_name, b"readlink /proc/self/fd/*", trace=trace)
        assert b"socket:" not in text
        assert b"pidfd" not in text
    tracer.stop(number)


def test_no_session_without_its_trace(
    tracer: Tracer, spawning: Spawner, user: pwd.struct_passwd
) -> None:
    """A session that is not known to the tracer does not run; nor does one whose tracer ended."""
    for trace, said in ((77, "the session is not traced"), (78, "the tracer is not reached")):
        text, report = spawning.run(user.pw_name, b"echo ran", trace=trace)
        assert text == b""
        assert (report["event"], report["reason"]) == ("failed", "tracing")
        assert said in report["message"]
        if trace == 77:
            tracer.process.kill()
            tracer.process.wait()
    assert spawning.run(user.pw_name, b"echo ran")[0] == b"ran\n"


def test_what_cannot_be_traced_is_refused(spawning: Spawner) -> None:
    """A number that is none, or for what executes nothing, is a malformed request."""
    for trace, kind, words in (
        (-1, "exec", [b"id"]),
        (1 << 60, "exec", [b"id"]),
        (5, "program", [b"id"]),
    ):
        _, report = spawning.run("root", *words, kind=kind, trace=trace)
        assert report["event"] == "refused", trace
