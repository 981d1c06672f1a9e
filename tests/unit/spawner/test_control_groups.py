"""Control groups where there are none, or where the kernel cannot kill them."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from types import SimpleNamespace

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


def pause(groups: Groups) -> float | None:
    return groups.pause


def test_when_groups_are_swept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the time that was set, whatever happens to other sessions meanwhile; then less often."""
    now = [100.0]
    clock = SimpleNamespace(monotonic=lambda: now[0], time_ns=lambda: 1)
    monkeypatch.setattr(control_groups, "time", clock)
    groups = Groups(str(tmp_path))
    assert pause(groups) is None
    groups.user_left("x", expelled=True)
    assert pause(groups) == control_groups.EXPELLED_GRACE
    now[0] += 1.5
    groups.user_left("y", expelled=True)
    assert pause(groups) == control_groups.EXPELLED_GRACE - 1.5
    groups.session_ended("y")
    now[0] += 0.5
    assert pause(groups) == 0.0
    groups.sweep()
    assert pause(groups) is None

    (tmp_path / FOLDER / "z" / "lives").mkdir(parents=True)
    groups.session_ended("z")
    pauses = []
    for _ in range(4):
        pauses.append(pause(groups))
        now[0] += 1.0
        groups.sweep()
    assert pauses == pytest.approx([control_groups.SHORTEST * factor for factor in (1, 2, 4, 8)])
    os.rmdir(tmp_path / FOLDER / "z" / "lives")
    groups.sweep()
    assert pause(groups) is None
    assert not (tmp_path / FOLDER / "z").exists()
