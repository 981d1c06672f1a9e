"""The program of full disks, for a short while; by command it runs longer."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest

from full_disks import full_disks

pytestmark = pytest.mark.skipif(shutil.which("ssh") is None, reason="needs OpenSSH")


@pytest.mark.root
@pytest.mark.parametrize("mode", ["node", "proxy"])
def test_full_disks(tmp_path: Path, mode: str) -> None:
    """The disk of each part is full for a while: users log in, commands on a connection from before
    answer, and nothing is lost.
    """
    assert full_disks(tmp_path, 3, random.Random(1), 2, mode)["sessions"] >= 4
