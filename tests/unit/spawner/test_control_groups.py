"""Control groups where there are none, or where the kernel cannot kill them."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import pytest

from tele.spawner import control_groups
from tele.spawner.control_groups import FOLDER, Groups


def test_a_system_without_them() -> None:
    """Without cgroup v2 sessions have no group, and nothing fails."""
    groups = Groups(None, kill_leftovers=True)
    assert groups.enter("x") == 0
    groups.user_left("x")
    groups.session_ended("x")
    groups.sweep()
    groups.close()
    assert groups.pause is None


def test_a_group_that_cannot_be_entered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that cannot be entered gives no group, and is not left behind."""
    monkeypatch.setattr(control_groups, "own_group", lambda: str(tmp_path))
    assert Groups(str(tmp_path)).enter("x") == 0
    assert not (tmp_path / FOLDER / "x").exists()


def test_old_kernels_kill_one_by_one(tmp_path: Path) -> None:
    """Before Linux 5.14 a group's processes are killed by their numbers."""
    group = tmp_path / FOLDER / "x"
    group.mkdir(parents=True)
    with subprocess.Popen(["sleep", "1000"]) as process:
        (group / "cgroup.procs").write_text(f"{process.pid}\n")
        Groups(str(tmp_path), kill_leftovers=True).session_ended("x")
        assert process.wait(30) == -signal.SIGKILL
