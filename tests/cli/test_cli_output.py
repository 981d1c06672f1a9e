"""Output: for users, for programs, and safe for terminals."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from tele.cli.audit import _earlier
from tele.cli.lists import FIRST_PAGE, NEXT_PAGES, pages, split_pairs, split_words
from tele.cli.output import (
    BATCH,
    Column,
    ago,
    plain,
    print_notice,
    show_data,
    show_list,
    show_one,
    show_pages,
    span,
    started_ago,
)
from tele.cli.sessions import _known
from tele.errors import InvalidInput
from tele.model.codec import format_time
from tele.model.session import Session
from tele.text import printable

EVIL = "web\x1b[2J\x1b]0;x\x07\r\u202e\u2028\x9b1m"


def session(name: str) -> Session:
    return Session("1", name, "root", "web1", "n", "10.0.0.1:5", datetime(2026, 11, 24, tzinfo=UTC))


COLUMNS = (Column("USER", lambda s: s["user"]), Column("LOGIN", lambda s: s["login"]))


@pytest.mark.parametrize("form", ["text", "json", "yaml", "names"])
def test_nothing_printed_moves_the_cursor(form: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A name that is chosen to hurt shows as what it is, in every format."""
    show_list(form, [session(EVIL)], COLUMNS, name=lambda s: s["user"])
    out = capsys.readouterr().out
    assert all(char.isprintable() or char == "\n" for char in out)
    assert "web" in out


def test_errors_do_not_move_it_either(capsys: pytest.CaptureFixture[str]) -> None:
    """What a server said as an error is shown, not obeyed; lines stay lines."""
    print_notice(f"one {EVIL}\ntwo")
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 2
    assert all(char.isprintable() or char == "\n" for char in err)


def test_tables_are_aligned(capsys: pytest.CaptureFixture[str]) -> None:
    """Columns line up; nothing at all prints nothing."""
    show_list("text", [session("al"), session("barbara")], COLUMNS)
    assert capsys.readouterr().out == "USER     LOGIN\nal       root\nbarbara  root\n"
    show_list("text", [], COLUMNS)
    assert capsys.readouterr().out == ""
    show_list("json", [], COLUMNS)
    assert json.loads(capsys.readouterr().out) == []


