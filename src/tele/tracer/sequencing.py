"""In which order did what is read from two rings and many processors happen? What is missing?

Invariants:

* Standard library, no clock: the time is an argument.
* Records of a session leave in the order of their numbers. A number that does not come is
  reported as lost, in its place, and only once.
* What is held back is bounded: by what the kernel had lost when the rings were last empty, by time,
  and by a number of records.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from tele.tracer import records

#: Seconds after which a number counts as lost that the kernel does not yet count as lost.
PATIENCE: Final = 2.0
#: Records of one session that wait for an earlier one.
HELD_LIMIT: Final = 20_000


class Sequence:
    """Records of one session."""

    def __init__(self) -> None:
        self._next = 1
        self._held: dict[int, bytes] = {}
        self._since = 0.0
        #: Records that left, and numbers that were reported as lost.
        self.passed = 0
        self.lost = 0

    @property
    def waits(self) -> bool:
        """Whether a record waits for an earlier one."""
        return bool(self._held)

    def add(self, number: int, record: bytes, out: list[bytes], now: float) -> None:
        """Take a record; append what can leave to ``out``."""
        if number == self._next:
            out.append(record)
            self._next += 1
            self.passed += 1
            if self._held:
                self._pass(out)
                self._since = now
        elif number > self._next:
            if not self._held:
                self._since = now
            self._held[number] = record

    def settle(self, session: int, lost: int, out: list[bytes], now: float) -> None:
        """The rings were read to their ends after the kernel had lost ``lost`` records."""
        while self._held:
            first = min(self._held)
            gap = first - self._next
            known = lost - self.lost >= self._missing()
            late = now - self._since >= PATIENCE or len(self._held) > HELD_LIMIT
            if not known and not late:
                return
            out.append(records.lost(session, self._next, first - 1))
            self.lost += gap
            self._next = first
            self._pass(out)
            self._since = now

    def finish(self, session: int, last: int, out: list[bytes]) -> None:
        """No more comes: the highest number that was given is ``last``."""
        while self._held:
            first = min(self._held)
            out.append(records.lost(session, self._next, first - 1))
            self.lost += first - self._next
            self._next = first
            self._pass(out)
        if last >= self._next:
            out.append(records.lost(session, self._next, last))
            self.lost += last - self._next + 1
            self._next = last + 1

    def tail(self, session: int, last: int, lost: int, out: list[bytes]) -> None:
        """All up to ``last`` has been read or lost: report what is lost at the end."""
        if not self._held and last - (self._next - 1) == lost - self.lost > 0:
            self.finish(session, last, out)

    def _missing(self) -> int:
        return max(self._held) - self._next + 1 - len(self._held)

    def _pass(self, out: list[bytes]) -> None:
        while (record := self._held.pop(self._next, None)) is not None:
            out.append(record)
            self._next += 1
            self.passed += 1


class Sequencer:
    """Records of all sessions. ``kernel`` tells the numbers given and lost of a session."""

    def __init__(self, kernel: Callable[[int], tuple[int, int]]) -> None:
        self._kernel = kernel
        self._sessions: dict[int, Sequence] = {}

    def start(self, session: int) -> None:
        """Expect records of ``session`` from number 1."""
        self._sessions[session] = Sequence()

    def add(self, record: bytes, out: list[bytes], now: float) -> int:
        """Take a record from a ring; return its session. One that is not expected is dropped."""
        session, number = records.PLACE.unpack_from(record)
        sequence = self._sessions.get(session)
        if sequence is not None:
            sequence.add(number, record, out, now)
        return int(session)

    def states(self, *, everything: bool) -> dict[int, tuple[int, int]]:
        """Ask the kernel for numbers given and lost, before the rings are read to their ends: of
        sessions with a record that waits, or of all.
        """
        return {
            session: self._kernel(session)
            for session, sequence in self._sessions.items()
            if everything or sequence.waits
        }

    def settle(self, states: dict[int, tuple[int, int]], out: list[bytes], now: float) -> None:
        """Report what is lost: the rings were read to their ends after ``states``."""
        for session, (last, lost) in states.items():
            sequence = self._sessions.get(session)
            if sequence is not None:
                sequence.settle(session, lost, out, now)
                sequence.tail(session, last, lost, out)

    def stop(self, session: int, last: int, out: list[bytes]) -> tuple[int, int]:
        """Report all that is missing up to ``last``; return how many passed and were lost."""
        sequence = self._sessions.pop(session)
        sequence.finish(session, last, out)
        return sequence.passed, sequence.lost
