"""How much space is left, and what does that mean?"""

from __future__ import annotations

from enum import Enum
from typing import Final

from attrs import frozen

#: Less of a disk than one part in so many is little.
LOW_PART: Final = 10
#: Below one part in so many, or this many bytes where that is less, no recordings are taken: the
#: rest is for the store.
TIGHT_PART: Final = 20
TIGHT_BYTES: Final = 1 << 30
#: The same for inodes: a recording has a file for each chunk.
TIGHT_FILES: Final = 10_000
#: The largest piece of a recording.
PIECE_BYTES: Final = 8 << 20


class DiskLevel(str, Enum):
    """``low``: less than a tenth is free. ``tight``: recordings are refused, for what
    is free is kept for the rest. ``full``: what is
    left is reserved for log-ins, for the audit and for those who make room.
    """

    OK = "ok"
    LOW = "low"
    TIGHT = "tight"
    FULL = "full"


def kept_for_store(total: int) -> int:
    """Return how many bytes of a disk of ``total`` bytes recordings leave free."""
    return min(total // TIGHT_PART, TIGHT_BYTES)


def files_kept_for_store(total: int) -> int:
    """Return how many inodes of a disk with ``total`` of them recordings leave free."""
    return min(total // TIGHT_PART, TIGHT_FILES)


@frozen
class DiskSpace:
    """What a disk has, in bytes: ``free`` for everybody, and a reserve, whole or in part.

    ``files`` is how many inodes it has; 0 where it makes them as they are needed.
    """

    total: int
    free: int
    reserve: int
    reserve_left: int
    files: int = 0
    files_free: int = 0

    @property
    def level(self) -> DiskLevel:
        """What that means."""
        if self.reserve_left < self.reserve:
            return DiskLevel.FULL
        if self.free < kept_for_store(self.total) + PIECE_BYTES or self.lacks_files:
            return DiskLevel.TIGHT
        if self.free < self.total // LOW_PART or self.files_free < self.files // LOW_PART:
            return DiskLevel.LOW
        return DiskLevel.OK

    @property
    def lacks_files(self) -> bool:
        """Whether the inodes that are left are kept for the store."""
        return bool(self.files) and self.files_free <= files_kept_for_store(self.files)
