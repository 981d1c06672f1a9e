"""How the spawner signals sessions, where the machine or an account makes that hard."""

from __future__ import annotations

import os
import signal
import subprocess

import pytest

from tele.spawner import children
from tele.spawner.children import Child, Signals


def test_signals_when_no_process_can_be_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """An account that uses up the machine's processes and requests a signal ends no other user's
    sessions (attack).
    """

    def refuse() -> int:
        raise BlockingIOError("Resource temporarily unavailable")

    monkeypatch.setattr(children, "fork", refuse)
    child = Child(1, -1, None)
    child.uid = child.gid = os.geteuid()
    Signals().send_as_account(child, signal.SIGTERM)
    Signals().hang_up(child)


def test_senders_do_not_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """An account that stops the processes that signal its sessions uses up none of the machine's
    (attack).
    """
    monkeypatch.setattr(children, "MAX_SENDERS", 1)
    stopped: list[subprocess.Popen[bytes]] = []
    monkeypatch.setattr(children, "fork", lambda: stopped[-1].pid)
    child = Child(1, -1, None)
    child.uid = child.gid = os.geteuid()
    signals = Signals()
    for _ in range(2):
        stopped.append(subprocess.Popen(["sleep", "1000"]))
        signals.send_as_account(child, signal.SIGTERM)
    assert stopped[0].wait(30) == -signal.SIGKILL
    assert stopped[1].poll() is None
    signals.reaped(stopped[1].pid)
    stopped[1].kill()
    stopped[1].wait(30)
