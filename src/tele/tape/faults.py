"""What can be wrong with a recording, and where?

Invariant: memory is bounded: :data:`FAULTS_LIMIT` faults are kept, the others counted.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

from attrs import define, field, frozen

#: Faults of one recording that are kept.
FAULTS_LIMIT: Final = 1000


class FaultKind(str, Enum):
    """Stable names for scripts."""

    #: The archive or the file has it under the id or in the place of something else.
    PLACE = "place"
    #: Auth's record of the session says something else.
    RECORD = "record"
    #: It is of another session or cluster.
    SESSION = "session"
    #: The manifest is missing, malformed or of an unsupported version.
    MANIFEST = "manifest"
    #: The manifest is not signed by the host that recorded the session.
    SIGNATURE = "signature"
    #: A chunk is missing.
    MISSING = "missing"
    #: A chunk was changed, or is of another recording.
    CHANGED = "changed"
    #: A chunk of this recording stands in the place of another one.
    MOVED = "moved"
    #: A chunk is there twice.
    REPEATED = "repeated"
    #: A chunk that the manifest does not name.
    EXTRA = "extra"
    #: A chunk does not follow the one before it.
    CHAIN = "chain"
    #: A chunk cannot be read.
    UNREADABLE = "unreadable"
    #: The recording does not end where it says.
    END = "end"
    #: A frame is missing, there twice, or not in its place.
    FRAMES = "frames"
    #: Times are not in order.
    TIME = "time"


@frozen
class Fault:
    """One thing that is wrong; ``chunk`` is the number of the chunk, if it is one."""

    kind: FaultKind
    text: str
    chunk: int | None = None


@define
class Faults:
    """Gathers faults. ``more`` counts those that were not kept."""

    kept: list[Fault] = field(factory=list)
    more: int = 0

    def add(self, kind: FaultKind, text: str, chunk: int | None = None) -> None:
        """Keep one, or count it."""
        if len(self.kept) < FAULTS_LIMIT:
            self.kept.append(Fault(kind, text, chunk))
        else:
            self.more += 1

    def __bool__(self) -> bool:
        """Whether something is wrong."""
        return bool(self.kept)
