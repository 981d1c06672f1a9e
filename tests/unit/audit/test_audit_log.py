"""The audit: appended once, in a chain that shows every change, found again, followed."""

from __future__ import annotations

import json
from collections.abc import Coroutine
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import pytest
from attrs import evolve
from twisted.internet.defer import Deferred, fail
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from zope.interface import implementer

from tele.audit.chain import event, first_break
from tele.audit.file_sink import FileSink
from tele.audit.log import EVENTS, AuditLog
from tele.errors import InvalidInput
from tele.interfaces import IAuditSink, Put
from tele.model.api.records import ListEvents
from tele.model.codec import decode, encode
from tele.model.event import Event
from tele.store.memory import MemoryBackend

T = TypeVar("T")
START = datetime(2026, 11, 24, 12, tzinfo=UTC)


def result(answer: Deferred[T] | Coroutine[Any, Any, T]) -> T:
    if not isinstance(answer, Deferred):
        answer = Deferred.fromCoroutine(answer)
    found: list[Any] = []
    answer.addBoth(found.append)
    assert found, "no answer yet"
    if isinstance(found[0], Failure):
        found[0].raiseException()
    value: T = found[0]
    return value


@implementer(IAuditSink)
class Broken:
    """A sink that never works."""

    def receive(self, event: Event) -> Deferred[None]:
        return fail(RuntimeError("full"))


def make(number: int, **fields: Any) -> Event:
    return event("exec", f"id-{number}", START + timedelta(seconds=number), "c", **fields)


@pytest.fixture
def backend() -> MemoryBackend:
    """A store in memory."""
    return MemoryBackend(Clock())


@pytest.fixture
def audit(backend: MemoryBackend) -> AuditLog:
    """An empty audit."""
    return AuditLog(backend, Clock())


def names(audit: AuditLog, **words: Any) -> list[str]:
    return [value.id for value in result(audit.query(ListEvents(**words))).items]


def test_events_are_chained(audit: AuditLog) -> None:
    """Each event carries the hash of the one before; the first carries none."""
    result(audit.append(*(make(n) for n in range(5))))
    result(audit.append(make(5)))
    events = result(audit.query(ListEvents())).items
    assert [e.id for e in events] == [f"id-{n}" for n in range(6)]
    assert events[0].previous == ""
    assert [e.previous for e in events[1:]] == [e.hash for e in events[:-1]]
    assert result(audit.verify()) is None


def test_an_event_sent_twice_is_there_once(audit: AuditLog) -> None:
    """A sender that did not hear the answer may send again."""
    result(audit.append(make(1), make(1)))
    result(audit.append(make(1), make(2)))
    assert names(audit) == ["id-1", "id-2"]


@pytest.mark.parametrize("how", ["changed", "removed"])
def test_tampering_shows(audit: AuditLog, backend: MemoryBackend, how: str) -> None:
    """Whoever changes or takes away an event in the store is found out."""
    result(audit.append(*(make(n) for n in range(5))))
    key = f"{EVENTS}{3:016d}"
    item = result(backend.get(key))
    assert item is not None
    if how == "changed":
        value = evolve(decode(Event, item.value), user="somebody-else")
        result(backend.commit(Put(key, encode(value))))
        expected = "id-2"
    else:
        from tele.interfaces import Delete

        result(backend.commit(Delete(key)))
        expected = "id-3"
    broken = result(audit.verify())
    assert broken is not None
    assert broken.id == expected


def test_two_auths_do_not_fork_the_chain(backend: MemoryBackend) -> None:
    """Two audits on one store, taking turns, make one chain."""
    one, two = AuditLog(backend, Clock()), AuditLog(backend, Clock())
    for number in range(0, 10, 2):
        result(one.append(make(number)))
        result(two.append(make(number + 1)))
    assert result(one.verify()) is None
    assert len(names(one)) == 10


def test_filters_and_pages(audit: AuditLog) -> None:
    """Events are found by user, session and time, page by page, from either end."""
    result(audit.append(*(make(n, user="ab"[n % 2], session_id=str(n // 5)) for n in range(10))))
    assert names(audit, user="a") == [f"id-{n}" for n in range(0, 10, 2)]
    assert names(audit, session_id="1") == [f"id-{n}" for n in range(5, 10)]
    assert names(audit, since=START + timedelta(seconds=8)) == ["id-8", "id-9"]
    assert names(audit, until=START + timedelta(seconds=1)) == ["id-0"]
    assert names(audit, newest=True, limit=2) == ["id-8", "id-9"]
    page = result(audit.query(ListEvents(limit=4)))
    assert [e.id for e in page.items] == ["id-0", "id-1", "id-2", "id-3"]
    assert names(audit, after=page.next, limit=100) == [f"id-{n}" for n in range(4, 10)]
    last = result(audit.query(ListEvents(limit=100)))
    assert last.next == ""
    for bad in (ListEvents(limit=0), ListEvents(after="x"), ListEvents(limit=10**9)):
        with pytest.raises(InvalidInput):
            result(audit.query(bad))


def test_followers_hear_events_as_they_come(audit: AuditLog) -> None:
    """Following starts now and ends when stopped."""
    result(audit.append(make(0)))
    told: list[str] = []
    watch = result(audit.follow(lambda value: told.append(value.id)))
    result(audit.append(make(1), make(2)))
    watch.stop()
    result(audit.append(make(3)))
    assert told == ["id-1", "id-2"]


def test_a_broken_sink_stops_nobody(backend: MemoryBackend, tmp_path: Path) -> None:
    """A failing sink is counted; the event is appended and the other sink gets it."""
    audit = AuditLog(backend, Clock(), [Broken(), FileSink(tmp_path / "audit.json")])
    result(audit.append(make(1, command="ls\n-l")))
    assert audit.failed_deliveries == 1
    lines = (tmp_path / "audit.json").read_text().splitlines()
    assert json.loads(lines[0])["command"] == "ls\n-l"
    assert len(lines) == 1


def test_unknown_names_are_our_mistake() -> None:
    """An event that is not in the catalogue cannot be made."""
    with pytest.raises(KeyError):
        event("made.up", "1", START, "c")


def test_the_chain_is_as_documented() -> None:
    """A chain checked by hand, without our code: docs/protocols/audit says how."""
    import hashlib

    from tele.audit.chain import link

    value = link(make(1, command="é"), "")
    shown = json.loads(encode(value))
    claimed, shown["hash"] = shown["hash"], ""
    text = json.dumps(shown, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert hashlib.sha256(text.encode()).hexdigest() == claimed
    assert first_break([value]) is None
