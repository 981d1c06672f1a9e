"""Long lists, as users and scripts read them, from an auth with thousands of rows."""

from __future__ import annotations

import json
import subprocess
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from lone_auth import LoneAuth
from tele.auth.recording_search import INDEX, OF_USER, stamp_of
from tele.auth.recordings import ROWS
from tele.interfaces import Put
from tele.model.codec import encode
from tele.model.resources import Metadata, User, UserSpec
from tele.model.session import Recording
from tele.store import sqlite_file
from three_processes import BIN

ROWS_COUNT = 1500
NODE = "5b8b6f2e-6a0c-4c8e-9a53-2f7d5d2d9a11"
#: Of the second minute; its id is unlike all others.
ALONE = "abcdef01-0000-4000-8000-000000000000"


@pytest.fixture(scope="module")
def auth(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoneAuth]:
    """Auth with many recordings and users."""
    running = LoneAuth(tmp_path_factory.mktemp("lists"))
    running.start()
    running.stop()
    connection = sqlite_file.open_file(running.data_dir / "auth.sqlite")
    puts: list[Put] = []
    begin = datetime.now(UTC) - timedelta(minutes=ROWS_COUNT)
    for number in range(ROWS_COUNT):
        moment = begin + timedelta(minutes=number)
        name = ALONE if number == 1 else f"{number:08x}{str(uuid.uuid4())[8:]}"
        user = f"u{number % 10}"
        row = Recording(
            name, "ssh", user, "root", f"web{number % 2}", moment, moment, False, 0, NODE,
            received=moment,
        )  # fmt: skip
        stamp = f"{stamp_of(moment)}-{name}"
        puts.append(Put(ROWS + name, encode(row)))
        puts += [Put(INDEX + stamp, b""), Put(f"{OF_USER}{user}/{stamp}", b"")]
        made = User(Metadata(f"user{number:04d}"), UserSpec(("access",)))
        puts.append(Put(f"/users/user{number:04d}", encode(made)))
    sqlite_file.commit(connection, [tuple(puts)], time.time())
    connection.close()
    running.start()
    try:
        yield running
    finally:
        running.stop()


def tele(auth: LoneAuth, *words: str) -> str:
    done = auth.run(*words, "--config", str(auth.config))
    assert done.returncode == 0, done.stderr
    return done.stdout


def ids(auth: LoneAuth, *words: str) -> list[str]:
    return [
        row["id"] for row in json.loads(tele(auth, "recordings", "ls", "--format", "json", *words))
    ]


def test_all_rows_come_once_and_in_order(auth: LoneAuth) -> None:
    """A list of many pages has each row once, newest first, in each format."""
    rows = json.loads(tele(auth, "recordings", "ls", "--format", "json"))
    assert len({row["id"] for row in rows}) == len(rows) == ROWS_COUNT
    assert [row["received"] for row in rows] == sorted((r["received"] for r in rows), reverse=True)
    names = tele(auth, "recordings", "ls", "--format", "names").split()
    assert names == [row["id"] for row in rows]
    assert len(tele(auth, "recordings", "ls").splitlines()) == ROWS_COUNT + 1
    users = tele(auth, "users", "ls", "--format", "names").split()
    assert users == [f"user{number:04d}" for number in range(ROWS_COUNT)]
    assert len(json.loads(tele(auth, "get", "users", "--format", "json"))) == ROWS_COUNT
    events = tele(auth, "audit", "ls", "--limit", "0", "--format", "names").split()
    assert events


@pytest.mark.parametrize("words", [("recordings", "ls"), ("users", "ls"), ("get", "users")])
@pytest.mark.parametrize("form", ["text", "json", "names"])
def test_the_beginning_of_a_list(auth: LoneAuth, words: tuple[str, ...], form: str) -> None:
    """``| head`` shows the beginning and ends the command, without an error."""
    command = [str(BIN / "tele"), *words, "--format", form, "--config", str(auth.config)]
    done = subprocess.run(
        ["sh", "-c", '"$@" | head -3', "sh", *command], env=auth.surroundings, timeout=60,
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert len(done.stdout.splitlines()) == 3
    assert done.stderr == ""


def test_a_list_is_filtered(auth: LoneAuth) -> None:
    """--of, --node, --since, --until and --limit."""
    rows = json.loads(tele(auth, "recordings", "ls", "--format", "json"))
    newest = [row["id"] for row in rows]
    assert ids(auth, "--limit", "250") == newest[:250]
    assert (
        ids(auth, "--of", "u3", "--limit", "2")
        == [each for each in newest if int(each[:8], 16) % 10 == 3][:2]
    )
    assert len(ids(auth, "--node", "web1")) == ROWS_COUNT // 2
    since, until = rows[59]["received"], rows[20]["received"]
    assert ids(auth, "--since", since) == newest[:60]
    assert ids(auth, "--since", since, "--until", until) == newest[21:60]
    assert 0 < len(ids(auth, "--since", "1h")) < 70
    assert ids(auth, "--of", "nobody") == []
    assert ids(auth, "--node", "w*1") == ids(auth, "--node", "web1")
    assert ids(auth, "--user", "u3") == ids(auth, "--of", "u3")
    assert ids(auth, "--command", "rm -rf") == []


def test_the_beginning_of_an_id_is_enough(auth: LoneAuth) -> None:
    """A prefix of an id that names one recording; a prefix of several is an error."""
    for beginning in ("a", "abcdef01", "ABCDEF01-0000", ALONE):
        shown = json.loads(tele(auth, "recordings", "show", beginning, "--format", "json"))
        assert shown["id"] == ALONE
    for words in (
        ("recordings", "show"),
        ("play",),
        ("recordings", "rm", "--reason", "test"),
        ("recordings", "verify"),
    ):
        several = auth.run(*words, "000000", "--config", str(auth.config))
        assert several.returncode == 2, several.stderr
        assert (
            "several recordings begin with '000000'; give more of the id: 00000" in several.stderr
        )
        none = auth.run(*words, "b", "--config", str(auth.config))
        assert none.returncode == 5, none.stderr
        assert "no recording 'b'" in none.stderr
