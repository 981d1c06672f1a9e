"""Export of a recording as lines of JSON, one for each frame."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from tele.model.frame import Frame
from tele.tape.details import details
from tele.tape.writer import BYTES
from tele.text import printable_json


def json_lines(frames: Iterable[Frame]) -> Iterator[str]:
    """Yield one line of JSON for each frame; ``time`` in seconds, bytes as text."""
    for frame in frames:
        row: dict[str, Any] = {
            "time": round(frame.time / 1e9, 6),
            "channel": frame.channel,
            "frame": frame.kind.name.lower(),
        }
        if frame.kind in BYTES:
            row["data"] = frame.data.decode("utf-8", "surrogateescape")
        else:
            row.update(details(frame))
        yield printable_json(row) + "\n"
