"""How do audit events get from this machine to auth, all of them, in order?

Invariants:

* An event is spooled before it is sent (or refused by a full disk, and kept in memory), and
  dropped after auth has confirmed it.
* Events of single files, of which there may be a thousand in a second, are spooled together within
  a fifth of a second. No other event waits for others in the spool.
* An event that auth refuses does not hold up those behind it.
* When auth has all of them it is sent the sessions that run
  (:mod:`tele.membership.session_report`).
"""

from __future__ import annotations

from typing import Final

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

from tele.errors import InvalidInput, TeleError
from tele.log import make_logger
from tele.loop import backoff
from tele.membership.background_spool import BackgroundSpool
from tele.membership.calls import Calls, pause_after
from tele.membership.session_report import SessionReport
from tele.membership.spool import BATCH_LINES
from tele.model.api.audit import EMIT_EVENTS, WrittenEvents
from tele.model.codec import encode
from tele.model.event import Event
from tele.wakeup import Wakeup

#: Seconds in which events gather to be sent together.
GATHER: Final = 0.05
#: Events that may wait for others to be spooled together (of single files that are transferred).
GATHERED: Final = frozenset(("sftp", "scp", "rsync"))
#: Seconds before the next request after one with such events, unless others come, or many.
GATHERED_PAUSE: Final = 1.0
LAST_CHANCE: Final = 2.0

_log: Final = make_logger(__name__)


class EventSender:
    """Spools events and sends them."""

    def __init__(self, clock: IReactorTime, calls: Calls, spool: BackgroundSpool) -> None:
        self._clock = clock
        self._calls = calls
        self._spool = spool
        self._wakeup = Wakeup(clock)
        #: Set by events that do not wait for others.
        self._urgent = Wakeup(clock)
        #: Whether events came that may wait, since there was time for others to come.
        self._gathers = False
        self.report = SessionReport(clock, calls)
        self.lost = 0
        #: When auth had all of them, by ``clock.seconds()``.
        self._sent_all = clock.seconds()
        self._delivers = False

    @property
    def has_capacity(self) -> bool:
        """Whether the events of one more session can be kept.

        On a full disk memory keeps them, as long as auth takes them from there.
        """
        return not self._spool.full or (self._delivers and not self._spool.crowded)

    @property
    def waiting(self) -> tuple[int, float]:
        """How many bytes auth does not have, and for how many seconds there have been any."""
        waiting = self._spool.waiting
        return waiting, self._clock.seconds() - self._sent_all if waiting else 0.0

    def emit(self, event: Event) -> None:
        """Take one event. Never raises; what cannot be kept is counted and logged."""
        may_wait = event.event in GATHERED
        try:
            kept = self._spool.append(encode(event), gather=may_wait)
        except (ValueError, TypeError):  # what JSON or UTF-8 cannot hold
            kept = False
        if not kept:
            self.lost += 1
            self.report.soon()
            _log.error(
                "audit event lost, spool full", event=event.event, id=event.id, count=self.lost
            )
            return
        self._wakeup.set()
        if may_wait:
            self._gathers = True
        else:
            self._urgent.set()

    async def run(self) -> None:
        """Send until cancelled."""
        failures = 0
        while True:
            try:
                report = self.report.make()  # first: what ends from now on is in the batch
                batch = await self._spool.peek()
                if not batch:
                    self._sent_all = self._clock.seconds()
                if not batch and report is not None:
                    await self.report.send(report)
                    self._delivers = True
                    continue
                if not batch:
                    await self._wakeup.wait(self.report.wait)
                    await deferLater(self._clock, GATHER)
                    continue
                await self._send(batch)
                self._delivers = True
                failures = 0
                if self._gathers and len(batch) < BATCH_LINES:  # no request for each few of many
                    self._gathers = False
                    await self._urgent.wait(GATHERED_PAUSE)
            except TeleError as error:
                self._delivers = False
                self.report.soon()
                await deferLater(self._clock, pause_after(error, backoff(failures)))
                failures += 1

    async def last_chance(self) -> None:
        """Send what is left, if auth answers within two seconds."""
        batch = await self._spool.peek()
        if batch and not self._calls.trouble:
            sending = Deferred.fromCoroutine(self._send(batch))
            sending.addTimeout(LAST_CHANCE, self._clock)
            sending.addErrback(lambda _: None)  # it stays in the spool
            await sending

    async def _send(self, batch: list[bytes]) -> None:
        try:
            await self._perform(batch)
        except InvalidInput:
            # Auth refuses one of them, and would refuse it again.
            for line in batch:
                await self._send_alone(line)
        else:
            await self._spool.drop(batch)

    async def _send_alone(self, line: bytes) -> None:
        try:
            await self._perform([line])
        except InvalidInput as error:
            _log.error("audit event refused by auth", event=line, error=str(error))
        await self._spool.drop([line])

    async def _perform(self, lines: list[bytes]) -> None:
        await self._calls.perform("events", EMIT_EVENTS, WrittenEvents(lines))
