"""Which frames of a recording were lost since its last gap frame?"""

from __future__ import annotations

import json
from collections import Counter
from typing import Any, Final

from attrs import define, field

from tele.model.frame import UNNUMBERED, Frame

#: Ranges of numbers that are kept for one gap frame.
KEPT_RANGES: Final = 1000


@define
class Losses:
    """Counts bytes by kind, and keeps the numbers of frames, neighbours as one range."""

    _bytes: Counter[str] = field(factory=Counter, init=False)
    _ranges: list[tuple[int, int]] = field(factory=list, init=False)

    def __bool__(self) -> bool:
        return bool(self._bytes)

    @property
    def is_full(self) -> bool:
        """Whether no frame is to be kept before a gap is written: there are many ranges."""
        return len(self._ranges) >= KEPT_RANGES

    def lose(self, frame: Frame) -> None:
        """Count one frame."""
        self._bytes[frame.kind.name.lower()] += len(frame.data)
        number = frame.sequence
        if not number or frame.kind in UNNUMBERED:
            return
        if self._ranges and self._ranges[-1][1] == number - 1:
            self._ranges[-1] = self._ranges[-1][0], number
        else:
            self._ranges.append((number, number))

    def take(self, reason: str) -> bytes:
        """Return the body of a gap frame for what was lost, and begin anew."""
        body: dict[str, Any] = {"lost": dict(self._bytes), "reason": reason}
        if self._ranges:
            body["frames"] = self._ranges
        self._bytes, self._ranges = Counter(), []
        return json.dumps(body).encode()
