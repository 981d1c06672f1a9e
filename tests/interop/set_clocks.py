"""Parts of a cluster whose clocks are set, each by itself: libfaketime gives them dates of a file.

Monotonic clocks stay as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

PARTS = ("auth", "proxy", "node")
LIBRARIES = sorted(Path("/usr/lib").glob("**/faketime/libfaketimeMT.so.1"))
HOUR = 3600


def clocked(folder: Path) -> dict[str, Sequence[str]]:
    """Return what stands before the command of each part, so that :func:`set_clock` works."""
    prefixes: dict[str, Sequence[str]] = {}
    for part in PARTS:
        (folder / f"{part}.date").write_text("+0\n")
        prefixes[part] = [
            "env",
            f"LD_PRELOAD={LIBRARIES[0]}",
            f"FAKETIME_TIMESTAMP_FILE={folder}/{part}.date",
            "FAKETIME_NO_CACHE=1",
            "FAKETIME_DONT_FAKE_MONOTONIC=1",
            "DONT_FAKE_MONOTONIC=1",
            # Without it each timed wait of a thread, also for Python's own lock, ends at once, and
            # the program is busy with waiting.
            "FAKETIME_FORCE_MONOTONIC_FIX=0",
        ]
    return prefixes


def set_clock(folder: Path, part: str, seconds: int) -> None:
    """Set the date of one part by so many seconds off the machine's."""
    file = folder / f"{part}.date"
    changed = file.with_suffix(".new")
    changed.write_text(f"{seconds:+d}\n")
    changed.rename(file)
