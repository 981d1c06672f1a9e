"""Searching in recordings: who finds what, and what is left of it in the audit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve

from auth_world import Tape, World, result
from recorded_sessions import chunks_of, frame, opened
from tele.auth.recording_indexes import RecordingIndexes, Unindexed
from tele.auth.recording_keys import KeysOfRecording
from tele.auth.recording_texts import RecordingTexts, around
from tele.errors import AccessDenied, InvalidInput, Unavailable
from tele.interfaces import SearchedLine, SearchedRecording, SearchPage, SearchQuery
from tele.model.api import table
from tele.model.api.keeping import RemoveRecording
from tele.model.api.recordings import ListRecordings
from tele.model.api.roles import PutRole
from tele.model.api.search import FoundIn, SearchRecordings
from tele.model.frame import FrameKind
from tele.model.resources import Conditions, Metadata, Role, RoleSpec, Rule
from tele.recording.indexing import Indexer
from tele.store import search_file


class Searching:
    """The search without threads; keeps what was asked."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.connection = search_file.open_file(path)
        self.queries: list[tuple[SearchQuery, str]] = []

    async def add(self, recording: SearchedRecording, lines: list[SearchedLine]) -> None:
        search_file.add(self.connection, recording, lines, 1 << 30)

    async def remove(self, recording_id: str) -> None:
        search_file.remove(self.connection, recording_id)

    async def search(self, query: SearchQuery, key: str) -> SearchPage:
        self.queries.append((query, key))
        return search_file.search(self.path, query, 10.0)

    async def close(self) -> None:
        self.connection.close()


@pytest.fixture
def searching(world: World, tmp_path: Path) -> Iterator[Searching]:
    made: Any = Searching(tmp_path / "text.sqlite")
    recordings = world.parts.recordings
    recordings.texts = RecordingTexts(made, recordings.find_by_id)
    recordings.indexes = RecordingIndexes(
        world.backend, world.archive, world.clock, Indexer(world.clock), recordings.find,
        recordings.texts.add, recordings.texts.remove,
    )  # fmt: skip
    recordings.indexes.start()
    yield made
    result(recordings.indexes.stop())
    result(made.close())


def session(world: World, user: str, output: str, command: str = "psql") -> Tape:
    """A closed session in which ``command`` was run and ``output`` shown."""
    tape = Tape(world, user)
    frames = [
        opened(kind="exec", command=command, pty=None),
        frame(3, FrameKind.OUTPUT, output.encode() + b"\n"),
        frame(4, FrameKind.TRANSFER, {"op": "write", "direction": "upload", "path": "/etc/motd"}),
    ]
    tape.chunks = chunks_of(frames, start=tape.start)
    tape.upload(*range(len(tape.chunks)))
    tape.finish()
    world.clock.advance(1)
    return tape


def search(world: World, text: str, caller: Any = None, **words: Any) -> list[tuple[str, str]]:
    found = world.do(table.SEARCH_RECORDINGS, SearchRecordings(text, **words), caller)
    return [(hit.recording, hit.line) for hit in found.items]


def test_a_text_is_found_with_its_place(world: World, searching: Searching) -> None:
    """Output, command and file: each hit says where, when, and in which session."""
    tape = session(world, "alice", "DROP TABLE users", "mysql prod")
    (hit,) = world.do(table.SEARCH_RECORDINGS, SearchRecordings("drop  table")).items
    assert (hit.recording, hit.user, hit.login, hit.node) == (tape.id, "alice", "root", "web1")
    assert (hit.at, hit.kind, hit.line) == (3.0, FoundIn.OUTPUT, "DROP TABLE users")
    (command,) = world.do(table.SEARCH_RECORDINGS, SearchRecordings("MYSQL")).items
    assert (command.kind, command.line) == (FoundIn.EXEC, "mysql prod")
    (file,) = world.do(table.SEARCH_RECORDINGS, SearchRecordings("/etc/motd")).items
    assert (file.kind, file.at) == (FoundIn.FILE, 4.0)
    assert search(world, "mysql", kinds=(FoundIn.OUTPUT,)) == []


