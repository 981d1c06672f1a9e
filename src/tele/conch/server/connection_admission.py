"""Which unauthenticated connections does a server accept, and what does it log of the others?

Invariants:

* What an unauthenticated client can cause to be logged is rate-limited, and what was omitted is
  counted. Refused connections are reported once a minute.
* An address from which members of the cluster log in, or that many users are known to share
  (``shared``), such as a proxy's, is not refused for penalties and has a larger share: a fleet
  behind one NAT address reconnects all at once.
* No address holds all places: users of a node may connect from behind its address, too.
* A connection waits while its address holds all its places. A refused client gets the reason, at a
  limited rate.
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

#: Log lines at once, and per second.
LINES_BURST: Final = 50.0
LINES_PER_SECOND: Final = 2.0
#: The same of one source.
SOURCE_LINES_BURST: Final = 10.0
SOURCE_LINES_PER_SECOND: Final = 0.2
#: Denied attempts in the audit at once, and per second; the same of one source.
DENIED_BURST: Final = 100.0
DENIED_PER_SECOND: Final = 5.0
SOURCE_DENIED_BURST: Final = 20.0
SOURCE_DENIED_PER_SECOND: Final = 0.5
REPORT_SECONDS: Final = 60.0
#: Sources that a report lists.
SOURCES_LIMIT: Final = 16

TOO_MANY: Final = "too_many"
#: Refused clients that get the reason: at once, and per second.
NOTICES_BURST: Final = 50.0
NOTICES_PER_SECOND: Final = 20.0


class WaitingConnection(Protocol):
    """A connection that waits for a start-up place."""

    def place_freed(self, waiting: WaitingList[WaitingConnection], source: str) -> None:
        """Take a place, if this connection still waits in this list and for this source."""

    def displaced(self) -> None:
        """Wait no longer: fewer connections of another source wait."""


@frozen
class Refused:
    """Connections that were refused in the last minute.

    ``why`` counts them by reason: ``too_many``, or the fault of a penalty. ``sources`` are
    some of their addresses.
    """

    count: int
    why: Mapping[str, int]
    sources: tuple[str, ...]


def denied_limiter() -> ReportLimiter:
    """Return the limiter of denied attempts in the audit; sources are :func:`source_network`."""
    each = RateLimiter(SOURCE_DENIED_BURST, SOURCE_DENIED_PER_SECOND)
    return ReportLimiter(RateLimiter(DENIED_BURST, DENIED_PER_SECOND), each)


class RateLimitedLog:
    """The log of what unauthenticated clients cause.

    Each source has a share: one that causes many lines hides no other.
    """

    def __init__(self, clock: IReactorTime, part: str = "") -> None:
        self._clock = clock
        #: What each line has.
        self.fields: Mapping[str, str] = {"part": part} if part else {}
        each = RateLimiter(SOURCE_LINES_BURST, SOURCE_LINES_PER_SECOND)
        self._limiter = ReportLimiter(RateLimiter(LINES_BURST, LINES_PER_SECOND), each)

    def of(self, host: str) -> Lines:
        """Return the log of clients from ``host``."""
        return _LinesOf(self, host)

    def write(self, host: str, text: str, /, **fields: object) -> None:
        """Log an event of a client from ``host``, unless there were too many."""
        omitted = self._limiter.admit(self._clock.seconds(), source_network(host))
        if omitted is None:
            return
        if omitted:
            log.info("log lines of unauthenticated clients omitted", count=omitted, **self.fields)
        log.info(text, **{**self.fields, **fields})


@frozen
class _LinesOf:
    """The log of clients from ``_host``."""

    _log: RateLimitedLog
    _host: str

    def info(self, text: str, /, **fields: object) -> None:
        """See :class:`Lines`."""
        self._log.write(self._host, text, **fields)


class ConnectionAdmission:
    """Admits connections to one listening server. ``draw`` returns a random number in [0, 1)."""

    def __init__(
        self,
        clock: IReactorTime,
        limits: Limits,
        draw: Callable[[], float],
        shared: Callable[[str], bool],
        on_refused: Callable[[Refused], None],
        part: str = "",
    ) -> None:
        self.lines = RateLimitedLog(clock, part)
        #: What says in the log which server it is, if a process has several.
        self.log_fields = self.lines.fields
        self.startups = Startups(limits, draw)
        #: Connections that a proxy of the cluster relays, counted apart. None is refused before
        #: all places are taken.
        self.vouched = Startups(limits, lambda: 1.0)
        self.penalties = Penalties(limits.penalties)
        self.member_sources = MemberSources()
        #: Closes an unauthenticated connection to free one of these places; returns whether it did.
        self.close_one: Callable[[Startups], bool] = lambda _: False
        #: Connections that wait for a place in ``startups``, and in ``vouched``.
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
        """Admit a connection from ``host``; None if it is refused. See :class:`Startups`."""
        member = self.is_member_source(host)
        fault = None if member else self.penalties.refuses(host, self._clock.seconds())
        if fault is not None:
            self.refused(host, fault.value)
            return None
        source = self._take_place(self.startups, host, member)
        if source is None:
            self.refused(host, TOO_MANY)
        return source

    def _take_place(self, startups: Startups, host: str, member: bool) -> str | None:
        source = startups.enter(host, member)
        if source is None and startups.is_full_for(host) and self.close_one(startups):
            source = startups.enter(host, member)
        return source

    def enter_waiting(self, waiting: WaitingList[WaitingConnection], host: str) -> str | None:
        """Admit a connection that waited in ``waiting``; None: no place is free after all.

        The next one of the same source is called, too, if a place is free for it, or if none of
        its source holds a place, whose end would call it.
        """
        vouched = waiting is self.vouched_waiting
        startups = self._startups_of(waiting)
        member = vouched or self.is_member_source(host)
        place = self._take_place(startups, host, member)
        source = source_network(host)
        refuses_next = startups.may_refuse(source, member)
        if not (startups.held(source) if place is None else refuses_next):
            self.call_next(waiting, source)
        return place

    def will_call(self, waiting: WaitingList[WaitingConnection], source: str) -> bool:
        """Whether waiting connections of ``source`` will be called: one of it holds a place."""
        return self._startups_of(waiting).held(source) > 0

    def _startups_of(self, waiting: WaitingList[WaitingConnection]) -> Startups:
        return self.vouched if waiting is self.vouched_waiting else self.startups

    def must_wait(self, host: str) -> bool:
        """Whether a connection from ``host`` waits: its source has no penalty, holds places, and
        gets no more of them now.
        """
        member = self.is_member_source(host)
        if not member and self.penalties.refuses(host, self._clock.seconds()) is not None:
            return False
        return self._is_crowded(self.startups, self.waiting, host, member)

    def vouched_must_wait(self, host: str) -> bool:
        """The same of a connection that a proxy relays."""
        return self._is_crowded(self.vouched, self.vouched_waiting, host, member=True)

    def _is_crowded(
        self, startups: Startups, waiting: WaitingList[WaitingConnection], host: str, member: bool
    ) -> bool:
        source = source_network(host)
        if not waiting.accepts(source):
            return False
        return startups.may_refuse(source, member) or waiting.first(source) is not None

    def why(self, host: str) -> str:
        """Return the text for a client that is refused."""
        if not self.is_member_source(host) and self.penalties.refuses(host, self._clock.seconds()):
            return "too many failed logins from your address; try again later"
        return "too many unauthenticated connections; try again"

    def may_notify(self) -> bool:
        """Whether a refused client may get the reason."""
        return self._notices.take("", self._clock.seconds())

    def enter_vouched(self, host: str) -> str | None:
        """Admit a connection that a proxy relays from ``host``; None if there are too many.

        Its client has authenticated to the proxy: an address has the share of a member source.
        """
        source = self._take_place(self.vouched, host, member=True)
        if source is None:
            self.refused(host, TOO_MANY)
        return source

    def leave(self, source: str) -> None:
        """A connection has authenticated or is closed. See :class:`Startups`."""
        self.startups.leave(source)
        self.call_next(self.waiting, source)

    def leave_vouched(self, source: str) -> None:
        """A relayed connection has authenticated or is closed."""
        self.vouched.leave(source)
        self.call_next(self.vouched_waiting, source)

    def call_next(self, waiting: WaitingList[WaitingConnection], source: str) -> None:
        """Notify the connection that waits longest, in the next turn of the reactor."""
        first = waiting.first(source)
        if first is not None:
            waiting.remove(source, first)
            self._clock.callLater(0, first.place_freed, waiting, source)

    def member_entered(self, host: str) -> None:
        """A member of the cluster has logged in from ``host``."""
        self.member_sources.note(host, self._clock.seconds())

    def penalize(self, host: str, fault: Fault) -> None:
        """Add a penalty to ``host`` for a connection that did not authenticate."""
        if self.is_member_source(host):
            return
        if self.penalties.penalize(host, fault, self._clock.seconds()):
            self.lines.of(host).info(
                "address refused for a while", address=host, reason=fault.value
            )

    def is_member_source(self, host: str) -> bool:
        """Whether members of the cluster connect from ``host``: many may be behind it."""
        return self._shared(host) or self.member_sources.has(host, self._clock.seconds())

    def refused(self, host: str, why: str) -> None:
        """A connection from ``host`` was refused for ``why``; reported once a minute."""
        if not self._why:
            self.lines.of(host).info(
                "connections refused, a count follows", address=host, reason=why
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
            "connections refused",
            count=refused.count,
            addresses=", ".join(refused.sources),
            **self.log_fields,
        )
        self._on_refused(refused)

    def close(self) -> None:
        """Report what is not reported yet. May be called twice."""
        if self._timer is not None:
            self._timer.cancel()
            self._report()
