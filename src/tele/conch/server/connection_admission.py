"""Who may come in while nobody knows who it is, and who hears of those that may not?

Invariants:

* All that a stranger can cause to be written is rationed here, and what was left out is
  counted: lines of the log one by one, refused connections once a minute.
* An address from which members of the cluster log in, or that many people are known to share
  (``shared``), as behind a proxy of the cluster, is not shut out, and has a larger share: a fleet
  behind one NAT address comes back all at once.
* No address has all places: who works on a node is behind its address, too.
* Who finds the places of their address taken waits for one; who is refused is told why, at a rate.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Final, Protocol

from attrs import frozen
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from tele.admission.limits import Limits, Startups
from tele.admission.member_sources import MemberSources
from tele.admission.penalties import Fault, Penalties
from tele.admission.rate_limiter import RateLimiter, ReportLimiter
from tele.admission.waiting_list import WaitingList
from tele.log import Lines, make_logger
from tele.model.addresses import source_network

log = make_logger(__name__)

#: Lines of the log in one go, and how many more each second.
LINES_BURST: Final = 50.0
LINES_PER_SECOND: Final = 2.0
#: The same of one source.
SOURCE_LINES_BURST: Final = 10.0
SOURCE_LINES_PER_SECOND: Final = 0.2
#: Denied attempts in the audit in one go, and how many more each second; the same of one source.
DENIED_BURST: Final = 100.0
DENIED_PER_SECOND: Final = 5.0
SOURCE_DENIED_BURST: Final = 20.0
SOURCE_DENIED_PER_SECOND: Final = 0.5
REPORT_SECONDS: Final = 60.0
#: Sources that a report names.
SOURCES_LIMIT: Final = 16

TOO_MANY: Final = "too_many"


#: Refused connections that are told why in one go, and how many more each second.
NOTICES_BURST: Final = 50.0
NOTICES_PER_SECOND: Final = 20.0


class WaitingConnection(Protocol):
    """A connection that waits for a place."""

    def place_freed(self, waiting: WaitingList[WaitingConnection], source: str) -> None:
        """Take a place now, if it waits still in this list and as this source."""

    def make_room(self) -> None:
        """Wait no more: of another source nobody waits, or fewer."""


@frozen
class Refused:
    """Connections that were closed unseen in the last minute.

    ``why`` counts them by reason: ``too_many``, or the fault of a penalty. ``sources`` are
    some of the addresses that they came from.
    """

    count: int
    why: Mapping[str, int]
    sources: tuple[str, ...]


def denied_limiter() -> ReportLimiter:
    """Return which denied attempts are told to the audit; sources are :func:`source_network`."""
    each = RateLimiter(SOURCE_DENIED_BURST, SOURCE_DENIED_PER_SECOND)
    return ReportLimiter(RateLimiter(DENIED_BURST, DENIED_PER_SECOND), each)


class RateLimitedLog:
    """The log, as far as strangers can write to it. Formats are constants of the source.

    Each source has a share of it: one that makes itself heard all the time hides no other.
    """

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        each = RateLimiter(SOURCE_LINES_BURST, SOURCE_LINES_PER_SECOND)
        self._limiter = ReportLimiter(RateLimiter(LINES_BURST, LINES_PER_SECOND), each)

    def of(self, host: str) -> Lines:
        """Return the part of it for strangers from ``host``."""
        return _LinesOf(self, host)

    def write(self, host: str, text: str, /, **fields: object) -> None:
        """Log a line about a stranger from ``host``, if there may be one more."""
        unsaid = self._limiter.admit(self._clock.seconds(), source_network(host))
        if unsaid is None:
            return
        if unsaid:
            log.info("{count} lines about strangers were left out", count=unsaid)
        log.info(text, **fields)


@frozen
class _LinesOf:
    """Lines about strangers from ``_host``."""

    _log: RateLimitedLog
    _host: str

    def info(self, text: str, /, **fields: object) -> None:
        """See :class:`Lines`."""
        self._log.write(self._host, text, **fields)


class ConnectionAdmission:
    """The door of one listening server. ``draw`` returns a random number in [0, 1)."""

    def __init__(
        self,
        clock: IReactorTime,
        limits: Limits,
        draw: Callable[[], float],
        shared: Callable[[str], bool],
        on_refused: Callable[[Refused], None],
    ) -> None:
        self.lines = RateLimitedLog(clock)
        self.startups = Startups(limits, draw)
        #: Those whom a proxy of the cluster brought: they keep no strangers out, nor strangers
        #: them; only when their places are all taken has one to go.
        self.vouched = Startups(limits, lambda: 1.0)
        self.penalties = Penalties(limits.penalties)
        self.member_sources = MemberSources()
        #: Ends a connection that has not logged in, so that one of these places is free; whether it
        #: did.
        self.make_room: Callable[[Startups], bool] = lambda _: False
        #: Who waits for a place in ``startups``, and in ``vouched``.
        self.waiting: WaitingList[WaitingConnection] = WaitingList(
            limits.waiting, limits.waiting_per_source
        )
        self.vouched_waiting: WaitingList[WaitingConnection] = WaitingList(
            limits.waiting, limits.waiting_per_source
        )
        self._notices = RateLimiter(NOTICES_BURST, NOTICES_PER_SECOND)
        self._clock = clock
        self._shared = shared
        self._on_refused = on_refused
        self._why: Counter[str] = Counter()
        self._sources: dict[str, None] = {}
        self._timer: IDelayedCall | None = None

    def enter(self, host: str) -> str | None:
        """Take in a connection from ``host``; None if it is refused. See :class:`Startups`."""
        home = self.is_member_source(host)
        fault = None if home else self.penalties.refuses(host, self._clock.seconds())
        if fault is not None:
            self.refused(host, fault.value)
            return None
        source = self._take_place(self.startups, host, home)
        if source is None:
            self.refused(host, TOO_MANY)
        return source

    def _take_place(self, startups: Startups, host: str, home: bool) -> str | None:
        source = startups.enter(host, home)
        if source is None and startups.is_full_for(host) and self.make_room(startups):
            source = startups.enter(host, home)
        return source

    def enter_waiting(self, waiting: WaitingList[WaitingConnection], host: str) -> str | None:
        """Take in who waited in ``waiting`` and was called; None: there is no place after all.

        The next one of the same source is called, too, if there is a place for it, or if none
        of its source has a place, whose end would call it.
        """
        vouched = waiting is self.vouched_waiting
        startups, home = self._startups_of(waiting), vouched or self.is_member_source(host)
        place = self._take_place(startups, host, home)
        source = source_network(host)
        refuses_next = startups.may_refuse(source, home)
        if not (startups.held(source) if place is None else refuses_next):
            self.call_next(waiting, source)
        return place

    def will_call(self, waiting: WaitingList[WaitingConnection], source: str) -> bool:
        """Whether who waits is called some time: one of its source has a place, and leaves it."""
        return self._startups_of(waiting).held(source) > 0

    def _startups_of(self, waiting: WaitingList[WaitingConnection]) -> Startups:
        return self.vouched if waiting is self.vouched_waiting else self.startups

    def must_wait(self, host: str) -> bool:
        """Whether a connection from ``host`` waits: its source has places, and no more of them now;
        and nothing is held against it.
        """
        home = self.is_member_source(host)
        if not home and self.penalties.refuses(host, self._clock.seconds()) is not None:
            return False
        return self._is_crowded(self.startups, self.waiting, host, home)

    def vouched_must_wait(self, host: str) -> bool:
        """The same of somebody whom a proxy brings."""
        return self._is_crowded(self.vouched, self.vouched_waiting, host, home=True)

    def _is_crowded(
        self, startups: Startups, waiting: WaitingList[WaitingConnection], host: str, home: bool
    ) -> bool:
        source = source_network(host)
        if not waiting.has_room(source):
            return False
        return startups.may_refuse(source, home) or waiting.first(source) is not None

    def why(self, host: str) -> str:
        """Say in words for a client why it was refused."""
        if not self.is_member_source(host) and self.penalties.refuses(host, self._clock.seconds()):
            return "too many attempts to log in failed from your address; try again later"
        return "too many connections have not logged in yet; try again"

    def may_notify(self) -> bool:
        """Whether a connection that is refused may be told why."""
        return self._notices.take("", self._clock.seconds())

    def enter_vouched(self, host: str) -> str | None:
        """Take in somebody whom a proxy brings from ``host``; None if there are too many.

        Many people are behind a proxy's word, who proved who they are to it: the share of an
        address is that of a home.
        """
        source = self._take_place(self.vouched, host, home=True)
        if source is None:
            self.refused(host, TOO_MANY)
        return source

    def leave(self, source: str) -> None:
        """A connection has logged in or is gone. See :class:`Startups`."""
        self.startups.leave(source)
        self.call_next(self.waiting, source)

    def leave_vouched(self, source: str) -> None:
        """One whom a proxy brought has logged in or is gone."""
        self.vouched.leave(source)
        self.call_next(self.vouched_waiting, source)

    def call_next(self, waiting: WaitingList[WaitingConnection], source: str) -> None:
        """Let who waits longest know that a place is free, but not now: somebody is at work."""
        first = waiting.first(source)
        if first is not None:
            waiting.remove(source, first)
            self._clock.callLater(0, first.place_freed, waiting, source)

    def member_entered(self, host: str) -> None:
        """A member of the cluster has logged in from ``host``."""
        self.member_sources.note(host, self._clock.seconds())

    def penalize(self, host: str, fault: Fault) -> None:
        """Hold a connection that did not log in against where it came from."""
        if self.is_member_source(host):
            return
        if self.penalties.penalize(host, fault, self._clock.seconds()):
            self.lines.of(host).info(
                "{host!r} is shut out for a while: {fault}", host=host, fault=fault.value
            )

    def is_member_source(self, host: str) -> bool:
        """Whether members of the cluster come from ``host``: many may be behind it."""
        return self._shared(host) or self.member_sources.has(host, self._clock.seconds())

    def refused(self, host: str, why: str) -> None:
        """A connection from ``host`` was closed unseen, for ``why``; it is told once a minute."""
        if not self._why:
            self.lines.of(host).info(
                "connections are refused, the first one from {host!r}: {why}; how many they are"
                " follows within a minute",
                host=host,
                why=why,
            )
        self._why[why] += 1
        if len(self._sources) < SOURCES_LIMIT:
            self._sources.setdefault(host)
        if self._timer is None:
            self._timer = self._clock.callLater(REPORT_SECONDS, self._report)

    def _report(self) -> None:
        self._timer = None
        refused = Refused(self._why.total(), dict(self._why), tuple(self._sources))
        self._why.clear()
        self._sources.clear()
        log.info(
            "{count} connections of strangers were refused, from {sources!r}",
            count=refused.count,
            sources=refused.sources,
        )
        self._on_refused(refused)

    def close(self) -> None:
        """Report what is not reported yet. May be called twice."""
        if self._timer is not None:
            self._timer.cancel()
            self._report()
