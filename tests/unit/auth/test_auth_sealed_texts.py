"""The text of sealed recordings leaves auth's disk when the cluster does not keep it any more."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from twisted.internet.defer import Deferred, fail

from auth_world import Tape, World, result
from tele.auth.recording_keys import RecordingEncryption
from tele.auth.recording_texts import RecordingTexts
from tele.auth.sealed_texts import REMOVED, RETRY_SECONDS, SealedTexts
from tele.errors import Unavailable
from tele.interfaces import SearchedLine, SearchedRecording, SearchQuery
from tele.loop import now
from tele.model.api.search import FoundIn
from tele.model.session import WrappedKey
from tele.store.search import SqliteSearch
from tele.store.search_file import search
from tele.tape.sealing import public_key, wrap

KEY, SECRET = bytes([1]) * 32, bytes(range(32))


class Kept:
    """Auth with recordings whose text is in the search: one in clear, one that is sealed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.world = World(RecordingEncryption(False, KEY))
        self.index = SqliteSearch(path, self.world.clock)
        self.recordings = self.world.parts.recordings
        self.texts = RecordingTexts(self.index, self.recordings.find_by_id)
        self.clear = self.add(Tape(self.world), "in the clear: needle")
        self.sealed = self.add(Tape(self.world, seal=self._seal), "the secret: needle ~~~~")

    def _seal(self, recording_id: str) -> tuple[WrappedKey, ...]:
        return (wrap(1, SECRET, public_key(KEY), recording_id),)

    def add(self, tape: Tape, text: str) -> str:
        searched = SearchedRecording(tape.id, "alice", now(self.world.clock))
        result(self.index.add(searched, [SearchedLine(0, 1, FoundIn.OUTPUT, text)]))
        return tape.id

    def found(self) -> set[str]:
        return {id_ for id_, _ in search(self.path, SearchQuery("needle", 50), 10.0).lines}

    def start(self, *, searchable: bool) -> SealedTexts:
        """Start auth with this configuration, and let time pass."""
        self.recordings.keys._encryption = RecordingEncryption(True, KEY, (), searchable)
        started = SealedTexts(
            self.world.backend, self.recordings.keys, self.texts, self.world.clock
        )
        result(started.start())
        self.world.clock.pump([0.1] * 10)
        return started

    def stop(self) -> None:
        result(self.index.close())
        self.world.stop()


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Kept]:
    made = Kept(tmp_path / "text.sqlite")
    yield made
    made.stop()


def test_text_of_sealed_recordings_is_removed_when_it_is_switched_off(kept: Kept) -> None:
    """What was kept while it was on goes after the next start, from the file, too; what is of
    recordings in clear stays.
    """
    result(kept.start(searchable=True).stop())
    assert kept.found() == {kept.clear, kept.sealed}
    result(kept.start(searchable=False).stop())
    assert kept.found() == {kept.clear}
    result(kept.index.close())
    assert b"~~~" not in kept.path.read_bytes()


def test_it_is_done_once_and_again_after_it_was_switched_on(kept: Kept) -> None:
    """A start does not look at all recordings each time, unless text may have been kept."""
    result(kept.start(searchable=False).stop())
    assert result(kept.world.backend.get(REMOVED)) is not None
    result(kept.start(searchable=True).stop())
    assert result(kept.world.backend.get(REMOVED)) is None
    again = kept.add(Tape(kept.world, seal=kept._seal), "needle")
    assert again in kept.found()
    result(kept.start(searchable=False).stop())
    assert kept.found() == {kept.clear}


def test_a_file_that_cannot_be_written_is_tried_again(kept: Kept) -> None:
    """Nothing counts as removed that is not; a later start does the rest."""
    removed: list[str] = []
    remove = kept.index.remove

    def fails(recording_id: str) -> Deferred[None]:
        removed.append(recording_id)
        return fail(Unavailable("the disk is full"))

    kept.index.remove = fails  # type: ignore[method-assign]
    started = kept.start(searchable=False)
    assert removed == [kept.sealed]
    result(started.stop())
    assert result(kept.world.backend.get(REMOVED)) is None
    started = kept.start(searchable=False)
    kept.index.remove = remove  # type: ignore[method-assign]
    kept.world.clock.pump([RETRY_SECONDS, 0.1, 0.1])
    assert kept.found() == {kept.clear}
    result(started.stop())


def test_very_many_recordings_are_done_in_steps(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other calls run between two pages, and an end does not wait for all of them."""
    asked: list[str] = []
    page = kept.recordings.keys.sealed

    async def sealed(after: str) -> Sequence[str]:
        asked.append(after)
        return await page(after)

    monkeypatch.setattr(kept.recordings.keys, "sealed", sealed)
    started = SealedTexts(kept.world.backend, kept.recordings.keys, kept.texts, kept.world.clock)
    result(started.start())
    assert asked == [""]
    result(started.stop())
    assert asked == [""]
    result(kept.start(searchable=False).stop())
    assert asked == ["", "", kept.sealed]
