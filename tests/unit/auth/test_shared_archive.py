"""Auths of one store keep recordings in one archive, whichever of them is first."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred, fail, succeed

from store_turns import Turns
from tele.auth.shared_archive import FOLDER, KEY, NAME, check_shared
from tele.errors import Conflict, InvalidInput, NotFound
from tele.store.memory import MemoryBackend
from tele.store.sqlite import SqliteBackend
from tele.testing import SettableClock


class Blobs:
    """An archive in memory. ``first`` is what another auth puts just before this one does."""

    def __init__(self, first: bytes = b"") -> None:
        self.blobs: dict[tuple[str, str], bytes] = {}
        self._first = first

    def get(self, recording_id: str, name: str) -> Deferred[bytes]:
        found = self.blobs.get((recording_id, name))
        return fail(NotFound("no such blob")) if found is None else succeed(found)

    def put(self, recording_id: str, name: str, data: bytes) -> Deferred[None]:
        if self._first:
            self.blobs.setdefault((recording_id, name), self._first)
        if self.blobs.setdefault((recording_id, name), data) != data:
            return fail(Conflict("another blob is there"))
        return succeed(None)


def check(backend: Any, archive: Any) -> None:
    """Do the check of one auth; raises what it raises."""
    found: list[Any] = []
    Deferred.fromCoroutine(check_shared(backend, archive)).addBoth(found.append)
    if found[0] is not None:
        found[0].raiseException()


def test_the_first_auth_marks_the_archive() -> None:
    """Others with the same archive serve, and one with an archive of its own does not."""
    backend, archive = MemoryBackend(SettableClock()), Blobs()
    check(backend, archive)
    check(backend, archive)
    with pytest.raises(InvalidInput, match="this archive is not that of the other auths"):
        check(backend, Blobs())
    other = Blobs()
    other.blobs[(FOLDER, NAME)] = b"of another cluster"
    with pytest.raises(InvalidInput, match="this archive is not that of the other auths"):
        check(backend, other)


def test_two_that_start_together_agree() -> None:
    """The one whose mark comes too late takes that of the other."""
    backend = MemoryBackend(SettableClock())
    check(backend, Blobs(first=b"theirs"))
    found: list[Any] = []
    backend.get(KEY).addCallback(found.append)
    assert found[0].value == b"theirs"


def test_a_store_of_one_machine_is_not_asked(tmp_path: Path) -> None:
    """Its archive may be replaced by an empty one."""
    turns = Turns()
    store = SqliteBackend(tmp_path / "s", turns)
    check(store, Blobs())
    turns.wait(store.close())
