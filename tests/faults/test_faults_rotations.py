"""The program of rotations with kills, for one rotation; by command it runs longer."""

from __future__ import annotations

import random
from pathlib import Path

from rotations import rotations
from sshd_fleet import NEEDED

pytestmark = NEEDED


def test_rotations(tmp_path: Path) -> None:
    """A rotation to its end, with a part killed in each phase: sessions and logins go on, and what
    the dropped key has signed is refused.
    """
    found = rotations(tmp_path, 1, random.Random(1))
    assert (found["phases"], found["refusals"]) == (4, 4)
