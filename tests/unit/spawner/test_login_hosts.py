"""The processes of logins, as the spawner keeps them: which are ended, and how."""

from __future__ import annotations

import signal
import socket
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from tele.spawner import login_hosts
from tele.spawner.control_groups import Groups
from tele.spawner.login_hosts import LoginHost, LoginHosts
from tele.spawner.login_process import ENDED, FAILED, MESSAGE, READY, STARTED
from tele.spawner.prepared_child import PreparedChild
from tele.spawner.spawn_messages import Start


class Sessions:
    """What becomes of sessions."""

    def __init__(self) -> None:
        self.seen: list[tuple[Any, ...]] = []

    def on_started(self, *what: Any) -> None:
        self.seen.append(what)

    on_failed = on_ended = on_started

    def next_group(self) -> str:
        return "group"


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    """A process that does not end by itself."""
    with subprocess.Popen(["sleep", "1000"]) as process:
        yield process
        process.kill()


def adopted(process: subprocess.Popen[bytes]) -> tuple[LoginHosts, LoginHost, socket.socket]:
    """A process that serves a login, and its end of the channel."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    hosts = LoginHosts(Groups(None), Sessions())
    start = Start({"kind": "shell", "login": "alice", "pty": False, "words": 0}, [])
    host = hosts.adopt(start, login_hosts.stamps(), PreparedChild(process.pid, ours, ""))
    theirs.send(MESSAGE.pack(READY, 1000, 1000))
    assert hosts.read(host)
    assert hosts.hand_over(1, start, b"request", []) == ""
    return hosts, host, theirs


def pause(hosts: LoginHosts) -> float | None:
    return hosts.pause


def test_one_that_does_not_end_is_killed(
    process: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The account has stopped it, and it takes no more sessions (attack)."""
    monkeypatch.setattr(login_hosts, "LINGER", 0.0)
    hosts, host, theirs = adopted(process)
    with theirs:
        hosts.doubt(1)
        assert pause(hosts) == 0.0
        hosts.sweep()
        assert process.wait(30) == -signal.SIGKILL
        assert pause(hosts) is None
        hosts.reaped(process.pid)
        hosts.lost(host)


def test_one_with_sessions_is_left_alone(
    process: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It reports how they end; then it has its time to end."""
    monkeypatch.setattr(login_hosts, "LINGER", 0.0)
    hosts, host, theirs = adopted(process)
    with theirs:
        theirs.send(MESSAGE.pack(STARTED, 1, 12345))
        assert hosts.read(host)
        hosts.close()
        assert pause(hosts) is None
        hosts.sweep()
        assert process.poll() is None
        theirs.send(MESSAGE.pack(ENDED, 1, 0))
        assert hosts.read(host)
        assert pause(hosts) == 0.0
        hosts.reaped(process.pid)
        hosts.sweep()
        assert process.poll() is None, "its number may be another's"
        hosts.lost(host)


@pytest.mark.parametrize(
    "message",
    [
        (READY, 0, 0),
        (STARTED, 2, 5),
        (STARTED, 1, 1),
        (STARTED, 1, 1 << 40),
        (FAILED, 2, 0),
        (ENDED, 1, 0),
    ],
)
def test_one_that_lies_is_killed(
    process: subprocess.Popen[bytes], message: tuple[int, int, int]
) -> None:
    """It runs as the account: what it reports makes the spawner neither signal as another account
    nor end (attack).
    """
    hosts, host, theirs = adopted(process)
    with theirs:
        theirs.send(MESSAGE.pack(*message))
        assert not hosts.read(host)
        hosts.lost(host)
        assert process.wait(30) == -signal.SIGKILL
        assert host.uid == 1000
        assert hosts._sessions.seen == [(1, None)]  # type: ignore[attr-defined]


def test_statuses_that_cannot_be(process: subprocess.Popen[bytes]) -> None:
    """A status is what waitpid returns (attack)."""
    hosts, host, theirs = adopted(process)
    with theirs:
        theirs.send(MESSAGE.pack(STARTED, 1, 12345))
        assert hosts.read(host)
        for status in (-1, 1 << 40):
            theirs.send(MESSAGE.pack(ENDED, 1, status))
            assert not hosts.read(host)
        hosts.lost(host)
