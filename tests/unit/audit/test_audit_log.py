"""The audit: appended once, in a chain that shows every change, found again, followed."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, fail
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from zope.interface import implementer

from tele.audit import reading
from tele.audit.chain import Verification, digest, event, link, link_encoded
from tele.audit.delivery import BACKLOG
from tele.audit.file_sink import FileSink
from tele.audit.log import CLOSING_SECONDS, AuditLog
from tele.audit.reading import HEAD, event_key
from tele.errors import InvalidInput, Unavailable
from tele.interfaces import Delete, IAuditSink, Item, Put
from tele.model.api.audit import EventList, ListEvents
from tele.model.codec import DEPTH_LIMIT, decode, encode
from tele.model.event import OWN_KEYS, Event, is_plain
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


values = st.one_of(
    st.text(), st.booleans(), st.none(), st.integers(), st.floats(), st.binary(), st.datetimes(),
    st.lists(st.text(), max_size=2),
)  # fmt: skip


@given(
    st.dictionaries(st.text(), values, max_size=4),
    st.one_of(st.text(), st.integers(), st.none()),
    st.lists(st.one_of(st.text(), st.integers()), max_size=2),
)
def test_a_plain_event_is_read_back(fields: dict[str, Any], user: Any, roles: list[Any]) -> None:
    """An event that is stored without being read again first is one that can be read in a list."""
    made = Event("id", START, "exec", "T1", "c", user=user, roles=tuple(roles), fields=fields)
    try:
        if OWN_KEYS & set(fields) or not is_plain(made):
            return
        text = encode(made)
    except (ValueError, TypeError):
        return
    assert decode(EventList, b'{"items":[%b]}' % text).items == (made,)


@given(
    st.dictionaries(st.text(), st.one_of(st.text(), st.integers(0, 9)), max_size=3),
    st.lists(st.text(), max_size=2),
    st.none() | st.just(START),
)
def test_an_event_is_read_the_same_by_hand_and_by_the_converter(
    fields: dict[str, Any], roles: list[str], claimed: datetime | None
) -> None:
    """Most events are read by hand; one with a number such as 0.5 is read by the converter."""
    fields = {key: value for key, value in fields.items() if key not in OWN_KEYS}
    made = evolve(make(1, **fields, half=0.5), roles=tuple(roles), claimed=claimed)
    try:
        texts = encode(made), encode(evolve(made, fields=fields))
    except ValueError:  # half of a surrogate pair
        return
    slow, quick = (decode(Event, text) for text in texts)
    assert slow == made
    assert quick == evolve(made, fields=fields)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("id", 1), ("time", "today"), ("time", None), ("user", None), ("user", True), ("ok", "no"),
        ("roles", "admin"), ("roles", [1]), ("claimed", 1), ("claimed", "x"), ("bytes", 1 << 64),
    ],
)  # fmt: skip
def test_a_wrong_value_of_an_event_is_named(key: str, value: Any) -> None:
    """Read by hand or not, a value of the wrong type is refused with its name."""
    plain = {**json.loads(encode(make(1, user="u"))), key: value}
    with pytest.raises(InvalidInput, match=f"^{key}|^fields"):
        decode(Event, json.dumps(plain).encode())


def test_stored_text_is_that_of_the_linked_event() -> None:
    """What is stored of an event is its canonical JSON, and its hash is right."""
    made = evolve(make(1, user="u", roles=("r",), path="/\u00e9", n=1), claimed=START)
    linked, text = link_encoded(made, "ab")
    assert text == encode(linked)
    assert (linked.previous, linked.hash) == ("ab", digest(linked))
    assert evolve(linked, previous="", hash="") == made


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
    assert result(audit.verify()) == Verification(6, events[-1].hash)


def test_an_event_sent_twice_is_there_once(audit: AuditLog) -> None:
    """A sender that did not get the answer may send again."""
    result(audit.append(make(1), make(1)))
    result(audit.append(make(1), make(2)))
    assert names(audit) == ["id-1", "id-2"]


def chain(backend: MemoryBackend) -> list[Item]:
    return [i for n in range(1, 6) if (i := result(backend.get(event_key(n)))) is not None]


@pytest.mark.parametrize(
    ("how", "problem"),
    [
        ("changed", "event 3 was changed"),
        ("field added", "event 3 was changed"),
        ("unreadable", "event 3 was changed"),
        ("relinked", "event 4 does not follow"),
        ("removed", "event 3 is missing"),
        ("swapped", "event 3 does not follow"),
        ("cut off", "events 4 to 5 are missing"),
        ("head", "the head is not"),
    ],
)
def test_tampering_shows(audit: AuditLog, backend: MemoryBackend, how: str, problem: str) -> None:
    """Events that were changed, removed, moved or cut off in the store are detected."""
    result(audit.append(*(make(n) for n in range(5))))
    items = chain(backend)
    third = decode(Event, items[2].value)
    key = event_key(3)
    match how:
        case "changed":
            result(backend.commit(Put(key, encode(evolve(third, user="another-user")))))
        case "field added":
            result(backend.commit(Put(key, items[2].value[:-1] + b',"zz":1}')))
        case "unreadable":
            result(backend.commit(Put(key, b"{")))
        case "relinked":
            forged = link(evolve(third, user="another-user"), third.previous)
            result(backend.commit(Put(key, encode(forged))))
        case "removed":
            result(backend.commit(Delete(key)))
        case "swapped":
            result(backend.commit(Put(key, items[3].value), Put(event_key(4), items[2].value)))
        case "cut off":
            result(backend.commit(Delete(event_key(4)), Delete(event_key(5))))
        case "head":
            result(backend.commit(Put(HEAD, b'[5, "00"]')))
    verification = result(audit.verify())
    assert verification.problem.startswith(problem)
    assert len(names(audit)) >= 3  # what is left can still be read


def test_two_auths_do_not_fork_the_chain(backend: MemoryBackend) -> None:
    """Two audits on one store, taking turns, make one chain."""
    one, two = AuditLog(backend, Clock()), AuditLog(backend, Clock())
    for number in range(0, 10, 2):
        result(one.append(make(number)))
        result(two.append(make(number + 1)))
    assert result(one.verify()).problem == ""
    assert len(names(one)) == 10


class Racing(MemoryBackend):
    """A store on which another auth is always a little faster, so many times."""

    def __init__(self, races: int) -> None:
        super().__init__(Clock())
        self.other = AuditLog(self, Clock())
        self.races = races

    def commit(self, *changes: Put | Delete) -> Deferred[int]:
        if self.races:
            self.races, left = 0, self.races - 1
            result(self.other.append(make(1000 + left)))
            self.races = left
        return super().commit(*changes)


def test_a_lost_race_is_run_again() -> None:
    """An append that finds another head is linked to that one."""
    backend = Racing(3)
    audit = AuditLog(backend, Clock())
    result(audit.append(make(1), make(2)))
    assert names(audit)[-2:] == ["id-1", "id-2"]
    assert result(audit.verify()).events == 5
    with pytest.raises(Unavailable):
        result(AuditLog(Racing(10**6), Clock()).append(make(1)))


class Failing(MemoryBackend):
    """A store whose commits fail while it is set to."""

    broken = True

    def commit(self, *changes: Put | Delete) -> Deferred[int]:
        if self.broken:
            return fail(Unavailable("the disk is full"))
        return super().commit(*changes)


def test_a_failed_append_fails_and_the_next_one_works() -> None:
    """No append succeeds whose event is not stored."""
    backend = Failing(Clock())
    audit = AuditLog(backend, Clock())
    with pytest.raises(Unavailable, match="full"):
        result(audit.append(make(1), make(2)))
    backend.broken = False
    result(audit.append(make(1)))
    assert names(audit) == ["id-1"]


class Slow(MemoryBackend):
    """A store whose commits wait until they are released."""

    def __init__(self) -> None:
        super().__init__(Clock())
        self.held: list[Deferred[None]] = []
        self.commits = 0

    def commit(self, *changes: Put | Delete) -> Deferred[int]:
        self.commits += 1
        release: Deferred[None] = Deferred()
        self.held.append(release)
        return release.addCallback(lambda _: MemoryBackend.commit(self, *changes))


def test_appends_that_wait_are_written_together() -> None:
    """A burst costs few commits, and keeps its order."""
    backend = Slow()
    audit = AuditLog(backend, Clock())
    answers = [audit.append(make(n)) for n in range(100)]
    while backend.held:
        backend.held.pop(0).callback(None)
    for answer in answers:
        result(answer)
    assert backend.commits == 2
    assert names(audit) == [f"id-{n}" for n in range(100)]


@pytest.mark.parametrize(
    "fields",
    [
        {"command": "\ud800"},
        {"size": float("nan")},
        {"size": 2**70},
        {"thing": object()},
        {"text": "x" * 300_000},
    ],
    ids=["surrogate", "nan", "huge", "object", "long"],
)
def test_what_could_not_be_read_back_is_refused(audit: AuditLog, fields: dict[str, Any]) -> None:
    """One bad event cannot make the audit unreadable, nor take others with it."""
    good = audit.append(make(1))
    with pytest.raises(InvalidInput):
        result(audit.append(make(2), make(3, **fields)))
    result(good)
    assert names(audit) == ["id-1"]


@pytest.mark.parametrize("name", ["", "x" * 129, "a b", "a\n", "\u00e9"])
def test_ids_are_plain(audit: AuditLog, name: str) -> None:
    """An id becomes a key of the store."""
    with pytest.raises(InvalidInput):
        result(audit.append(evolve(make(1), id=name)))


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
    cursors = [ListEvents(after=text) for text in ("x", "\u00b2", "9" * 17, "-1")]
    for bad in cursors:
        with pytest.raises(InvalidInput):
            result(audit.query(bad))


def test_pages_from_the_end(audit: AuditLog) -> None:
    """``newest`` goes back page by page, each in order."""
    result(audit.append(*(make(n) for n in range(5))))
    page = result(audit.query(ListEvents(newest=True, limit=2)))
    assert [e.id for e in page.items] == ["id-3", "id-4"]
    page = result(audit.query(ListEvents(newest=True, limit=2, after=page.next)))
    assert [e.id for e in page.items] == ["id-1", "id-2"]


def test_a_search_continues_over_many_events(audit: AuditLog) -> None:
    """Rare events are found wherever they are; similar text does not match."""
    result(audit.append(*(make(n, user="b", command='"user":"a"') for n in range(700))))
    result(audit.append(make(700, user="a"), *(make(n) for n in range(701, 1400))))
    result(audit.append(make(1400, user="a")))
    first = result(audit.query(ListEvents(user="a", limit=1)))
    assert [e.id for e in first.items] == ["id-700"]
    assert names(audit, user="a", after=first.next) == ["id-1400"]


def test_what_is_outside_of_the_time_is_not_read(
    audit: AuditLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Events outside of --since and --until are not decoded; a time that a host wrote into its own
    texts neither hides an event nor shows one.
    """
    early, late = "2000-01-01T00:00:00.000Z", "2100-01-01T00:00:00.000Z"
    for number in range(40):
        said = {"details": {"time": early if number % 2 else late}}
        result(audit.append(make(number, **said)))
    read: list[str] = []
    original = reading._read

    def noted(item: Item) -> Event | None:
        read.append(item.key)
        return original(item)

    monkeypatch.setattr(reading, "_read", noted)
    since, until = make(10).time, make(20).time
    assert names(audit, since=since, until=until) == [f"id-{number}" for number in range(10, 20)]
    assert len(read) < 40
    read.clear()
    assert names(audit, since=make(1000).time) == []
    assert len(read) == 20  # those with a late time in their own words


