"""How does an event get into the audit, once and for good?

Stored under ``/audit/events/<number>``, with ``/audit/head`` (number and hash of the last
one) and ``/audit/ids/<id>`` (so that an event sent twice is appended once; what a host
reported has ``/audit/ids/<host id>/<id>``).

Invariants:

* Appending is atomic with the head: two auths on one store cannot fork the chain.
* An event whose id exists already is not appended again, and that is success. An id counts for its
  sender only: no host can suppress another host's event by using its id first.
* An event that could not be read back is refused; it fails alone.
* The failure of a sink is counted and logged; it stops neither appending nor other sinks.
* ``changes`` of an event are committed with it, or not at all: also not if the event existed.
* An event is decoded once for all followers; appending costs the same for each event, however many
  wait, and at most :data:`BACKLOG` wait.
"""

from __future__ import annotations

import json
import math
import re
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any, Final, TypeVar

from attrs import frozen
from twisted.internet.defer import Deferred, DeferredLock, FirstError, gatherResults
from twisted.internet.interfaces import IReactorTime
from zope.interface import implementer

from tele.audit.chain import Mark, Verification, link_encoded
from tele.audit.delivery import Delivery
from tele.audit.reading import EVENTS, HEAD, event_key, head, search, verify
from tele.errors import Conflict, InvalidInput, Unavailable, quoted
from tele.interfaces import Change, Delete, IAuditSink, IBackend, IWatch, Put
from tele.log import make_logger
from tele.measures import catalogue
from tele.measures.metric import Sample
from tele.model.api.audit import EventList, ListEvents
from tele.model.codec import decode, encode
from tele.model.event import OWN_KEYS, Event, is_plain
from tele.store.batches import commit_limit, get_many

IDS: Final = "/audit/ids/"

#: How long an event that is sent again is recognised.
REMEMBER_IDS: Final = timedelta(days=30)
BATCH: Final = 500
#: Events that may wait to be stored; a host keeps events that are refused.
BACKLOG: Final = 50_000
ATTEMPTS: Final = 20
#: How long :meth:`AuditLog.close` waits for sinks.
CLOSING_SECONDS: Final = 5.0
EVENT_LIMIT: Final = 256 * 1024

T = TypeVar("T")

Changes = Sequence[Put | Delete]

log = make_logger(__name__)

_ID = re.compile(r"[!-~]{1,128}", re.ASCII)


@frozen
class _Waiting:
    """An event that waits to be stored. ``size`` is in bytes."""

    event: Event
    size: int
    changes: Changes
    answer: Deferred[None]

    @property
    def count(self) -> int:
        """How many changes it is: the event, its id, and those that are committed with it."""
        return 2 + len(self.changes)


