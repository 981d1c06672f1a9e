"""How much of the disk may recordings take until they are uploaded?

Invariants:

* One user's recordings take no more than a quarter of the space for recordings: what is free and
  what the spool has. Above that, the user's sessions are paused until there is space; sessions of
  others are not affected. A user below :data:`USER_LEAST` is never paused: if something else has
  filled the disk, the recording has gaps.
* Low disk space is logged once before the disk is full, and once when there is enough again.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

from attrs import define, field

from tele.log import make_logger

#: A user's share of the space for recordings.
USER_PART: Final = 4
#: Bytes that each user may always take.
USER_LEAST: Final = 4 << 20
#: Space is low below this part of the space for recordings, or below so many bytes.
LITTLE_PART: Final = 10
LITTLE: Final = 64 << 20

log = make_logger(__name__)


@define
class DiskShares:
    """Counts the bytes in the spool, by user. ``free`` are those of the disk, if known."""

    free: int | None = None
    little: bool = field(default=False, init=False)
    total: int = field(default=0, init=False)
    _sizes: dict[str, tuple[str, int]] = field(factory=dict, init=False)
    _by_user: Counter[str] = field(factory=Counter, init=False)

    def add(self, recording_id: str, user: str, size: int) -> None:
        """Count ``size`` more bytes of a recording."""
        _, before = self._sizes.get(recording_id, (user, 0))
        self._sizes[recording_id] = (user, before + size)
        self._by_user[user] += size
        self.total += size

    def remove(self, recording_id: str, size: int) -> None:
        """Count ``size`` bytes less of a recording: they were uploaded."""
        if recording_id in self._sizes:
            user, before = self._sizes[recording_id]
            self.add(recording_id, user, -min(size, before))

    def forget(self, recording_id: str) -> None:
        """Count nothing more of a recording that has left the spool."""
        user, size = self._sizes.pop(recording_id, ("", 0))
        self.total -= size
        self._by_user[user] -= size
        if not self._by_user[user]:
            del self._by_user[user]

    def is_over(self, user: str) -> bool:
        """Whether the recordings of ``user`` take more than their share now."""
        if self.free is None:
            return False  # a disk that cannot be measured cannot be written either
        share = max(USER_LEAST, (self.free + self.total) // USER_PART)
        return self._by_user[user] > share

    def measured(self, free: int | None) -> None:
        """Set the free bytes of the disk; None if it cannot be measured."""
        self.free = free
        if free is None:
            return
        little = free < max(LITTLE, (free + self.total) // LITTLE_PART)
        if little and not self.little:
            log.warn(
                "low disk space for recordings: sessions will not be recorded when it is full",
                free=free,
                bytes=self.total,
            )
        elif self.little and not little:
            log.info("enough disk space for recordings again", free=free)
        self.little = little
