"""Where do audit events go, and how are they found again?

Stored under ``/audit/events/<number>``, with ``/audit/head`` (number and hash of the last
one) and ``/audit/ids/<id>`` (so that an event sent twice is appended once).

Laws of this file:

* Appending is atomic with the head: two auths on one store cannot fork the chain.
* An event whose id is there already is not appended again, and that is success.
* A sink that fails is counted and logged; it stops neither appending nor other sinks.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Final

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from tele.audit.chain import first_break, link
from tele.errors import Conflict, InvalidInput
from tele.interfaces import IAuditSink, IBackend, IWatch, Put
from tele.loop import make_logger
from tele.model.api.records import EventList, ListEvents
from tele.model.codec import decode, encode
from tele.model.event import Event

log = make_logger(__name__)

EVENTS: Final = "/audit/events/"
HEAD: Final = "/audit/head"
IDS: Final = "/audit/ids/"

#: How long a sender may take to send an event again.
REMEMBER_IDS: Final = timedelta(days=30)
PAGE_LIMIT: Final = 1000
SCAN: Final = 500
ATTEMPTS: Final = 20


class AuditLog:
    """The audit of one cluster, on its store."""

    def __init__(
        self, backend: IBackend, clock: IReactorTime, sinks: Sequence[IAuditSink] = ()
    ) -> None:
        self._backend = backend
        self._clock = clock
        self._sinks = list(sinks)
        self._waiting: list[tuple[Event, Deferred[None]]] = []
        self._appending = False
        self.failed_deliveries = 0

    def append(self, *events: Event) -> Deferred[None]:
        """Append events, in order; fires when they are durable.

        Appends that arrive while one is being written go together with the next.
        """
        answers = []
        for value in events:
            answer: Deferred[None] = Deferred()
            self._waiting.append((value, answer))
            answers.append(answer)
        if not self._appending:
            self._appending = True
            Deferred.fromCoroutine(self._drain())

        async def all_done() -> None:
            for answer in answers:
                await answer

        return Deferred.fromCoroutine(all_done())

    async def _drain(self) -> None:
        try:
            while self._waiting:
                batch, self._waiting = self._waiting[:SCAN], self._waiting[SCAN:]
                try:
                    appended = await self._write([value for value, _ in batch])
                except Exception as error:
                    for _, answer in batch:
                        answer.errback(error)
                    continue
                for _, answer in batch:
                    answer.callback(None)
                self._deliver(appended)
        finally:
            self._appending = False

    async def _write(self, events: Sequence[Event]) -> list[Event]:
        for attempt in range(ATTEMPTS):
            head = await self._backend.get(HEAD)
            number, previous = (0, "") if head is None else json.loads(head.value)
            changes: list[Put] = []
            linked: list[Event] = []
            seen: set[str] = set()
            for value in events:
                if value.id in seen or await self._backend.get(IDS + value.id) is not None:
                    continue
                seen.add(value.id)
                number += 1
                value = link(value, previous)
                previous = value.hash
                linked.append(value)
                changes.append(Put(f"{EVENTS}{number:016d}", encode(value), if_revision=0))
                changes.append(Put(IDS + value.id, b"", if_revision=0, ttl=REMEMBER_IDS))
            if not linked:
                return []
            text = json.dumps([number, previous]).encode()
            try:
                await self._backend.commit(
                    Put(HEAD, text, if_revision=0 if head is None else head.revision), *changes
                )
            except Conflict:
                # Another auth on this store appended meanwhile: read the head again.
                if attempt == ATTEMPTS - 1:
                    raise
                continue
            return linked
        return []

    def _deliver(self, events: Sequence[Event]) -> None:
        for value in events:
            for sink in self._sinks:
                try:
                    sink.receive(value).addErrback(self._sink_failed)
                except Exception as error:
                    self._sink_failed(error)

    def _sink_failed(self, why: object) -> None:
        self.failed_deliveries += 1
        log.warn("an audit sink failed: {why!r}", why=why)

    async def query(self, request: ListEvents) -> EventList:
        """Return a page of events, oldest first; ``newest`` starts from the end."""
        limit = request.limit
        if not 0 < limit <= 10 * PAGE_LIMIT:
            raise InvalidInput(f"limit has to be from 1 to {10 * PAGE_LIMIT}")
        backwards = request.newest
        start, end = EVENTS, EVENTS[:-1] + "0"
        if request.after:
            if not request.after.isdigit():
                raise InvalidInput("after has to be what the page before gave as next")
            edge = f"{EVENTS}{int(request.after):016d}"
            start, end = (start, edge) if backwards else (edge + "\0", end)
        found: list[tuple[str, Event]] = []
        more = True
        while more and len(found) < limit:
            items = await self._backend.range(start, end, SCAN, backwards)
            more = len(items) == SCAN
            for item in items:
                value = decode(Event, item.value)
                if _wanted(value, request):
                    found.append((item.key, value))
                    if len(found) == limit:
                        break
            else:
                if items:
                    last = items[-1].key
                    start, end = (start, last) if backwards else (last + "\0", end)
                continue
            more = True
        following = found[-1][0].removeprefix(EVENTS).lstrip("0") if more and found else ""
        if backwards:
            found.reverse()
        return EventList(tuple(value for _, value in found), following)

    def follow(self, receiver: Callable[[Event], None]) -> Deferred[IWatch]:
        """Tell ``receiver`` each event that is appended from now on, by any auth."""

        def changed(change: object) -> None:
            item = getattr(change, "item", None)
            if item is not None:
                receiver(decode(Event, item.value))

        return self._backend.watch(EVENTS, changed)

    async def verify(self) -> Event | None:
        """Return the first event that was changed or follows a missing one; None: all good."""
        start, previous = EVENTS, ""
        while True:
            items = await self._backend.range(start, EVENTS[:-1] + "0", SCAN)
            events = [decode(Event, item.value) for item in items]
            broken = first_break(events, previous)
            if broken is not None or not items:
                return broken
            start, previous = items[-1].key + "\0", events[-1].hash


def _wanted(value: Event, request: ListEvents) -> bool:
    return (
        (not request.event or value.event == request.event)
        and (not request.user or value.user == request.user)
        and (not request.session_id or value.session_id == request.session_id)
        and (request.since is None or value.time >= request.since)
        and (request.until is None or value.time < request.until)
    )
