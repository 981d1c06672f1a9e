"""How much space has a disk, and at which levels does auth react?"""

from __future__ import annotations

from enum import Enum
from typing import Final

from attrs import frozen

#: Less free space than this fraction of a disk is low.
LOW_PART: Final = 10
#: Below this fraction, or this many bytes if that is less, no recordings are accepted: the rest is
#: for the store.
TIGHT_PART: Final = 20
TIGHT_BYTES: Final = 1 << 30
#: The same for inodes: a recording has a file for each chunk.
TIGHT_FILES: Final = 10_000
#: The largest chunk of a recording.
PIECE_BYTES: Final = 8 << 20


class DiskLevel(str, Enum):
    """``low``: less than a tenth is free. ``tight``: recordings are refused, the free space is for
    the store. ``full``: the rest is reserved for logins, the audit and deletions.
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
    """The space of a disk, in bytes: ``free``, and the reserve, whole or in part.

    ``files`` is the number of inodes; 0 if the file system makes them as needed.
    """

    total: int
    free: int
    reserve: int
    reserve_left: int
    files: int = 0
    files_free: int = 0

    @property
    def level(self) -> DiskLevel:
        """The level of this space."""
        if self.reserve_left < self.reserve:
            return DiskLevel.FULL
        if self.free < kept_for_store(self.total) + PIECE_BYTES or self.lacks_files:
            return DiskLevel.TIGHT
        if self.free < self.total // LOW_PART or self.files_free < self.files // LOW_PART:
            return DiskLevel.LOW
        return DiskLevel.OK

    @property
    def lacks_files(self) -> bool:
        """Whether the free inodes are reserved for the store."""
        return bool(self.files) and self.files_free <= files_kept_for_store(self.files)
