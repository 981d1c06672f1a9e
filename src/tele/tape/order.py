"""Is every frame of a session there, or stated as lost?

The frames of a session have the numbers 1, 2, 3 and so on, given before anything can drop one.

Invariants:

* Each number up to that of the END frame is in exactly one frame, or in exactly one range of a GAP
  frame that comes later.
* Frames are in the order of their numbers.
* Memory is bounded by :data:`RANGES_LIMIT`.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from operator import itemgetter
from typing import Final

from tele.errors import BadRecording
from tele.model.frame import Frame, FrameKind
from tele.tape.details import details

#: Ranges of one gap, and ranges that wait for the gap that states them.
RANGES_LIMIT: Final = 10_000

Range = tuple[int, int]


def named(first: int, last: int) -> str:
    """Return a range of frames in words."""
    return f"frame {first} is" if first == last else f"frames {first} to {last} are"


class SequenceCheck:
    """Takes the frames of one recording in order. Each method raises :class:`BadRecording`."""

    def __init__(self) -> None:
        self._next = 1
        #: Numbers that were skipped, and no gap has stated yet, in ascending order.
        self._skipped: list[Range] = []
        #: The same of those that may be in chunks that are known to be lost.
        self._excused: list[Range] = []
        self._after_hole = False

    def hole(self) -> None:
        """Chunks are known to be lost here: what they had is not asked for."""
        self._after_hole = True
        self._excused += self._skipped
        self._skipped = []

    @property
    def skipped(self) -> Sequence[Range]:
        """Numbers that were skipped and that no gap has stated as lost so far."""
        return tuple(self._skipped)

    def take(self, frame: Frame) -> None:
        """Take the next frame; one of an unknown kind is taken by :meth:`number`."""
        if frame.kind is FrameKind.START:
            if frame.sequence != 0:
                raise BadRecording("its first frame has a number")
        elif frame.kind is FrameKind.GAP:
            self._reach(frame.sequence)
            for first, last in stated_ranges(frame):
                if last > frame.sequence:
                    raise BadRecording(f"{named(first, last)} stated as lost before its time")
                self._state(first, last)
            self._after_hole = False
        elif frame.kind is FrameKind.END:
            self.end(frame.sequence)
        else:
            self.number(frame.sequence)

    def number(self, sequence: int) -> None:
        """Take the number of a frame that has one."""
        if sequence < 1:
            raise BadRecording(f"a frame after frame {self._next - 1} has no number")
        if sequence < self._next:
            at = bisect_right(self._skipped, sequence, key=itemgetter(0)) - 1
            skipped = at >= 0 and sequence <= self._skipped[at][1]
            wrong = f"stands after frame {self._next - 1}" if skipped else "is there twice"
            raise BadRecording(f"frame {sequence} {wrong}")
        self._reach(sequence - 1)
        self._next = sequence + 1
        self._after_hole = False

    def end(self, sequence: int) -> None:
        """Check at the END frame, which has the last number."""
        if sequence < self._next - 1:
            raise BadRecording(f"its end is after frame {sequence}, but it has {self._next - 1}")
        self._reach(sequence)
        if self._skipped:
            raise BadRecording(f"{named(*self._skipped[0])} missing")

    def _reach(self, sequence: int) -> None:
        """Note that numbers up to ``sequence`` were given out."""
        if sequence < self._next:
            return
        kept = self._excused if self._after_hole else self._skipped
        if kept and kept[-1][1] == self._next - 1:
            kept[-1] = kept[-1][0], sequence
        else:
            kept.append((self._next, sequence))
        self._next = sequence + 1
        if len(self._skipped) + len(self._excused) > RANGES_LIMIT:
            raise BadRecording("too many frames are missing")

    def _state(self, first: int, last: int) -> None:
        """Take a range that a gap states as lost."""
        for kept in (self._skipped, self._excused):
            at = bisect_right(kept, first, key=itemgetter(0)) - 1
            if at >= 0 and last <= kept[at][1]:
                a, b = kept[at]
                rest = [(a, first - 1), (last + 1, b)]
                kept[at : at + 1] = [(low, high) for low, high in rest if low <= high]
                return
        raise BadRecording(f"{named(first, last)} stated as lost, but is there or stated twice")


def stated_ranges(frame: Frame) -> Sequence[Range]:
    """Return the numbers that a gap states as lost. Raises :class:`BadRecording`."""
    stated = details(frame).get("frames", [])
    if not isinstance(stated, list) or len(stated) > RANGES_LIMIT:
        raise BadRecording("a gap does not state which frames are lost")
    found = []
    for each in stated:
        if not isinstance(each, list) or len(each) != 2 or any(type(n) is not int for n in each):
            raise BadRecording("a gap does not state which frames are lost")
        first, last = each
        if not 1 <= first <= last:
            raise BadRecording("a gap does not state which frames are lost")
        found.append((first, last))
    return found
