"""How many processes for sockets a user may have."""

from __future__ import annotations

import pytest

from tele.spawner import socket_processes
from tele.spawner.socket_processes import SocketProcesses
from tele.spawner.spawn_messages import Start


def start(user: str = "", kind: str = "agent", login: str = "deploy") -> Start:
    """A request for one process."""
    header = {"kind": kind, "login": login, "pty": False, "words": 0 if kind == "agent" else 1}
    words = [] if kind == "agent" else [b"/run/x"]
    return Start(header, [*words, *([f"TELE_USER={user}".encode()] if user else [])])


def test_each_user_has_a_share(monkeypatch: pytest.MonkeyPatch) -> None:
    """What one user holds is refused to that user, and to no other of the same login (attack)."""
    monkeypatch.setattr(socket_processes, "PER_USER", 3)
    processes = SocketProcesses()
    for pid, kind in enumerate(("agent", "listen", "connect")):
        assert processes.refusal(start("mallory", kind)) == ""
        processes.add(pid, start("mallory", kind))
    assert "'mallory' has 3 processes" in processes.refusal(start("mallory"))
    assert processes.refusal(start("alice")) == ""
    assert processes.refusal(start()) == ""
    processes.reaped(1)
    processes.reaped(99)
    assert processes.refusal(start("mallory")) == ""


def test_all_users_have_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many users together do not use up the machine."""
    monkeypatch.setattr(socket_processes, "TOTAL", 3)
    processes = SocketProcesses()
    for pid in range(3):
        processes.add(pid, start(f"user{pid}"))
    assert "all users have 3 processes" in processes.refusal(start("alice"))
    processes.reaped(0)
    assert processes.refusal(start("alice")) == ""


def test_sessions_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """They have limits of their own, and are not refused for sockets."""
    monkeypatch.setattr(socket_processes, "TOTAL", 0)
    processes = SocketProcesses()
    assert processes.refusal(start("alice", "exec")) == ""
    processes.add(1, start("alice", "exec"))
    processes.reaped(1)
