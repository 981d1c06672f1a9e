"""Export of a recording as lines of JSON, one for each frame.

Invariants:

* No byte is lost. ``data`` is text; where a frame is not valid UTF-8 by itself, ``base64`` has its
  bytes, too.
* Time, channel, kind and number of a line are those of the frame, whatever its data say.
"""

from __future__ import annotations

from base64 import b64encode
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
        if frame.sequence:
            row["sequence"] = frame.sequence
        if frame.kind not in BYTES:
            row = row | {k: v for k, v in details(frame).items() if k not in row}
        else:
            try:
                row["data"] = frame.data.decode("utf-8")
            except UnicodeDecodeError:
                row["data"] = frame.data.decode("utf-8", "replace")
                row["base64"] = b64encode(frame.data).decode("ascii")
        yield printable_json(row) + "\n"
