"""How does auth learn which sessions run on this node?

Invariants:

* A report is sent when auth has all events from before it was made: so auth never misses the
  start of a session in it, and never takes one for ended whose end is on its way.
* When the process starts, after each trouble, and every few minutes. Where events were lost, or a
  process before this one was killed, auth learns from the report what has ended.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

from tele.errors import InvalidInput, NotFound
from tele.log import make_logger
from tele.loop import now
from tele.membership.calls import Calls
from tele.model.api.sessions import REPORT_LIMIT, REPORT_SESSIONS, ReportSessions

REPORT_SECONDS: Final = 600.0

_log: Final = make_logger(__name__)


class SessionReport:
    """Tells auth what runs. ``running()`` is set by the node; a host without it reports nothing."""

    def __init__(self, reactor: Any, calls: Calls) -> None:
        self.running: Callable[[], Iterable[str]] | None = None
        self._reactor = reactor
        self._calls = calls
        self._since = now(reactor)
        self._next = reactor.seconds()

    @property
    def wait(self) -> float | None:
        """In how many seconds the next one is due; None: never."""
        if self.running is None:
            return None
        left: float = self._next - self._reactor.seconds()
        return max(0.0, left)

    def make(self) -> ReportSessions | None:
        """Return what runs now, if it is time to say so."""
        if self.running is None or self.wait:
            return None
        return ReportSessions(self._since, tuple(self.running()))

    def soon(self) -> None:
        """Something went wrong: auth may have missed something, or have given us up."""
        self._next = self._reactor.seconds()

    async def send(self, said: ReportSessions) -> None:
        """Send a report. Raises :class:`TeleError`; then it is still due."""
        if len(said.sessions) <= REPORT_LIMIT:
            try:
                await self._calls.perform("sessions", REPORT_SESSIONS, said)
            except (InvalidInput, NotFound) as error:  # auth is of an older version
                _log.warn("auth takes no report of sessions: {error!r}", error=str(error))
        self._next = self._reactor.seconds() + REPORT_SECONDS
