"""Recorders of hosts that share a data_dir."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from twisted.internet.task import Clock

from tele.config.values import Chosen
from tele.embed.recorders import make_recorder, recorder_folder
from tele.model.identity import HostRole


def test_a_proxy_and_a_node_have_spools_of_their_own(tmp_path: Path) -> None:
    """Both may run in one data_dir; neither uploads or recovers what the other records."""
    clock: Any = Clock()
    member: Any = None  # it is asked when a recording is signed or sent
    folders = {role: recorder_folder(tmp_path, role) for role in (HostRole.NODE, HostRole.PROXY)}
    assert folders[HostRole.NODE] == tmp_path
    for role, folder in folders.items():
        made = make_recorder(clock, tmp_path, role, member, Chosen("tape"))
        assert made is not None
        assert (folder / "spool").is_dir()
        assert folder.stat().st_mode & 0o77 == 0
    assert folders[HostRole.PROXY] / "spool" != folders[HostRole.NODE] / "spool"
