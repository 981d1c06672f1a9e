"""How much of the disk may recordings take until auth has them?

Invariants:

* One user's recordings hold no more than a quarter of what the disk has for recordings: what is
  free and what the spool holds. With more, the user's sessions wait; they are not left
  unrecorded, and nobody else's are disturbed. Whoever holds little does not wait: a disk that
  something else has filled makes gaps, and holds up nobody.
* The operator is told before the disk is full: once when little is left, and when there is
  enough again.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

from attrs import define, field

from tele.log import make_logger

#: A user's part of the disk.
PERSON_PART: Final = 4
#: Bytes that each user may hold, however little the disk has.
PERSON_LEAST: Final = 4 << 20
#: Little is left: less than this part of what the disk has for recordings, or than so many bytes.
LITTLE_PART: Final = 10
LITTLE: Final = 64 << 20

log = make_logger(__name__)


@define
class DiskShares:
    """Counts what is in the spool, by user. ``free`` is what the disk has, as far as is known."""

    free: int | None = None
    little: bool = field(default=False, init=False)
    total: int = field(default=0, init=False)
    _sizes: dict[str, tuple[str, int]] = field(factory=dict, init=False)
    _by_user: Counter[str] = field(factory=Counter, init=False)

    def add(self, recording_id: str, user: str, size: int) -> None:
        """``size`` more bytes of this recording were written."""
        _, before = self._sizes.get(recording_id, (user, 0))
        self._sizes[recording_id] = (user, before + size)
        self._by_user[user] += size
        self.total += size

    def remove(self, recording_id: str, size: int) -> None:
        """``size`` bytes of this recording are at auth, and not in the spool any more."""
        if recording_id in self._sizes:
            user, before = self._sizes[recording_id]
            self.add(recording_id, user, -min(size, before))

    def forget(self, recording_id: str) -> None:
        """The recording is not in the spool any more."""
        user, size = self._sizes.pop(recording_id, ("", 0))
        self.total -= size
        self._by_user[user] -= size
        if not self._by_user[user]:
            del self._by_user[user]

    def is_over(self, user: str) -> bool:
        """Whether the recordings of ``user`` hold more than their share now."""
        if self.free is None:
            return False  # a disk that cannot be asked cannot be written to, which says more
        share = max(PERSON_LEAST, (self.free + self.total) // PERSON_PART)
        return self._by_user[user] > share

    def measured(self, free: int | None) -> None:
        """The disk has ``free`` bytes; None if it cannot be asked."""
        self.free = free
        if free is None:
            return
        little = free < max(LITTLE, (free + self.total) // LITTLE_PART)
        if little and not self.little:
            log.warn(
                "the disk of the recordings has {free} MiB left, of which {held} MiB wait for auth:"
                " make room, or sessions will not be recorded",
                free=free >> 20, held=self.total >> 20,
            )  # fmt: skip
        elif self.little and not little:
            log.info("the disk of the recordings has {free} MiB left again", free=free >> 20)
        self.little = little
