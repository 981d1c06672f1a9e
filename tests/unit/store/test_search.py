"""The text of recordings: what is found, for whom, in bounded time and space."""

from __future__ import annotations

import os
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tele.errors import InvalidInput
from tele.interfaces import SearchedLine, SearchedRecording, SearchPage, SearchQuery
from tele.model.api.search import FoundIn
from tele.store import search_file

BEGIN = datetime(2026, 11, 24, 12, tzinfo=UTC)


class Texts:
    """A file with text, of recordings that are named by numbers."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.connection = search_file.open_file(path)
        self.limit = 1 << 30

    def add(self, number: int, user: str, *lines: str, kind: FoundIn = FoundIn.OUTPUT) -> None:
        recording = SearchedRecording(f"r{number}", user, BEGIN + timedelta(hours=number))
        rows = [SearchedLine(at * 1000, 1, kind, line) for at, line in enumerate(lines)]
        search_file.add(self.connection, recording, rows, self.limit)

    def page(self, text: str, limit: int = 50, seconds: float = 10.0, **words: Any) -> SearchPage:
        return search_file.search(self.path, SearchQuery(text, limit, **words), seconds)

    def found(self, text: str, **words: Any) -> list[tuple[str, str]]:
        return [(recording, line.text) for recording, line in self.page(text, **words).lines]


@pytest.fixture
def texts(tmp_path: Path) -> Any:
    made = Texts(tmp_path / "text.sqlite")
    yield made
    made.connection.close()


def test_a_part_of_a_word_is_found(texts: Texts) -> None:
    """In any case, within words, with signs; newest recording first, last line first."""
    texts.add(1, "alice", "psql> DROP TABLE users;", "other")
    texts.add(2, "bob", "drop tables", 'echo "100%_done"')
    assert texts.found("drop table") == [("r2", "drop tables"), ("r1", "psql> DROP TABLE users;")]
    assert texts.found('"100%_') == [("r2", 'echo "100%_done"')]
    assert texts.found("OP TAB") == texts.found("drop table")
    assert texts.found("100x_") == []


def scrubbed(texts: Texts) -> bytes:
    """All bytes of the file after what was removed is overwritten."""
    begin = True
    while search_file.scrub(texts.connection, begin):
        begin = False
    return in_files(texts)


def in_files(texts: Texts) -> bytes:
    files = [texts.path, texts.path.with_name(f"{texts.path.name}-wal")]
    return b"".join(each.read_bytes() for each in files if each.exists())


def test_attack_nothing_of_removed_text_is_left_in_the_file(texts: Texts) -> None:
    """Neither the text nor its trigrams, from which it could be put together; the rest is found."""
    texts.add(1, "alice", *(f"line {n} of one" for n in range(300)))
    texts.add(2, "alice", "the password is ~~~~zq")
    texts.add(3, "alice", *(f"line {n} of three" for n in range(300)))
    search_file.remove(texts.connection, "r2")
    assert b"~~~" in in_files(texts)
    assert b"~~~" not in scrubbed(texts)
    assert texts.found("line 7 of") == [("r3", "line 7 of three"), ("r1", "line 7 of one")]
    texts.add(4, "alice", "~~~~ again")
    for number in (1, 3, 4):
        search_file.remove(texts.connection, f"r{number}")
    assert b"~~~" not in scrubbed(texts)
    texts.add(5, "alice", "line 7 of five")
    assert texts.found("line 7 of") == [("r5", "line 7 of five")]


@pytest.mark.parametrize("isolated", [False, True])
def test_filters(texts: Texts, isolated: bool) -> None:
    """User, kind and time limit what is found, in either way to search."""
    texts.add(1, "alice", "needle one")
    texts.add(2, "alice", "needle two", kind=FoundIn.EXEC)
    texts.add(3, "alice", "needle three")
    texts.add(4, "bob", "needle four")

    def found(**words: Any) -> list[str]:
        lines = texts.found("NEEDLE", user="alice", isolated=isolated, **words)
        return [recording for recording, _ in lines]

    assert found() == ["r3", "r2", "r1"]
    assert found(kinds=(FoundIn.EXEC, FoundIn.PROMPT)) == ["r2"]
    assert found(since=BEGIN + timedelta(hours=2)) == ["r3", "r2"]
    assert found(until=BEGIN + timedelta(hours=3)) == ["r2", "r1"]


@pytest.mark.parametrize("isolated", [False, True])
@pytest.mark.parametrize("distinct", [False, True])
def test_pages_have_everything_once(texts: Texts, isolated: bool, distinct: bool) -> None:
    """Page after page gives each line once; distinct gives each recording once."""
    for number in range(7):
        texts.add(number, "alice", *(f"needle {number} {line}" for line in range(5)))
    found: list[tuple[str, str]] = []
    after = ""
    for _ in range(50):
        page = texts.page(
            "needle", 3, after=after, user="alice", isolated=isolated, distinct=distinct
        )
        found += [(recording, line.text) for recording, line in page.lines]
        after = page.next
        if not after:
            break
    assert len(found) == len(set(found)) == (7 if distinct else 35)
    assert [recording for recording, _ in found] == sorted((r for r, _ in found), reverse=True)


def test_an_isolated_search_folds_letters_too(texts: Texts) -> None:
    """Letters beyond ASCII have no case for the reader of their own recordings either."""
    texts.add(1, "alice", "ÄRGER in Zürich")
    assert texts.found("ärger", user="alice", isolated=True) == [("r1", "ÄRGER in Zürich")]
    assert texts.found("ärger") == [("r1", "ÄRGER in Zürich")]


def test_attack_an_isolated_search_reads_no_text_of_others(texts: Texts) -> None:
    """Neither hits nor the work that is done depend on what other users showed."""
    texts.add(1, "mallory", "my own line", "the secret of mallory")
    statements: list[str] = []

    def work() -> int:
        counted = 0

        def step() -> int:
            nonlocal counted
            counted += 1
            return 0

        connection = search_file._open(texts.path)
        connection.set_progress_handler(step, 1)
        connection.set_trace_callback(statements.append)
        query = SearchQuery("secret", 50, user="mallory", isolated=True)
        search_file._Search(connection, query).run()
        connection.set_trace_callback(None)
        connection.close()
        return counted

    before = work()
    for number in range(2, 40):
        texts.add(number, "alice", *(f"the secret {line}" for line in range(50)))
    assert abs(work() - before) <= 2  # whether the index goes on after the user
    assert not any("words" in each for each in statements)
    found = texts.found("secret", user="mallory", isolated=True)
    assert found == [("r1", "the secret of mallory")]


@pytest.mark.parametrize("distinct", [False, True])
def test_attack_marks_do_not_count_the_lines_of_others(texts: Texts, distinct: bool) -> None:
    """The mark of an isolated page is the same however much others have; a mark of a recording of
    another user, or of none, is refused, and so is one of the other kind of search.
    """

    def mark(after: str = "") -> str:
        page = texts.page(
            "needle", 1, after=after, user="mallory", isolated=True, distinct=distinct
        )
        return page.next

    texts.add(1, "mallory", "needle one", "needle two")
    before = mark()
    for number in range(2, 9):
        texts.add(number, "alice", *(f"needle {line}" for line in range(number * 10)))
    assert mark() == before
    texts.add(9, "mallory", "needle three", "needle four")
    assert mark() == before.replace("r1", "r9")
    for wrong in ("r2.0", "r99.0", "5", "r1.", ".1", "r1.x"):
        with pytest.raises(InvalidInput, match="after"):
            mark(wrong)
    with pytest.raises(InvalidInput, match="after"):
        texts.page("needle", 1, after="r1.0")


def test_a_search_ends_in_time(texts: Texts) -> None:
    """A deadline that has passed gives what was found, says so, and may go on."""
    for number in range(20):
        texts.add(number, "alice", *(f"line {line} of many" for line in range(2000)))
    page = texts.page("of many", 10**6, seconds=-1.0)
    assert page.cut
    own = texts.page("is not there", 10, seconds=-1.0, user="alice", isolated=True)
    assert own.cut
    assert own.lines == ()


def test_what_is_removed_is_not_found(texts: Texts) -> None:
    """Removed, or stored again with other lines: nothing of the old text is left in the file."""
    texts.add(1, "alice", "the-old-needle")
    texts.add(2, "alice", "another one")
    texts.add(1, "alice", "the new one")
    search_file.remove(texts.connection, "r2")
    search_file.remove(texts.connection, "never there")
    assert texts.found("needle") == texts.found("another") == []
    assert texts.found("the new") == [("r1", "the new one")]
    texts.connection.execute("INSERT INTO words (words) VALUES ('integrity-check')")
    texts.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    assert b"the-old-needle" not in texts.path.read_bytes()


def test_the_text_is_bounded(texts: Texts) -> None:
    """Over the limit the oldest recordings of the user with most text go, not those of others."""
    texts.limit = 30_000
    texts.add(0, "bob", "bob's needle")
    for number in range(1, 60):
        texts.add(number, "alice", "needle " + "x" * 900)
    assert ("r0", "bob's needle") in texts.found("needle")
    kept = {recording for recording, _ in texts.found("needle")}
    assert "r59" in kept
    assert len(kept) < 35
    texts.add(70, "alice", *("y" * 900 for _ in range(50)))
    assert texts.found("yyy") == []


def test_the_file_is_private_and_a_damaged_one_is_replaced(tmp_path: Path) -> None:
    """It has what users saw; and it is derived, so that auth starts without it."""
    path = tmp_path / "new" / "text.sqlite"
    texts = Texts(path)
    texts.add(1, "alice", "needle")
    texts.connection.close()
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    for each in path.parent.iterdir():
        if each != path:
            each.unlink()
    path.write_bytes(b"no database at all" * 100)
    again = Texts(path)
    assert again.found("needle") == []
    again.connection.close()
