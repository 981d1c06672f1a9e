"""The pages of a proxy, built from the present sources, and a Chromium that uses them."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from tele.web.built import STATIC

HERE: Final = Path(__file__).parent / "browser"
WEB: Final = Path(__file__).parents[2] / "web"


def build_pages() -> None:
    """Build them, as an installation does."""
    done = subprocess.run(
        [sys.executable, str(WEB / "tele_build.py")], capture_output=True, text=True, check=False
    )
    if not (STATIC / "index.html").is_file():
        pytest.skip(f"the pages cannot be built here: {done.stderr}")
    assert done.returncode == 0, done.stderr


def chromium() -> str:
    """Return the browser's path."""
    found = shutil.which("chromium")
    if found is None:
        pytest.skip("chromium is not installed")
    return found
