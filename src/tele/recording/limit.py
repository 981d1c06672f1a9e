"""What becomes of output over a limit that auth set for a recording?

It is not recorded. A gap says so at once, and another one at the end of it what was lost. After
a while some is recorded again, to learn from auth whether the limit still holds.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import Final

from attrs import define, field

from tele.model.frame import Frame

#: How long auth's word holds, in seconds: until then no more chunks come of the output.
HOLDS_SECONDS: Final = 600.0


@define
class Limit:
    """The limit that one recording is over, if it is. The time is an argument, in seconds."""

    why: str = field(default="", init=False)
    lost: Counter[str] = field(factory=Counter, init=False)
    is_news: bool = field(default=False, init=False)
    _until: float = field(default=0.0, init=False)

    def set(self, why: str, now: float) -> bool:
        """The recording is over the limit ``why``, or over none; returns whether that begins."""
        begins = bool(why) and not self.holds(now)
        self.is_news = self.is_news or begins
        self.why = why or self.why
        self._until = now + HOLDS_SECONDS if why else 0.0
        return begins

    def holds(self, now: float) -> bool:
        """Whether output is not to be recorded."""
        return now < self._until

    def lose(self, frame: Frame) -> None:
        """Count what is not recorded."""
        self.lost[frame.kind.name.lower()] += len(frame.data)

    def take(self) -> bytes | None:
        """Return the body of a gap about what was lost since the last one, if anything was."""
        self.is_news = False
        if not self.lost:
            return None
        lost, self.lost = self.lost, Counter()
        return json.dumps({"lost": dict(lost), "reason": self.why}).encode()
