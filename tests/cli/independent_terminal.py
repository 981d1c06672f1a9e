"""@xterm/headless, a terminal of other authors, in a process of its own."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from tele.terminal.screen import Screen

HERE = Path(__file__).parent / "screens"
#: Where it is installed, once for each lock file.
INSTALLED = Path(sys.prefix) / "share" / "screens"


def install() -> Path:
    """Install what the lock file names, unless it is; return the folder."""
    lock = (HERE / "package-lock.json").read_bytes()
    folder = INSTALLED / hashlib.sha256(lock).hexdigest()[:16]
    if folder.is_dir():
        return folder
    for program in ("node", "npm"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    INSTALLED.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(dir=INSTALLED))
    try:
        for name in ("package.json", "package-lock.json"):
            shutil.copy(HERE / name, made)
        done = subprocess.run(
            ["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts"],
            cwd=made, capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        if done.returncode:
            pytest.skip(f"npm cannot install @xterm/headless: {done.stderr[-500:]}")
        if not folder.is_dir():  # else another run was faster
            made.rename(folder)
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return folder


class IndependentTerminal:
    """One terminal."""

    def __init__(self, columns: int, rows: int) -> None:
        folder = install()
        # A module is looked for beside the program's file.
        shutil.copy(HERE / "screens.cjs", folder / "screens.cjs")
        self._process = subprocess.Popen(
            ["node", str(folder / "screens.cjs")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._send({"open": [columns, rows]})

    def __enter__(self) -> IndependentTerminal:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate(timeout=60)

    def _send(self, command: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()

    def feed(self, data: bytes) -> None:
        """Write what a program wrote."""
        self._send({"write": base64.b64encode(data).decode()})

    def resize(self, columns: int, rows: int) -> None:
        """Change the size of the window."""
        self._send({"resize": [columns, rows]})

    def shows(self) -> dict[str, Any]:
        """Return what it shows: size, cursor, and text and style of each cell."""
        self._send({})
        assert self._process.stdout is not None
        found: dict[str, Any] = json.loads(self._process.stdout.readline())
        return found


def as_shown(screen: Screen) -> dict[str, Any]:
    """Return what tele's own screen shows, in the same form."""
    return {
        "columns": screen.columns,
        "rows": screen.rows,
        "row": screen.row,
        # Both keep the cursor behind the last column until the next character.
        "column": screen.columns if screen._pending else screen.column,
        "lines": [{"texts": [*line.texts], "styles": [*line.styles]} for line in screen.lines],
    }


def as_text(shown: dict[str, Any]) -> list[str]:
    """Return the lines of a screen, for a person to compare."""
    return ["".join(line["texts"]).rstrip() for line in shown["lines"]]
