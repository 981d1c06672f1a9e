"""The program of power cuts, for a short while; by command it runs longer."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest

from power_cuts import power_cuts

pytestmark = pytest.mark.skipif(shutil.which("ssh") is None, reason="needs OpenSSH")


@pytest.mark.root
def test_power_cuts(tmp_path: Path) -> None:
    """The power of each part is cut once: what was acknowledged is on its disk."""
    assert power_cuts(tmp_path, 3, random.Random(1), sessions=2)["sessions"] >= 2
