"""How does auth learn which sessions run on this node?

Invariants:

* A report is sent when auth has all events from before it was made. So auth knows the start of each
  session in it, and ends no session whose last events are still to be sent.
* It is made when the process starts, after each trouble, and every few minutes. Where events were
  lost, or the process before this one was killed, auth learns from it which sessions have ended.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from twisted.internet.interfaces import IReactorTime

from tele.errors import InvalidInput, NotFound
from tele.log import make_logger
from tele.loop import now
from tele.membership.calls import Calls
from tele.model.api.sessions import REPORT_LIMIT, REPORT_SESSIONS, ReportSessions

REPORT_SECONDS: Final = 600.0

_log: Final = make_logger(__name__)


class SessionReport:
    """Reports to auth what runs here: ``running()``, which a node sets; without it, nothing."""

    def __init__(self, clock: IReactorTime, calls: Calls) -> None:
        self.running: Callable[[], Iterable[str]] | None = None
        self._clock = clock
        self._calls = calls
        self._since = now(clock)
        self._next = clock.seconds()

    @property
    def wait(self) -> float | None:
        """In how many seconds the next one is due; None: never."""
        if self.running is None:
            return None
        left = self._next - self._clock.seconds()
        return max(0.0, left)

    def make(self) -> ReportSessions | None:
        """Return what runs now, if it is time to say so."""
        if self.running is None or self.wait:
            return None
        return ReportSessions(self._since, tuple(self.running()))

    def soon(self) -> None:
        """Something went wrong: auth may have missed events, or have ended our sessions."""
        self._next = self._clock.seconds()

    async def send(self, report: ReportSessions) -> None:
        """Send a report. Raises :class:`TeleError`; then it is still due."""
        if len(report.sessions) <= REPORT_LIMIT:
            try:
                await self._calls.perform("sessions", REPORT_SESSIONS, report)
            except (InvalidInput, NotFound) as error:  # auth is of an older version
                _log.warn("report of sessions refused", error=str(error))
        self._next = self._clock.seconds() + REPORT_SECONDS
