"""@xterm/headless, a terminal of other authors, in a process of its own."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

from node_packages import install
from tele.terminal.screen import Screen

HERE = Path(__file__).parent / "screens"


class IndependentTerminal:
    """One terminal."""

    def __init__(self, columns: int, rows: int) -> None:
        folder = install(HERE, "@xterm/headless")
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
