"""The program of kills, for a short while; by command it runs longer."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest

from kill_rounds import kill_rounds

pytestmark = pytest.mark.skipif(shutil.which("ssh") is None, reason="needs OpenSSH")


def test_kills(tmp_path: Path) -> None:
    """Each part is killed once while sessions run: nothing that was acknowledged is lost."""
    assert kill_rounds(tmp_path, 3, random.Random(1), sessions=3)["sessions"] >= 6
