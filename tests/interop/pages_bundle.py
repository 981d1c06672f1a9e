"""Bundles a program of ``web_core`` with the sources of the pages, for Node.js."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

HERE: Final = Path(__file__).parent
WEB: Final = HERE.parents[1] / "web"


def bundle(name: str, folder: Path) -> Path:
    """Write ``web_core/NAME.ts`` and what it imports as one file into ``folder``; return it."""
    if shutil.which("node") is None:
        pytest.skip("Node.js is not installed")
    esbuild = WEB / "node_modules" / "esbuild" / "bin" / "esbuild"
    if not esbuild.is_file():
        subprocess.run([sys.executable, str(WEB / "tele_build.py")], check=False)
    if not esbuild.is_file():
        pytest.skip("the packages of the pages cannot be installed here")
    made = folder / f"{name}.mjs"
    subprocess.run(
        ["node", str(esbuild), str(HERE / "web_core" / f"{name}.ts"), "--bundle",
         "--platform=node", "--format=esm", f"--outfile={made}", "--log-level=error"],
        check=True,
    )  # fmt: skip
    return made
