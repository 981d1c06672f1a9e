"""Where can a replay begin? The screen at a time, and the steps that follow.

A recording with an index has keyframes (:mod:`tele.recording.seek`). Of any other one, states of
the screen are kept as it plays, and everything before the first of them is read again.

Invariant: memory is bounded, however long a recording is.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator
from itertools import dropwhile
from typing import TYPE_CHECKING, Final, Protocol

from attrs import frozen

from tele.terminal.emulator import Emulator
from tele.terminal.screen import Screen

if TYPE_CHECKING:
    from tele.recording.playback import Step

#: Seconds between two states that are kept, and how many are.
_KEEP_SECONDS: Final = 10.0
KEPT_LIMIT: Final = 32
#: Seconds from which on a keyframe is nearer than what has to be played up to there.
_FAR: Final = 20.0


@frozen
class Beginning:
    """The screen ``at`` a time, in seconds, and what follows, each with its number."""

    at: float
    emulator: Emulator
    steps: Iterator[tuple[int, Step]]


class Positions(Protocol):
    """Times at which a replay can begin. ``length`` is in seconds, None if it is not known."""

    length: float | None

    def begin(self, at: float) -> Beginning:
        """Return the nearest one that is not after ``at``."""

    def passed(self, number: int, at: float, emulator: Emulator) -> None:
        """Take note of the screen before step ``number``, which is due ``at`` a time."""

    def is_far(self, here: float, at: float) -> bool:
        """Whether beginning anew is nearer than playing from ``here`` on to the later time."""


@frozen
class _Kept:
    step: int
    at: float
    emulator: Emulator


def _numbered(steps: Iterator[Step]) -> Iterator[tuple[int, Step]]:
    """Number steps; those at the edge of a session that runs are other ones each time."""
    number = -1
    for step in steps:
        number += not step.edge
        yield max(number, 0), step


class KeptPositions:
    """States that were passed. ``steps`` yields all steps again at each call."""

    def __init__(
        self,
        steps: Callable[[], Iterator[Step]],
        size: tuple[int, int],
        length: float | None = None,
    ) -> None:
        self._steps = steps
        self._size = size
        self.length = length
        self.kept: list[_Kept] = []
        self._keep_seconds = _KEEP_SECONDS

    def begin(self, at: float) -> Beginning:
        """See :class:`Positions`."""
        found = bisect_right(self.kept, at, key=lambda each: each.at) - 1
        steps = _numbered(self._steps())
        if found < 0:
            return Beginning(0.0, Emulator(Screen(*self._size)), steps)
        kept = self.kept[found]
        rest = dropwhile(lambda pair: pair[0] < kept.step, steps)
        return Beginning(kept.at, kept.emulator.copy(), rest)

    def passed(self, number: int, at: float, emulator: Emulator) -> None:
        """See :class:`Positions`. If there are many, half as many are kept."""
        if self.kept and at < self.kept[-1].at + self._keep_seconds:
            return
        self.kept.append(_Kept(number, at, emulator.copy()))
        if len(self.kept) > KEPT_LIMIT:
            del self.kept[1::2]
            self._keep_seconds *= 2

    def is_far(self, here: float, at: float) -> bool:
        """See :class:`Positions`."""
        found = bisect_right(self.kept, at, key=lambda each: each.at) - 1
        return found >= 0 and self.kept[found].at > here + _FAR


class Position(Protocol):
    """What an index has of a time, see :mod:`tele.recording.seek`."""

    @property
    def at(self) -> float:
        """Seconds into the session, not after the time that was asked for."""

    @property
    def columns(self) -> int:
        """Columns of the screen."""

    @property
    def rows(self) -> int:
        """Rows of the screen."""

    @property
    def newline(self) -> bool:
        """Whether a line feed returns the cursor to the first column."""

    @property
    def state(self) -> bytes:
        """What makes the screen of an empty one."""

    @property
    def steps(self) -> Iterator[Step]:
        """What follows."""


class Seekable(Protocol):
    """A recording with an index. ``length`` is in seconds."""

    @property
    def length(self) -> float:
        """Its length in seconds."""

    def position(self, at: float, channel: int = 0, idle_limit: float | None = None) -> Position:
        """Return the keyframe before ``at``."""


class IndexedPositions:
    """Keyframes of ``seekable``."""

    def __init__(self, seekable: Seekable, channel: int, idle_limit: float | None) -> None:
        self._seekable = seekable
        self._channel = channel
        self._idle_limit = idle_limit
        self.length: float | None = seekable.length

    def begin(self, at: float) -> Beginning:
        """See :class:`Positions`."""
        at = min(at, self._seekable.length)
        found = self._seekable.position(at, self._channel, self._idle_limit)
        emulator = Emulator(Screen(found.columns, found.rows, newline=found.newline))
        emulator.feed(found.state)
        return Beginning(found.at, emulator, enumerate(found.steps))

    def passed(self, number: int, at: float, emulator: Emulator) -> None:
        """See :class:`Positions`. Nothing has to be kept."""

    def is_far(self, here: float, at: float) -> bool:
        """See :class:`Positions`."""
        return min(at, self._seekable.length) > here + _FAR


class Growing(Protocol):
    """An index that is being made beside the replay."""

    def seekable(self, channel: int) -> Seekable | None:
        """Return the recording with its index, once that is ready."""


class LocalPositions:
    """Those of ``kept`` until ``index`` is ready, which is asked for where a replay begins."""

    def __init__(
        self, kept: KeptPositions, index: Growing, channel: int, idle_limit: float | None
    ) -> None:
        self._kept = kept
        self._index = index
        self._channel = channel
        self._idle_limit = idle_limit
        self._indexed: IndexedPositions | None = None
        self.length: float | None = kept.length

    def _positions(self) -> Positions:
        if self._indexed is None and (found := self._index.seekable(self._channel)) is not None:
            self._indexed = IndexedPositions(found, self._channel, self._idle_limit)
            self._kept.kept.clear()
        return self._kept if self._indexed is None else self._indexed

    def begin(self, at: float) -> Beginning:
        """See :class:`Positions`."""
        return self._positions().begin(at)

    def passed(self, number: int, at: float, emulator: Emulator) -> None:
        """See :class:`Positions`."""
        if self._indexed is None:
            self._kept.passed(number, at, emulator)

    def is_far(self, here: float, at: float) -> bool:
        """See :class:`Positions`."""
        return self._positions().is_far(here, at)