def test_recordings_are_listed_by_command(world: World, searching: Searching) -> None:
    """--command with the other filters; each recording once."""
    one = session(world, "alice", "x", "rm -rf /srv/a")
    two = session(world, "bob", "rm -rf is shown, not run", "cat notes")
    three = session(world, "bob", "x", "sudo rm -rf /srv/b")

    def listed(**words: Any) -> list[str]:
        request = ListRecordings(command="rm -rf", **words)
        return [row.id for row in world.do(table.LIST_RECORDINGS, request).items]

    assert listed() == [three.id, one.id]
    assert listed(user="alice") == [one.id]
    assert listed(node="w*1") == [three.id, one.id]
    assert listed(node="db*") == []
    assert two.id not in listed(limit=1)


def test_nodes_are_listed_by_a_pattern(world: World, searching: Searching) -> None:
    """A pattern is of the whole name; a name without a star is that name alone."""
    tape = session(world, "alice", "x")

    def listed(node: str) -> list[str]:
        rows = world.do(table.LIST_RECORDINGS, ListRecordings(node=node)).items
        return [row.id for row in rows]

    assert listed("web*") == listed("WEB?") == listed("web1") == [tape.id]
    assert listed("web") == listed("eb*") == []


def test_attack_users_find_their_own_text_only(world: World, searching: Searching) -> None:
    """Without a rule a search is of one's own recordings, whatever is asked."""
    for name in ("alice", "mallory"):
        world.add_user(name, "access")
    own = session(world, "mallory", "the password is hunter2", "echo secret")
    session(world, "alice", "the password is swordfish", "echo secret")
    mallory = world.user("mallory", "access")
    assert search(world, "password is", mallory) == [(own.id, "the password is hunter2")]
    query, key = searching.queries[-1]
    assert (query.user, query.isolated, key) == ("mallory", True, "mallory")
    with pytest.raises(AccessDenied):
        search(world, "password is", mallory, user="alice")
    rows = world.do(table.LIST_RECORDINGS, ListRecordings(command="secret"), mallory).items
    assert [row.id for row in rows] == [own.id]
    with pytest.raises(AccessDenied):
        world.do(table.LIST_RECORDINGS, ListRecordings(command="secret", user="alice"), mallory)


def test_attack_who_lists_recordings_learns_no_commands(world: World, searching: Searching) -> None:
    """A rule to list recordings does not tell which of them have a command: that is content."""
    rule = Rule(("recording",), ("list",))
    role = Role(Metadata("lister"), RoleSpec(allow=Conditions(rules=(rule,))))
    world.do(table.PUT_ROLE, PutRole("lister", role))
    world.add_user("alice", "access")
    world.add_user("lister", "lister")
    tape = session(world, "alice", "x", "echo secret")
    lister = world.user("lister", "lister")
    assert [r.id for r in world.do(table.LIST_RECORDINGS, ListRecordings(), lister).items] == [
        tape.id
    ]
    asked = ListRecordings(command="secret")
    assert world.do(table.LIST_RECORDINGS, asked, lister).items == ()
    assert search(world, "secret", lister) == []


def test_attack_a_new_user_of_an_old_name_finds_nothing(world: World, searching: Searching) -> None:
    """Recordings of an earlier user of the same name are not one's own."""
    session(world, "alice", "the old alice's secret")
    world.clock.advance(60)
    world.add_user("alice", "access")
    assert search(world, "secret", world.user("alice", "access")) == []


def test_hits_are_accesses(world: World, searching: Searching) -> None:
    """Each recording of which a line is shown is an event, once; others are none."""
    session(world, "alice", "needle one")
    session(world, "bob", "needle two")
    session(world, "carol", "nothing")
    for _ in range(3):
        assert len(search(world, "needle")) == 2
    read = [event.fields["of_user"] for event in world.events("recording.access")]
    assert sorted(read) == ["alice", "bob"]


def test_a_removed_recording_is_not_found(world: World, searching: Searching) -> None:
    """Its text goes with it; a text that is left over shows nothing either."""
    tape = session(world, "alice", "needle")
    kept = SearchedRecording(tape.id, "alice", tape.start.started)
    world.do(table.DELETE_RECORDING, RemoveRecording(tape.id, "test"))
    assert search(world, "needle") == []
    line = SearchedLine(0, 1, FoundIn.OUTPUT, "needle left over")
    result(searching.add(kept, [line]))
    assert search(world, "needle") == []


