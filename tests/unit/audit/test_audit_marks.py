"""Attacks on the audit by the owner of the store, which marks kept elsewhere detect."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Coroutine
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import pytest
from attrs import evolve
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from tele.audit.chain import Mark, Verification, event, link, read_mark
from tele.audit.log import AuditLog
from tele.audit.reading import HEAD, event_key, verify
from tele.cli.audit_verify import check
from tele.errors import InvalidInput, TeleError, Unavailable
from tele.interfaces import Delete, Put
from tele.model.api.audit import AuditHead, ListEvents
from tele.model.codec import encode
from tele.model.event import Event
from tele.store import sqlite_file
from tele.store.memory import MemoryBackend
from tele.store.reading import StoreFile

T = TypeVar("T")
START = datetime(2026, 11, 24, 12, tzinfo=UTC)
COUNT = 8


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


def make(number: int, **fields: Any) -> Event:
    return event("exec", f"id-{number}", START + timedelta(seconds=number), "c", **fields)


class Store:
    """An audit of eight events, numbered from 1, and ways to tamper with it."""

    def __init__(self) -> None:
        self.backend = MemoryBackend(Clock())
        self.audit = AuditLog(self.backend, Clock())
        result(self.audit.append(*(make(n) for n in range(1, COUNT + 1))))
        self.events = list(result(self.audit.query(ListEvents())).items)
        self.marks = [Mark(n, e.hash) for n, e in enumerate(self.events, 1)]

    def perform(self, operation: Any, request: Any) -> Any:
        """Answer as auth does, with pages of three."""
        if operation.name == "audit_head":
            last = result(self.audit.head())
            return AuditHead(last.number, last.hash)
        return result(self.audit.query(evolve(request, limit=3)))

    def check(self, after: Mark | None = None, *marks: Mark) -> Verification:
        """Check by the API, and in the store itself; both have to come to the same."""
        by_api = check(self.perform, after, marks)
        if after is None:
            in_store = result(verify(self.backend, marks))
            assert bool(in_store.problem) == bool(by_api.problem), (in_store, by_api)
        return by_api

    def write(self, events: list[Event], *, head: bool = True, relink: bool = False) -> None:
        """Put these events in the place of what there is."""
        if relink:
            previous, linked = "", []
            for each in events:
                linked.append(link(each, previous))
                previous = linked[-1].hash
            events = linked
        changes: list[Put | Delete] = [Delete(event_key(n)) for n in range(1, COUNT + 3)]
        changes += [Put(event_key(n), encode(e)) for n, e in enumerate(events, 1)]
        if head:
            last = [len(events), events[-1].hash]
            changes.append(Put(HEAD, json.dumps(last).encode("ascii")))
        result(self.backend.commit(*changes))


@pytest.fixture
def store() -> Store:
    """A store that was not tampered with."""
    return Store()


def test_a_whole_audit_gives_a_mark_for_the_next_time(store: Store) -> None:
    """What is printed is taken again, and what came since is checked from there."""
    verification = store.check()
    assert verification == Verification(COUNT, store.events[-1].hash)
    mark = read_mark(f"{COUNT}:{verification.head}")
    result(store.audit.append(make(9), make(10)))
    for after in (None, mark, store.marks[0], store.marks[3]):
        verification = store.check(after, mark, Mark(0, mark.hash))
        assert (verification.events, verification.problem) == (10, "")


def test_an_empty_audit_is_whole() -> None:
    """Nothing is chained, nothing is wrong; a mark of what was there shows that it is gone."""
    empty = Store.__new__(Store)
    empty.backend = MemoryBackend(Clock())
    empty.audit = AuditLog(empty.backend, Clock())
    assert empty.check() == Verification(0, "")
    assert empty.check(None, Mark(3, "0" * 64)).problem
    assert empty.check(Mark(3, "0" * 64)).problem


def test_what_comes_while_it_is_checked_is_left_for_the_next_time(store: Store) -> None:
    """An audit that grows is checked up to the head that it had at first."""
    asked = store.perform

    def growing(operation: Any, request: Any) -> Any:
        answer = asked(operation, request)
        if operation.name == "audit_head":
            result(store.audit.append(make(9)))
        return answer

    assert check(growing, None, ()).events == COUNT


@pytest.mark.parametrize(
    ("how", "good", "bad"),
    [
        ("changed", 3, "id-4"),
        ("changed and hashed", 4, "id-5"),
        ("removed in the middle", 3, "id-5"),
        ("removed at the beginning", 0, "id-2"),
        ("moved", 3, "id-5"),
        ("inserted", 3, "id-inserted"),
        ("inserted and linked", 4, "id-4"),
        ("doubled", 4, "id-4"),
    ],
)
def test_one_without_the_rest_of_the_chain_is_found(
    store: Store, how: str, good: int, bad: str
) -> None:
    """The first event that is not right is named, with its id."""
    events = list(store.events)
    forged = evolve(events[3], user="nobody")
    match how:
        case "changed":
            events[3] = forged
        case "changed and hashed":
            events[3] = link(forged, forged.previous)
        case "removed in the middle":
            del events[3]
        case "removed at the beginning":
            del events[0]
        case "moved":
            events[3], events[4] = events[4], events[3]
        case "inserted":
            events.insert(3, evolve(forged, id="id-inserted"))
        case "inserted and linked":
            events.insert(3, link(evolve(forged, id="id-inserted"), events[2].hash))
        case "doubled":
            events.insert(3, events[3])
    store.write(events)
    verification = store.check()
    assert verification.problem
    assert (verification.events, verification.event) == (good, bad)


@pytest.mark.parametrize("how", ["cut off", "all made anew", "replaced by others", "made shorter"])
def test_what_a_chain_cannot_show_a_mark_does(store: Store, how: str) -> None:
    """The owner of the store makes an intact chain; a mark kept elsewhere detects it."""
    match how:
        case "cut off":
            store.write(store.events[:5])
        case "all made anew":
            forged = [evolve(store.events[3], user="nobody")]
            store.write(store.events[:3] + forged + store.events[4:], relink=True)
        case "replaced by others":
            more = [make(n) for n in range(20, 24)]
            store.write(store.events[:5] + more, relink=True)
        case "made shorter":
            store.write(store.events[:2] + store.events[3:], relink=True)
    assert store.check().problem == "", "the chain itself is whole"
    for mark in (store.marks[-1], Mark(0, store.events[-1].hash)):
        assert store.check(None, mark).problem
    assert store.check(store.marks[-1]).problem


def test_a_tail_that_is_missing_is_found_without_a_mark(store: Store) -> None:
    """A missing head is detected."""
    store.write(store.events[:5], head=False)
    assert store.check().problem == "events 6 to 8 are missing"


def test_bytes_that_mean_the_same_are_a_change(store: Store) -> None:
    """The hash covers one form of an event: others of the same meaning are found in the store."""
    text = encode(store.events[3])
    for other in (
        text.replace(b'"ok":true', b'"ok": true'),
        text.replace(b".000Z", b".0004Z"),
        b" " + text,
    ):
        assert other != text
        result(store.backend.commit(Put(event_key(4), other)))
        verification = result(verify(store.backend))
        assert verification.problem == "event 4 was changed"
        assert verification.event == "id-4"


def test_a_field_does_not_pass_for_a_key_of_every_event(store: Store) -> None:
    """A key of an event is what it says, and covered: no field of the same name hides behind it."""
    for name in ("claimed", "hash", "time", "ok"):
        hiding = evolve(make(9), fields={name: "x"})
        with pytest.raises(InvalidInput):
            result(store.audit.append(hiding))


@pytest.mark.parametrize("text", ["", "x", "a" * 64 + "b", "1:", ":" + "a" * 64, "-1:" + "a" * 64])
def test_what_is_no_mark(text: str) -> None:
    """A mark that was copied wrongly is an error, and is not searched for."""
    with pytest.raises(InvalidInput):
        read_mark(text)


# -- the file -------------------------------------------------------------------------
def test_a_store_is_checked_without_auth(store: Store, tmp_path: Path) -> None:
    """A SQLite file, or a copy of it, is read as it is, and nothing is written to it."""
    path = tmp_path / "auth.sqlite"
    connection = sqlite_file.open_file(path)
    last = json.dumps([COUNT, store.events[-1].hash]).encode("ascii")
    puts = [Put(event_key(n), encode(e)) for n, e in enumerate(store.events, 1)]
    sqlite_file.commit(connection, [(*puts, Put(HEAD, last))], 0.0)
    with StoreFile(path) as file:
        assert result(verify(file, store.marks)).problem == ""
        with pytest.raises(Unavailable):
            file.commit(Delete(HEAD))
        with pytest.raises(Unavailable):
            file.watch("/", print)
    connection.execute("UPDATE items SET value = ? WHERE key = ?", (b"{}", event_key(3)))
    connection.close()
    with StoreFile(path) as file:
        assert result(verify(file)).problem == "event 3 was changed"
    (tmp_path / "text").write_text("no store")
    with pytest.raises(TeleError), StoreFile(tmp_path / "text") as file:
        result(verify(file))
    bare = sqlite3.connect(tmp_path / "bare")
    bare.close()
    with pytest.raises(TeleError), StoreFile(tmp_path / "bare") as file:
        result(verify(file))
