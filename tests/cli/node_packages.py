"""Packages of the npm registry that tests use, installed once for each lock file."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

#: Where they are installed.
INSTALLED = Path(sys.prefix) / "share"


def install(source: Path, what: str) -> Path:
    """Install what the lock file in ``source`` names, unless it is; return the folder."""
    lock = (source / "package-lock.json").read_bytes()
    installed = INSTALLED / source.name
    folder = installed / hashlib.sha256(lock).hexdigest()[:16]
    if folder.is_dir():
        return folder
    for program in ("node", "npm"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    installed.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(dir=installed))
    try:
        for name in ("package.json", "package-lock.json"):
            shutil.copy(source / name, made)
        done = subprocess.run(
            ["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts"],
            cwd=made, capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        if done.returncode:
            pytest.skip(f"npm cannot install {what}: {done.stderr[-500:]}")
        if not folder.is_dir():  # else another run was faster
            made.rename(folder)
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return folder