def test_a_recording_that_is_removed_while_its_text_is_stored_leaves_none(
    world: World, searching: Searching
) -> None:
    """Its lines arrive after it was removed: they do not stay on the disk."""
    add, row = searching.add, {}

    async def late(recording: SearchedRecording, lines: list[SearchedLine]) -> None:
        world.do(table.DELETE_RECORDING, RemoveRecording(recording.id, "test"))
        await add(recording, lines)
        row["id"] = recording.id

    searching.add = late  # type: ignore[method-assign]
    session(world, "alice", "needle")
    found = searching.connection.execute("SELECT count(*) FROM lines").fetchone()
    assert (row != {}, found) == (True, (0,))


def test_what_cannot_be_searched_is_refused(world: World, searching: Searching) -> None:
    """Too short, too long, a mark that is none; and an auth without a search says so."""
    for text in ("", "ab", " a  "):
        with pytest.raises(InvalidInput, match="3 characters"):
            search(world, text)
    with pytest.raises(InvalidInput):
        SearchRecordings("x" * 201)
    with pytest.raises(InvalidInput, match="mark"):
        search(world, "needle", after="1 OR 1")
    world.parts.recordings.texts = RecordingTexts(None, world.parts.recordings.find_by_id)
    with pytest.raises(Unavailable, match="sqlite"):
        search(world, "needle")


def test_a_long_line_is_shown_around_the_text() -> None:
    """A hit has the part of the line with the text in it."""
    line = "a " * 300 + "the needle is here" + " z" * 300
    assert "the needle is here" in around(line, "NEEDLE")
    assert len(around(line, "needle")) <= 201
    assert around("short", "x") == "short"


@pytest.mark.parametrize("words", [
    {"after": "9" * 19}, {"after": "9" * 5000}, {"after": "-1"}, {"after": "\u0661"},
    {"text": "ab\0c"},
])  # fmt: skip
def test_attack_what_is_no_search_is_refused(
    world: World, searching: Searching, words: dict[str, Any]
) -> None:
    """It is a fault of the caller, and none of auth that its log has a traceback of."""
    session(world, "alice", "abc")
    with pytest.raises(InvalidInput):
        words = {"text": "abc"} | words
        world.do(table.SEARCH_RECORDINGS, SearchRecordings(**words))


def test_attack_spaces_hide_nothing(world: World, searching: Searching) -> None:
    """A command with two spaces or a tab is found by the same with one, and so is output."""
    tape = session(world, "alice", "DROP    TABLE x", "rm \t -rf   /srv")
    assert search(world, "rm -rf /srv") == [(tape.id, "rm -rf /srv")]
    assert search(world, "drop  table") == [(tape.id, "DROP TABLE x")]
    request = ListRecordings(command="rm  -rf")
    assert [row.id for row in world.do(table.LIST_RECORDINGS, request).items] == [tape.id]


def test_what_was_not_searched_is_counted(world: World, searching: Searching) -> None:
    """Recordings that wait for their index, or get none, are counted for those who may read all:
    an empty answer is not taken for a proof. Others learn nothing of them.
    """
    world.add_user("mallory", "access")
    session(world, "alice", "one")
    indexes: Any = world.parts.recordings.indexes
    for recording, entry in (
        ("w1", Unindexed()),
        ("w2", Unindexed()),
        ("w3", Unindexed(opened=True)),
    ):
        result(world.backend.commit(indexes._waiting.put(recording, entry)))
    result(world.backend.commit(indexes._failed.put("f1", Unindexed(4, None, "damaged"))))
    request = SearchRecordings("nothing")
    found = world.do(table.SEARCH_RECORDINGS, request)
    assert (found.items, found.waiting, found.failed, found.sealed) == ((), 2, 1, False)
    keys: Any = world.parts.recordings.keys
    result(world.backend.commit(keys._keys.put("s1", KeysOfRecording(()))))
    assert world.do(table.SEARCH_RECORDINGS, request).sealed
    own = world.do(table.SEARCH_RECORDINGS, request, world.user("mallory", "access"))
    assert (own.waiting, own.failed, own.sealed) == (0, 0, False)
    later = world.do(table.SEARCH_RECORDINGS, evolve(request, after="5"))
    assert (later.waiting, later.failed) == (0, 0)
