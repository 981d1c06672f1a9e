"""What happens to output beyond a limit that auth set for a recording?

It is not recorded. A gap frame is written at once, and another at the end with the number of bytes
lost. After :data:`HOLDS_SECONDS` recording resumes, to learn from auth whether the limit holds.
"""

from __future__ import annotations

from typing import Final

from attrs import define, field

from tele.recording.losses import Losses

#: How long a limit from auth holds, in seconds, without being confirmed.
HOLDS_SECONDS: Final = 600.0


@define
class Limit:
    """The limit that one recording exceeds, if any. The time is an argument, in seconds."""

    why: str = field(default="", init=False)
    losses: Losses = field(factory=Losses, init=False)
    is_news: bool = field(default=False, init=False)
    _until: float = field(default=0.0, init=False)

    def set(self, why: str, now: float) -> bool:
        """Set the limit ``why`` that is exceeded, or none; return whether this is new."""
        begins = bool(why) and not self.holds(now)
        self.is_news = self.is_news or begins
        self.why = why or self.why
        self._until = now + HOLDS_SECONDS if why else 0.0
        return begins

    def holds(self, now: float) -> bool:
        """Whether output is not to be recorded."""
        return now < self._until

    def take(self) -> bytes | None:
        """Return the body of a gap frame for what was lost since the last one, if anything was."""
        self.is_news = False
        return self.losses.take(self.why) if self.losses else None
