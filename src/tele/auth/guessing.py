"""When is the next attempt at a user's password accepted, and from which source?

Failures are counted for a user and a source: a network, or a device that proved that it has logged
in as this user before. A client that guesses delays itself and not the user. Guesses from many
networks are slowed together: networks from which the user has not logged in share :data:`GUESSES`
an hour.

Invariants:

* Bookkeeping only: times are arguments, and a :class:`Guard` is a value.
* Attempts from unknown sources change nothing for sources from which the user has logged in.
* An attempt that is refused for coming too early changes nothing: it makes no wait longer.
* A clock that was set back makes no wait longer and gives no more guesses: dates in the future
  become the present, and a wait keeps its length.
* A guard is bounded: it has the last :data:`SOURCES` known sources and as many unknown ones;
  neither kind displaces the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from enum import Enum
from typing import Final

from attrs import Factory, evolve, frozen

#: Wrong passwords from one source until it has to wait.
FAILURES: Final = 5
#: The first wait; each further wrong password doubles it. It is short after a mistyped password,
#: and leaves a guesser fifteen attempts in the first hour and one in each later one.
FIRST_WAIT: Final = timedelta(seconds=5)
LONGEST_WAIT: Final = timedelta(hours=1)
#: Failures count until there was none for so long.
WINDOW: Final = timedelta(hours=12)
#: How long a source stays known after the user logged in from it.
KNOWN_FOR: Final = timedelta(days=90)
#: Wrong passwords from all unknown sources together: the burst, and the rate in an hour.
GUESSES: Final = 30
SOURCES: Final = 32


class Outcome(str, Enum):
    """The result of an attempt; the client learns no more than whether it is GOOD."""

    GOOD = "good"
    UNKNOWN = "unknown user"
    WRONG = "wrong password"
    LAST = "wrong password; this source has to wait now"
    LAST_OF_ALL = "wrong password; all unknown sources have to wait now"
    LOCKED_OUT = "this source has to wait after too many failures"
    ALL_LOCKED_OUT = "unknown sources have to wait after too many failures"


@frozen
class Source:
    """The attempts from one source; ``known`` is when the user last logged in from it."""

    seen: datetime
    failures: int = 0
    wait_until: datetime | None = None
    known: datetime | None = None

    def moved_to(self, now: datetime) -> Source:
        """Return the source after the clock was set back to ``now``, before the last attempt."""
        wait = None if self.wait_until is None else now + (self.wait_until - self.seen)
        known = None if self.known is None else min(self.known, now)
        return Source(now, self.failures, wait, known)


@frozen
class Guard:
    """The attempts at one user's password.

    ``guesses`` is how many guesses of the unknown sources were used up at the time ``counted``.
    """

    sources: Mapping[str, Source] = Factory(dict)
    guesses: float = 0.0
    counted: datetime | None = None

    def _at(self, now: datetime) -> Guard:
        """Return the guard without dates after ``now``."""
        late = {name: s for name, s in self.sources.items() if s.seen > now}
        if not late and (self.counted is None or self.counted <= now):
            return self
        moved = {name: source.moved_to(now) for name, source in late.items()}
        counted = None if self.counted is None else min(self.counted, now)
        return evolve(self, sources={**self.sources, **moved}, counted=counted)

    def _used(self, now: datetime) -> float:
        if self.counted is None:
            return 0.0
        hours = max(0.0, (now - self.counted).total_seconds()) / 3600
        return max(0.0, self.guesses - hours * GUESSES)

    def attempt(
        self, name: str, good: bool, now: datetime, *, device: bool = False
    ) -> tuple[Outcome, Guard]:
        """Return the outcome of an attempt from the source ``name``, and the guard after it.

        ``device``: the source is a device that proved itself.
        """
        if (moved := self._at(now)) is not self:
            return moved.attempt(name, good, now, device=device)
        source = self.sources.get(name) or Source(now)
        if source.wait_until is not None and now < source.wait_until:
            return Outcome.LOCKED_OUT, self
        known = device or (source.known is not None and now - source.known < KNOWN_FOR)
        used = self._used(now)
        if not known and used + 1 > GUESSES:
            return Outcome.ALL_LOCKED_OUT, self
        if good:
            # A device proves each time that it is known: no source is stored for it.
            return Outcome.GOOD, self._remember(name, None if device else Source(now, known=now))
        failures = 1 + (source.failures if now - source.seen < WINDOW else 0)
        wait = min(LONGEST_WAIT, FIRST_WAIT * 2.0 ** min(failures - FAILURES, 16))
        until = now + wait if failures >= FAILURES else None
        after = self._remember(name, evolve(source, seen=now, failures=failures, wait_until=until))
        outcome = Outcome.WRONG if until is None else Outcome.LAST
        if not known:
            after = evolve(after, guesses=used + 1, counted=now)
            if used + 2 > GUESSES:
                outcome = Outcome.LAST_OF_ALL
        return outcome, after

    def _remember(self, name: str, source: Source | None) -> Guard:
        sources = dict(self.sources)
        sources.pop(name, None)
        if source is not None:
            sources[name] = source
            alike = [n for n, s in sources.items() if (s.known is None) is (source.known is None)]
            if len(alike) > SOURCES:
                del sources[min(alike, key=lambda n: sources[n].seen)]
        return evolve(self, sources=sources)