def test_followers_receive_events_as_they_come(audit: AuditLog) -> None:
    """Following starts now and ends when stopped."""
    result(audit.append(make(0)))
    received: list[str] = []
    watch = result(audit.follow(lambda value: received.append(value.id)))
    result(audit.append(make(1), make(2)))
    watch.stop()
    result(audit.append(make(3)))
    assert received == ["id-1", "id-2"]


def test_a_broken_sink_affects_no_other(backend: MemoryBackend, tmp_path: Path) -> None:
    """A failing sink is counted; the event is appended and the other sink gets it."""
    audit = AuditLog(backend, Clock(), [Broken(), FileSink(tmp_path / "audit.json")])
    result(audit.append(make(1, command="ls\n-l")))
    assert audit.failed_deliveries == 1
    lines = (tmp_path / "audit.json").read_text().splitlines()
    assert json.loads(lines[0])["command"] == "ls\n-l"
    assert len(lines) == 1


def test_half_an_event_does_not_spoil_the_next(
    backend: MemoryBackend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that has room for a part of an event only: the event counts as not delivered, and
    the file holds whole lines.
    """
    audit = AuditLog(backend, Clock(), [FileSink(tmp_path / "audit.json")])
    result(audit.append(make(1)))
    write = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda file, data: write(file, data[:10]))
        result(audit.append(make(2)))
    result(audit.append(make(3)))
    assert audit.failed_deliveries == 1
    lines = (tmp_path / "audit.json").read_text().splitlines()
    assert [json.loads(line)["id"] for line in lines] == ["id-1", "id-3"]


@implementer(IAuditSink)
class Patient:
    """A sink that takes one event at a time."""

    def __init__(self) -> None:
        self.taken: list[str] = []
        self.busy: Deferred[None] | None = None

    def receive(self, event: Event) -> Deferred[None]:
        assert self.busy is None
        self.taken.append(event.id)
        self.busy = Deferred()
        return self.busy

    def go_on(self) -> None:
        busy, self.busy = self.busy, None
        if busy is not None:
            busy.callback(None)


def test_a_slow_sink_gets_one_event_at_a_time(backend: MemoryBackend) -> None:
    """In order; what is more than it may be behind is counted as lost."""
    sink = Patient()
    audit = AuditLog(backend, Clock(), [sink])
    result(audit.append(*(make(n) for n in range(3))))
    assert sink.taken == ["id-0"]
    for _ in range(3):
        sink.go_on()
    assert sink.taken == ["id-0", "id-1", "id-2"]
    result(audit.append(make(3)))
    audit._deliveries[0].send([make(n) for n in range(BACKLOG + 5)])
    assert audit.failed_deliveries == 5


def test_a_line_that_a_crash_tore_is_taken_out(tmp_path: Path) -> None:
    """What a power cut left of a line does not spoil the next one, however long it was."""
    path = tmp_path / "audit.json"
    sink = FileSink(path)
    assert str(path) in repr(sink)  # the log says so which one fails
    result(sink.receive(make(1)))
    for torn in (b'{"id": "id-2', b"x" * 200_000):
        with path.open("ab") as file:
            file.write(torn)
        result(sink.receive(make(3)))
    assert [json.loads(line)["id"] for line in path.read_text().splitlines()] == [
        "id-1", "id-3", "id-3"
    ]  # fmt: skip
    path.write_bytes(b"all of it torn")
    result(sink.receive(make(4)))
    assert [json.loads(line)["id"] for line in path.read_text().splitlines()] == ["id-4"]


def test_a_file_sink_takes_many_and_syncs_once(
    backend: MemoryBackend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What waits goes to the disk with one sync, off the reactor; nothing is delivered before."""
    waiting: list[tuple[Deferred[None], Callable[[], None]]] = []

    def later(write: Callable[[], None]) -> Deferred[None]:
        waiting.append((Deferred(), write))
        return waiting[-1][0]

    clock = Clock()
    audit = AuditLog(backend, clock, [FileSink(tmp_path / "audit.json", later)])
    for number in range(10):
        result(audit.append(make(number)))
    assert not (tmp_path / "audit.json").exists()
    closing = Deferred.fromCoroutine(audit.close())
    synced: list[int] = []
    fsync = os.fsync

    def note(file: int) -> None:
        synced.append(file)
        fsync(file)

    monkeypatch.setattr(os, "fsync", note)
    while waiting:
        assert not closing.called
        answer, write = waiting.pop()
        write()
        answer.callback(None)
    result(closing)
    assert len((tmp_path / "audit.json").read_text().splitlines()) == 10
    assert len(synced) == 3  # the first line, its folder, and all that came meanwhile
    assert not clock.getDelayedCalls()


def test_closing_does_not_wait_for_a_dead_sink(backend: MemoryBackend) -> None:
    """A sink that never answers does not keep auth from stopping."""
    clock = Clock()
    audit = AuditLog(backend, clock, [Patient()])
    result(audit.append(make(1)))
    closing = Deferred.fromCoroutine(audit.close())
    clock.advance(CLOSING_SECONDS)
    result(closing)


def test_unknown_names_are_our_mistake() -> None:
    """An event that is not in the catalogue cannot be made."""
    with pytest.raises(KeyError):
        event("made.up", "1", START, "c")


def test_the_chain_is_as_documented() -> None:
    """A chain checked by hand, without our code: docs/protocols/audit says how."""
    value = link(make(1, command="é"), "")
    shown = json.loads(encode(value))
    claimed, shown["hash"] = shown["hash"], ""
    text = json.dumps(shown, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert hashlib.sha256(text.encode()).hexdigest() == claimed


def test_what_is_appended_can_be_listed(audit: AuditLog) -> None:
    """An event as deep as JSON may be has to fit into a list of events, or is refused."""

    def nested(depth: int) -> Any:
        return [nested(depth - 1)] if depth else 1

    with pytest.raises(InvalidInput):
        result(audit.append(make(1, said=nested(DEPTH_LIMIT - 1))))
    result(audit.append(make(2, said=nested(DEPTH_LIMIT - 3))))
    listed = result(audit.query(ListEvents()))
    assert decode(EventList, encode(listed)) == listed


def test_what_depends_on_an_event_is_done_with_it() -> None:
    """Changes are made in the commit that appends their event, and not when it is there already."""
    clock = Clock()
    clock.advance(START.timestamp())
    backend = MemoryBackend(clock)
    audit = AuditLog(backend, clock)
    result(audit.append(make(1), make(2), changes={"id-2": [Put("/x", b"1")]}))
    item = result(backend.get("/x"))
    head = result(backend.get(HEAD))
    assert item is not None
    assert head is not None
    assert item.revision == head.revision
    result(audit.append(make(3), make(2), changes={"id-2": [Delete("/x")]}))
    assert result(backend.get("/x")) == item
    with pytest.raises(InvalidInput):
        result(audit.append(make(4), make(5, hash="x"), changes={"id-4": [Delete("/x")]}))
    assert result(backend.get("/x")) == item
