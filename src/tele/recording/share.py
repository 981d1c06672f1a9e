"""How much of the disk may the recordings of one user take until auth has them?

Invariants:

* One user's recordings hold no more than a quarter of what the disk has for recordings: what is
  free and what the spool holds. With more, the user's sessions wait; they are not left
  unrecorded, and nobody else's are disturbed.
"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Final

from attrs import define, field

#: A user's part of the disk.
PERSON_PART: Final = 4


@define
class DiskShares:
    """Counts what is in the spool ``root``, by user."""

    root: Path
    _sizes: dict[str, tuple[str, int]] = field(factory=dict, init=False)
    _by_user: Counter[str] = field(factory=Counter, init=False)

    def add(self, recording_id: str, user: str, size: int) -> None:
        """``size`` more bytes of this recording were written."""
        _, before = self._sizes.get(recording_id, (user, 0))
        self._sizes[recording_id] = (user, before + size)
        self._by_user[user] += size

    def forget(self, recording_id: str) -> None:
        """The recording is not in the spool any more."""
        user, size = self._sizes.pop(recording_id, ("", 0))
        self._by_user[user] -= size
        if not self._by_user[user]:
            del self._by_user[user]

    def is_over(self, user: str) -> bool:
        """Whether the recordings of ``user`` hold more than their share now."""
        try:
            found = os.statvfs(self.root)
        except OSError:
            return False  # a disk that cannot be asked cannot be written to, which says more
        room = found.f_bavail * found.f_frsize + self._by_user.total()
        return self._by_user[user] > room // PERSON_PART
