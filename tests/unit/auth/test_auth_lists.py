"""Lists over many rows: filtered and paged in the store, at the price of a page."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from attrs import evolve
from twisted.internet.defer import Deferred

from auth_world import HOST_ID, Tape, World, result
from tele.auth.recording_search import INDEX, OF_USER, SCAN_LIMIT, received_at, stamp_of
from tele.auth.recordings import ROWS
from tele.auth.repository import STEP, Repository
from tele.auth.running_sessions import SESSIONS, SESSIONS_OF
from tele.errors import AccessDenied, InvalidInput
from tele.interfaces import Item, Put
from tele.loop import now
from tele.model.api import recordings, table
from tele.model.api.paging import Paged
from tele.model.codec import encode
from tele.model.identity import HostRole
from tele.model.presence import Presence
from tele.model.session import Recording, Session
from tele.store.memory import MemoryBackend

START = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def world() -> Iterator[World]:
    """A cluster."""
    made = World()
    yield made
    made.stop()


def fill(world: World, count: int, **words: Any) -> list[Recording]:
    """Store rows, a second apart; returns them newest first."""
    rows = []
    for number in range(count):
        moment = START + timedelta(seconds=number)
        row = Recording(
            str(uuid.UUID(int=number << 96)), "ssh", "alice", "root", "web1", moment, None, False,
            0, HOST_ID, received=moment,
        )  # fmt: skip
        row = evolve(row, **{k: v(number) for k, v in words.items()})
        stamp = f"{stamp_of(received_at(row))}-{row.id}"
        keys = (INDEX + stamp, f"{OF_USER}{row.user}/{stamp}")
        puts = [Put(ROWS + row.id, encode(row)), *(Put(key, b"") for key in keys)]
        result(world.backend.commit(*puts))
        rows.append(row)
    return rows[::-1]


def ask(world: World, caller: Any = None, **words: Any) -> Any:
    return world.do(table.LIST_RECORDINGS, recordings.ListRecordings(**words), caller)


def every(world: World, caller: Any = None, **words: Any) -> list[Recording]:
    """All pages together."""
    found: list[Recording] = []
    after = ""
    while True:
        page = ask(world, caller, after=after, **words)
        found += page.items
        after = page.next
        if not after:
            return found


@pytest.mark.parametrize("limit", [1, 7, 20, 1000])
def test_each_filter_gives_what_it_names(world: World, limit: int) -> None:
    """User, node, time and the beginning of an id, alone and together, on pages of any length."""
    rows = fill(
        world, 60, user=lambda n: f"u{n % 3}", node=lambda n: f"web{n % 2}",
        node_id=lambda n: f"id{n % 2}",
    )  # fmt: skip
    since, until = START + timedelta(seconds=10), START + timedelta(seconds=40)
    inside = [row for row in rows if since <= received_at(row) < until]
    assert every(world, limit=limit) == rows
    assert every(world, limit=limit, user="u1") == [row for row in rows if row.user == "u1"]
    assert every(world, limit=limit, node="web1") == [row for row in rows if row.node == "web1"]
    assert every(world, limit=limit, node="id0") == [row for row in rows if row.node_id == "id0"]
    assert every(world, limit=limit, since=since, until=until) == inside
    assert every(world, limit=limit, since=since, until=until, user="u2", node="web0") == [
        row for row in inside if (row.user, row.node) == ("u2", "web0")
    ]
    beginning = rows[5].id[:7]
    fitting = [row for row in rows if row.id.startswith(beginning)]
    assert 1 < len(fitting) < len(rows)
    assert every(world, limit=limit, id=beginning) == sorted(fitting, key=lambda row: row.id)
    mine = [row for row in fitting if row.user == "u1"]
    assert every(world, limit=limit, id=beginning, user="u1") == mine
    assert every(world, limit=limit, user="nobody") == []


def test_what_no_recording_has_is_refused(world: World) -> None:
    """What leads out of the rows, or to none, is an error and not an empty list (attack)."""
    for words in ({"id": "../x"}, {"id": "g"}, {"user": "a/b"}, {"id": "0" * 37}, {"limit": 0}):
        with pytest.raises(InvalidInput):
            ask(world, **words)
    fill(world, 3)
    for after in ("~", "\0", "../../users/", "9" * 40, "/"):
        assert all(isinstance(row, Recording) for row in ask(world, after=after).items)


def test_filters_widen_nothing(world: World) -> None:
    """Without a rule one's own are listed, whatever is asked for: also by the beginning of an id,
    and not those of an earlier user of the name (attack).
    """
    world.add_user("alice", "access")
    world.add_user("bob", "access")
    own, other = Tape(world, "alice"), Tape(world, "bob")
    alice = world.user("alice", "access")
    assert [row.id for row in every(world, alice)] == [own.id]
    assert every(world, alice, id=other.id[:8]) == []
    assert [row.id for row in every(world, alice, id=own.id[:8])] == [own.id]
    assert [row.id for row in every(world, alice, user="alice")] == [own.id]
    with pytest.raises(AccessDenied, match="needs a rule"):
        ask(world, alice, user="bob")
    fill(world, 3)  # from before the user was there
    assert [row.id for row in every(world, alice, since=START)] == [own.id]


class Counting(MemoryBackend):
    """A store that counts its calls."""

    def __init__(self, clock: Any) -> None:
        super().__init__(clock)
        self.calls = self.items = 0

    def get(self, key: str) -> Deferred[Item | None]:
        self.calls += 1
        return super().get(key)

    def get_many(self, keys: Sequence[str]) -> Deferred[Sequence[Item | None]]:
        self.calls += 1
        self.items += len(keys)
        return super().get_many(keys)

    def range(
        self, start: str, end: str, limit: int = 0, reverse: bool = False
    ) -> Deferred[Sequence[Item]]:
        self.calls += 1
        found = super().range(start, end, limit, reverse)
        self.items += len(result(found))
        return super().range(start, end, limit, reverse)


@pytest.fixture
def counted(world: World) -> Iterator[Counting]:
    """The store, as recordings see it."""
    counting = Counting(world.clock)
    counting.__dict__.update(world.backend.__dict__)
    recordings: Any = world.parts.recordings
    for holder in (recordings, recordings.rows, recordings.sessions._sessions):
        holder._backend = counting
    recordings.sessions._backend = counting
    yield counting
    result(counting.close())


def test_a_page_costs_what_a_page_has(world: World, counted: Counting) -> None:
    """First pages, pages in the middle, a user's and those by the beginning of an id cost a few
    calls and as many items as they have, however many rows there are.
    """
    rows = fill(world, 3000, user=lambda n: f"u{n % 100}")
    middle = f"{stamp_of(received_at(rows[1500]))}-{rows[1500].id}"
    for words in (
        {"limit": 20}, {"limit": 20, "after": middle}, {"limit": 20, "user": "u7"},
        {"limit": 3, "id": rows[7].id[:9]}, {"limit": 20, "until": received_at(rows[2000])},
    ):  # fmt: skip
        counted.calls = counted.items = 0
        assert ask(world, **words).items
        assert counted.calls <= 3, words
        assert counted.items <= 41, words


def test_a_search_for_what_is_rare_ends(world: World, counted: Counting) -> None:
    """A page ends after many keys, has a next one, and the search finds the row in the end."""
    rows = fill(world, SCAN_LIMIT + 2 * STEP, node=lambda n: "rare" if n == 3 else "web1")
    counted.items = 0
    first = ask(world, node="rare")
    assert first.items == ()
    assert first.next
    assert counted.items <= 2 * (SCAN_LIMIT + STEP)
    assert every(world, node="rare") == [rows[-4]]


def test_running_sessions_are_read_once(
    world: World, counted: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pages of sessions decode what changed and nothing else; each session is on one page, also
    when the one that the last page ended with has ended since.
    """
    tapes = []
    for _ in range(6):
        world.clock.advance(1)
        tapes.append(Tape(world))
    world.do(table.ANNOUNCE, Presence("web1", HostRole.NODE), tapes[0].host)
    read: list[str] = []
    repository: Any = world.parts.recordings.sessions._sessions
    original = repository.read

    def noted(item: Item) -> Any:
        read.append(item.key)
        return original(item)

    monkeypatch.setattr(repository, "read", noted)
    first = world.do(table.LIST_SESSIONS, Paged(2))
    assert [session.id for session in first.items] == [tape.id for tape in tapes[:2]]
    assert len(read) == 6
    ended = recordings.UpdateRecording(tapes[1].id, ended=now(world.clock))
    world.do(table.UPDATE_RECORDING, ended, tapes[1].host)
    read.clear()
    rest, after = [], first.next
    while after:
        page = world.do(table.LIST_SESSIONS, Paged(2, after))
        rest += page.items
        after = page.next
    assert [session.id for session in rest] == [tape.id for tape in tapes[2:]]
    assert read == []