class AuditLog:
    """The audit of one cluster, on its store.

    Sinks get the events that this process appends; ``failed_deliveries`` counts those they lost.
    """

    def __init__(
        self, backend: IBackend, clock: IReactorTime, sinks: Sequence[IAuditSink] = ()
    ) -> None:
        self._backend = backend
        self._clock = clock
        self._deliveries = [Delivery(sink) for sink in sinks]
        self._waiting: deque[_Waiting] = deque()
        self._appending = False
        self._followers: dict[object, Callable[[Event], None]] = {}
        self._beginning = DeferredLock()
        self._commit_limit = commit_limit(backend)
        self._watching = False
        self._appended = 0

    @property
    def failed_deliveries(self) -> int:
        """The number of events that sinks did not get, of all sinks."""
        return sum(delivery.failed for delivery in self._deliveries)

    def samples(self) -> Iterator[Sample]:
        """See :class:`tele.measures.metric.Measured`."""
        yield catalogue.AUDIT_EVENTS.at(self._appended)
        yield catalogue.AUDIT_WAITING.at(len(self._waiting))
        yield catalogue.SINK_ERRORS.at(self.failed_deliveries)

    def append(
        self, *events: Event, changes: Mapping[str, Changes] | None = None
    ) -> Deferred[None]:
        """Append events, in order; fires when they are durable.

        ``changes``, by the id of an event, are committed with it.

        Appends that arrive while others are written share the next commit. Fails with
        :class:`InvalidInput`, and appends none of ``events``, if one of them cannot be stored; with
        :class:`Unavailable` if :data:`BACKLOG` events wait already.
        """
        return Deferred.fromCoroutine(self._append(events, changes or {}))

    async def _append(self, events: Sequence[Event], changes: Mapping[str, Changes]) -> None:
        sizes = [_checked(value) for value in events]
        if len(self._waiting) >= BACKLOG:
            raise Unavailable("too many events wait to be stored; try again later")
        answers = []
        for value, size in zip(events, sizes, strict=True):
            answer: Deferred[None] = Deferred()
            self._waiting.append(_Waiting(value, size, changes.get(value.id, ()), answer))
            answers.append(answer)
        if not self._appending:
            self._appending = True
            Deferred.fromCoroutine(self._drain())
        # All of them are waited for, so that no failure is left unhandled.
        await _all(answers)

    async def _drain(self) -> None:
        try:
            while self._waiting:
                batch = self._next_batch()
                try:
                    appended = await self._write([(each.event, each.changes) for each in batch])
                except Exception as error:
                    for each in batch:
                        each.answer.errback(error)
                    continue
                self._appended += len(appended)
                for delivery in self._deliveries:
                    delivery.send(appended)
                for each in batch:
                    each.answer.callback(None)
        finally:
            self._appending = False

    def _next_batch(self) -> list[_Waiting]:
        """Take what the next commit has: one event, and more if the store takes them at once."""
        batch = [self._waiting.popleft()]
        most, size = self._commit_limit or (math.inf, math.inf)
        most -= 1 + batch[0].count  # 1: the head
        size -= batch[0].size
        while self._waiting and len(batch) < BATCH:
            most -= self._waiting[0].count
            size -= self._waiting[0].size
            if most < 0 or size < 0:
                break
            batch.append(self._waiting.popleft())
        return batch

    async def _write(self, events: Sequence[tuple[Event, Changes]]) -> list[Event]:
        by_id = {_id_key(value): (value, changes) for value, changes in reversed(events)}
        for _ in range(ATTEMPTS):
            known = await get_many(self._backend, list(by_id))
            new = [e for e, item in zip(by_id.values(), known, strict=True) if item is None]
            if not new:
                return []
            last = await self._backend.get(HEAD)
            number, previous = (0, "") if last is None else json.loads(last.value)
            appended: list[Event] = []
            changes: list[Put | Delete] = []
            for value, more in reversed(new):
                linked, text = link_encoded(value, previous)
                appended.append(linked)
                number, previous = number + 1, linked.hash
                changes.append(Put(event_key(number), text, if_revision=0))
                changes.append(Put(_id_key(value), b"", if_revision=0, ttl=REMEMBER_IDS))
                changes.extend(more)
            head_text = json.dumps([number, previous]).encode("ascii")
            changes.append(Put(HEAD, head_text, if_revision=0 if last is None else last.revision))
            try:
                await self._backend.commit(*changes)
            except Conflict:
                continue  # another auth on this store appended meanwhile
            return appended
        raise Unavailable("too many conflicts while appending to the audit; try again")

    async def close(self) -> None:
        """Wait until the sinks have all events, at most :data:`CLOSING_SECONDS`."""
        idle = [delivery.when_idle() for delivery in self._deliveries]
        done: Deferred[Any] = gatherResults(idle, consumeErrors=True)
        done.addTimeout(CLOSING_SECONDS, self._clock, lambda _, __: None)
        if await done is None:
            log.warn("audit sinks did not take their last events", seconds=CLOSING_SECONDS)

    async def query(self, request: ListEvents) -> EventList:
        """Return a page of events; see :func:`tele.audit.reading.search`."""
        return await search(self._backend, request)

    async def head(self) -> Mark:
        """Return number and hash of the last event."""
        return await head(self._backend)

    async def verify(self) -> Verification:
        """Check the chain; see :func:`tele.audit.reading.verify`."""
        return await verify(self._backend)

    def follow(self, receiver: Callable[[Event], None]) -> Deferred[IWatch]:
        """Call ``receiver`` with each event that is appended from now on, by any auth."""
        return Deferred.fromCoroutine(self._follow(receiver))

    async def _follow(self, receiver: Callable[[Event], None]) -> IWatch:
        await self._beginning.run(lambda: Deferred.fromCoroutine(self._begin()))
        return _Following(self._followers, receiver)

    async def _begin(self) -> None:
        """Watch the store; does so once."""
        if not self._watching:
            await self._backend.watch(EVENTS, self._changed)
            self._watching = True

    def _changed(self, change: Change) -> None:
        if change.item is None or not self._followers:
            return
        value = decode(Event, change.item.value)
        for receiver in list(self._followers.values()):
            try:
                receiver(value)
            except Exception:
                log.failure("receiver of audit events failed")


@implementer(IWatch)
class _Following:
    """One follower."""

    def __init__(
        self, followers: dict[object, Callable[[Event], None]], receiver: Callable[[Event], None]
    ) -> None:
        self._followers = followers
        followers[self] = receiver

    def stop(self) -> None:
        """See :class:`IWatch`."""
        self._followers.pop(self, None)


async def _all(answers: Sequence[Deferred[T]]) -> list[T]:
    try:
        return await gatherResults(answers, consumeErrors=True)
    except FirstError as error:
        error.subFailure.raiseException()


def _id_key(value: Event) -> str:
    return f"{IDS}{value.server_id}/{value.id}" if value.is_claim else IDS + value.id


def _checked(value: Event) -> int:
    """Return an event's size in bytes; raises :class:`InvalidInput` if it cannot be stored."""
    if taken := OWN_KEYS & set(value.fields):
        raise InvalidInput(f"event {value.id}: {min(taken)} is not a field of its own")
    if _ID.fullmatch(value.id) is None:
        raise InvalidInput(f"{quoted(value.id)} is not an event id")
    try:
        text = encode(value)
        if not is_plain(value):
            decode(EventList, b'{"items":[%b]}' % text)  # as in a list
    except (ValueError, TypeError, RecursionError, InvalidInput) as error:
        raise InvalidInput(f"event {value.id} cannot be stored: {error}") from None
    if len(text) > EVENT_LIMIT:
        raise InvalidInput(f"event {value.id} has {len(text)} bytes, {EVENT_LIMIT} are allowed")
    return len(text)
