"""The program of set clocks, for a short while; by command it runs longer."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest

from clocks import clocks
from set_clocks import LIBRARIES

pytestmark = pytest.mark.skipif(shutil.which("ssh") is None, reason="needs OpenSSH")


@pytest.mark.skipif(not LIBRARIES, reason="faketime is not installed")
@pytest.mark.parametrize("mode", ["node", "proxy"])
def test_clocks(tmp_path: Path, mode: str) -> None:
    """The clocks of the recorder and of another part are set by an hour, both ways: recordings have
    what was promised, and verify.
    """
    assert clocks(tmp_path, 4, random.Random(1), 1, mode)["sessions"] >= 4
