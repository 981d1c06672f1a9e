"""The program of hard contents, with little text in each mode; by command it takes more."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest

from contents import contents
from recordings import RECORDERS

pytestmark = pytest.mark.skipif(shutil.which("ssh") is None, reason="needs OpenSSH")


@pytest.mark.parametrize("mode", RECORDERS)
def test_contents(tmp_path: Path, mode: str) -> None:
    """Long lines, binary output, broken UTF-8 and 200 resizes are recorded byte for byte."""
    assert contents(tmp_path, 4, random.Random(1), mode)["shown"] > 16_000_000
