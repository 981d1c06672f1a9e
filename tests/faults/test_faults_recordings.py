"""The program of kills while sessions are recorded, in each mode; by command it runs longer."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest

from recordings import RECORDERS, recordings

pytestmark = pytest.mark.skipif(shutil.which("ssh") is None, reason="needs OpenSSH")


@pytest.mark.parametrize("mode", RECORDERS)
def test_recordings(tmp_path: Path, mode: str) -> None:
    """Node, auth and proxy are killed in the middle of sessions: their recordings have what was
    promised, and verify.
    """
    # Where a moment is not promised, sessions have to be longer than that.
    pace = 0.4 if mode.endswith("-sync") else 1.0
    assert recordings(tmp_path, 3, random.Random(1), 3, mode, pace=pace)["sessions"] >= 6
