"""The soak, for a short while; by command it runs longer."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest

from soak import soak

pytestmark = pytest.mark.skipif(shutil.which("ssh") is None, reason="needs OpenSSH")


def test_soak(tmp_path: Path) -> None:
    """A little of everything: no part grows, and nothing is lost."""
    assert soak(tmp_path, 15, random.Random(1))["events"] > 20