def test_sessions_of_one_millisecond_keep_their_order(world: World) -> None:
    """Sessions that began together are each on one page."""
    world.join(world.token())
    moment = now(world.clock)
    for number in range(30):
        name = str(uuid.uuid4())
        received = moment + timedelta(microseconds=number * 37 % 1000)
        session = Session(
            name, "alice", "root", "web1", HOST_ID, "192.0.2.7:1", moment, received=received
        )
        puts = Put(SESSIONS + name, encode(session)), Put(f"{SESSIONS_OF}alice/{name}", b"")
        result(world.backend.commit(*puts))
    world.do(table.ANNOUNCE, Presence("web1", HostRole.NODE), world.host())
    seen: list[str] = []
    after = ""
    while True:
        page = world.do(table.LIST_SESSIONS, Paged(7, after))
        seen += [session.id for session in page.items]
        after = page.next
        if not after:
            break
    assert len(seen) == len(set(seen)) == 30


def test_a_long_page_is_read_in_steps(world: World, counted: Counting) -> None:
    """A page of a thousand is several reads, so that others have their turns in between; all of
    a kind, for a decision about them, are one.
    """
    repository = Repository(counted, "/things/", Paged)
    for number in range(2 * STEP + 50):
        result(counted.commit(repository.put(f"{number:04d}", Paged(number + 1))))
    counted.calls = 0
    names = [stored.name for stored in result(repository.list(2 * STEP + 10))]
    assert names == [f"{number:04d}" for number in range(2 * STEP + 10)]
    assert counted.calls == 3
    assert [stored.name for stored in result(repository.list(STEP + 5, "0300", True))] == [
        f"{number:04d}" for number in range(299, 299 - STEP - 5, -1)
    ]
    counted.calls = 0
    assert len(result(repository.list())) == 2 * STEP + 50
    assert counted.calls == 1


def test_attack_a_pattern_that_takes_for_ever(world: World) -> None:
    """Each star more multiplied the time of a regular expression: a user with one recording of
    their own stopped auth for hours. Thirty stars take as long as one, and match the same.
    """
    rows = fill(world, 3, node=lambda n: "a" * 60 + str(n))
    for pattern in ("*" + "?*" * 30 + "z", "*a" * 30 + "*z", "*a" * 100 + "z"):
        assert ask(world, node=pattern).items == ()
    assert ask(world, node="*a" * 30 + "*1").items == (rows[1],)
    assert ask(world, node="A*?*1").items == (rows[1],)
    with pytest.raises(InvalidInput):
        ask(world, node="*" * 257)
