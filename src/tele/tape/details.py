"""What do the data of a frame say?"""

from __future__ import annotations

import json
from typing import Any, Final

from tele.model.frame import Frame, FrameKind

#: Kinds whose data are what a program wrote.
STREAMS: Final = frozenset((FrameKind.OUTPUT, FrameKind.ERROR))


def details(frame: Frame) -> dict[str, Any]:
    """Return the JSON object of a frame; empty if it has none."""
    try:
        value = json.loads(frame.data or b"{}")
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def terminal(fields: dict[str, Any]) -> dict[str, Any]:
    """Return the terminal in the frame that opens a channel; empty without one."""
    pty = fields.get("pty")
    return pty if isinstance(pty, dict) else {}


def is_forward(frame: Frame) -> bool:
    """Whether a frame opens the channel of a forward, which has no terminal."""
    return details(frame).get("kind") == "forward"


def terminal_size(fields: object) -> tuple[int, int] | None:
    """Return the columns and rows that ``fields`` state, if they do."""
    if not isinstance(fields, dict):
        return None
    columns, rows = fields.get("columns"), fields.get("rows")
    if type(columns) is not int or type(rows) is not int:
        return None
    return columns, rows