@pytest.mark.parametrize("form", ["text", "json", "yaml", "names"])
@pytest.mark.parametrize("sizes", [(), (0,), (1,), (0, 3), (2, 3, 1), (BATCH + 1, 0, BATCH)])
def test_pages_are_one_list(
    form: str, sizes: tuple[int, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    """A list that comes in pages is the same text as one that comes at once."""
    pages = [[session(f"u{page}.{n}") for n in range(size)] for page, size in enumerate(sizes)]
    show_pages(form, pages, COLUMNS, name=lambda s: s["user"])
    paged = capsys.readouterr().out
    everything = [item for page in pages for item in page]
    show_list(form, everything, COLUMNS, name=lambda s: s["user"])
    whole = capsys.readouterr().out
    if form == "text":  # a column is as wide as what has come by then
        paged, whole = (" ".join(text.split()) for text in (paged, whole))
    assert paged == whole
    if form == "json":
        assert json.loads(paged) == plain(everything)
        assert paged == json.dumps(plain(everything), indent=2) + "\n"


@pytest.mark.parametrize("form", ["text", "json", "names"])
def test_a_page_is_printed_before_the_next_is_requested(
    form: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The beginning of a long list is shown before its end is there."""

    def pages() -> Iterator[list[Session]]:
        yield [session(f"first{n}") for n in range(BATCH)]
        assert "first99" in capsys.readouterr().out
        yield [session("second")]

    show_pages(form, pages(), COLUMNS, name=lambda s: s["user"])
    assert "second" in capsys.readouterr().out


def test_pages_are_requested_one_by_one() -> None:
    """The first page is short, a limit is kept, and no page is requested that is not read."""
    asked: list[tuple[str, int]] = []

    class Page:
        def __init__(self, after: str, size: int) -> None:
            asked.append((after, size))
            begin = int(after or 0)
            self.items = list(range(begin, min(begin + size, 1000)))
            self.next = str(begin + size) if begin + size < 1000 else ""

    assert [n for page in pages(Page) for n in page] == list(range(1000))
    assert asked == [("", FIRST_PAGE), (str(FIRST_PAGE), NEXT_PAGES),
                     (str(FIRST_PAGE + NEXT_PAGES), NEXT_PAGES)]  # fmt: skip
    asked.clear()
    assert [n for page in pages(Page, FIRST_PAGE + 7) for n in page] == list(range(FIRST_PAGE + 7))
    assert asked == [("", FIRST_PAGE), (str(FIRST_PAGE), 7)]
    asked.clear()
    next(pages(Page))
    assert len(asked) == 1


def test_one_thing_has_the_keys_of_the_list(capsys: pytest.CaptureFixture[str]) -> None:
    """Scripts read an object alone as they read it in a list."""
    show_one("json", session("al"), COLUMNS)
    alone = json.loads(capsys.readouterr().out)
    show_list("json", [session("al")], COLUMNS)
    assert json.loads(capsys.readouterr().out) == [alone]
    show_one("text", session("al"), COLUMNS)
    assert capsys.readouterr().out == "User:   al\nLogin:  root\n"


def test_yaml_keeps_order(capsys: pytest.CaptureFixture[str]) -> None:
    """Keys come as the value has them: kind, metadata, spec."""
    show_data("yaml", {"b": 1, "a": ["no", "2026-01-01"]})
    assert capsys.readouterr().out == "b: 1\na:\n- no\n- '2026-01-01'\n"


def test_lengths_of_time() -> None:
    """Times are printed in their largest unit."""
    assert [span(s) for s in (-5, 0, 59, 60, 3599, 3600, 86400 * 3)] == [
        "0s", "0s", "59s", "1m", "59m", "1h", "3d",
    ]  # fmt: skip
    now = datetime(2026, 11, 24, 12, tzinfo=UTC)
    assert ago("2026-11-24T11:00:00.000Z", now) == "1h ago"


def test_words_and_pairs() -> None:
    """Several values come as options, with commas, or both; each counts once."""
    assert split_words(["a,b", "c", "a", " d ,,"]) == ("a", "b", "c", "d")
    assert split_pairs(["a=1,b=x=y"]) == {"a": "1", "b": "x=y"}
    for wrong in ("a", "=1"):
        with pytest.raises(InvalidInput, match="is not a label"):
            split_pairs([wrong])
    with pytest.raises(InvalidInput, match="given twice"):
        split_pairs(["env=prod", "env=test"])
    for empty in ("", " ", ","):
        with pytest.raises(InvalidInput, match="is empty: give a name"):
            split_words(["a", empty])


def test_ordinary_text_stays() -> None:
    """Letters of all languages are letters."""
    assert printable("Zürich 東京 naïve") == "Zürich 東京 naïve"


def test_the_time_that_a_host_reports_is_shown_beside_auths() -> None:
    """A start or an event that auth received much later than the host's time of it shows both
    times.
    """
    now = datetime.now(UTC)
    for minutes, expected in ((0, False), (4, False), (60 * 24, True), (-60, True)):
        claimed = now - timedelta(minutes=minutes)
        row = {"started": format_time(claimed), "received": format_time(now)}
        assert ("(reported " in started_ago(row)) is expected
        event = {"time": format_time(now), "claimed": format_time(claimed)}
        assert bool(_earlier(event)) is (expected or minutes > 1)
    assert started_ago({"started": format_time(now), "received": None}).endswith(" ago")
    assert _earlier({"time": format_time(now)}) == ""


def test_a_session_of_an_offline_node_is_not_shown_as_running() -> None:
    """The status of a session says what is known: that it runs, or since when that is unknown."""
    assert _known({"status": "running", "node_seen": None}) == "running"
    assert _known({"status": "unknown", "node_seen": None}) == "node offline"
    seen = "2020-01-01T00:00:00.000Z"
    shown = _known({"status": "unknown", "node_seen": seen})
    assert shown.startswith("node offline, last seen ")
