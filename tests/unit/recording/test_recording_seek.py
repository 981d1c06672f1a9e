"""Seeking: any time of a long recording is reached from its last keyframe before."""

from __future__ import annotations

import hashlib
import os
from datetime import UTC, datetime
from typing import Any

import pytest
from attrs import evolve

from recorded_sessions import Built, chunks_of, frame, opened, read_all
from tele.errors import BadRecording, NotFound
from tele.model.api.operation import Octets
from tele.model.api.recordings import GET_CHUNK, GET_INDEX, IndexState, RecordingDetails
from tele.model.frame import FrameKind
from tele.model.session import (
    ChunkDigest,
    Manifest,
    Recording,
    RecordingStart,
    RecordingState,
)
from tele.recording.playback import Source
from tele.recording.seek import IndexedRecording, Position, open_seekable
from tele.snapshots.terminals import OwnTerminal
from tele.tape.sealed_index import seal_index
from tele.tape.sealing import DataKey, opener
from tele.terminal.emulator import Emulator
from tele.terminal.screen import Screen

BEGUN = datetime(2026, 11, 24, 12, tzinfo=UTC)
START = RecordingStart(
    "9d6d2e0e-0000-4000-8000-000000000001", "ssh", "c", "alice", "root", (), "s", "web1", "n",
    "192.0.2.7:1", BEGUN,
)  # fmt: skip


class Stored:
    """A recording at auth, of lines that say when they were written; counts what is read."""

    def __init__(self) -> None:
        output = [frame(at, FrameKind.OUTPUT, b"at %d\r\n" % at) for at in range(1, 600)]
        self.chunks = chunks_of([opened(), *output], each=50, start=START)
        self.index = Built(read_all(self.chunks), OwnTerminal).blob
        self.read: list[str] = []

    @property
    def manifest(self) -> Manifest:
        named = (
            ChunkDigest(number, len(data), hashlib.sha256(data).hexdigest())
            for number, data in enumerate(self.chunks)
        )
        return Manifest(START.id, 3, START, BEGUN, tuple(named), 601, True, False, "", b"")

    def perform(self, operation: Any, request: Any) -> Octets:
        self.read.append(operation.name)
        if operation is GET_INDEX:
            if not self.index:
                raise NotFound("no index")
            return Octets(self.index[request.start : request.end])
        assert operation is GET_CHUNK
        return Octets(self.chunks[request.number])

    def source(self, state: IndexState = IndexState.READY) -> Source:
        row = Recording(
            START.id, "ssh", "alice", "root", "web1", BEGUN, BEGUN, True, 0, complete=True
        )
        details = RecordingDetails(
            row, len(self.chunks), self.manifest, RecordingState.COMPLETE, index=state
        )
        return Source(START.id, START, self.manifest, lambda: iter(()), details)

    def opened(self) -> IndexedRecording:
        found = open_seekable(self.source(), self.perform)
        assert found is not None
        return found


def screen_at(position: Position, at: float) -> list[str]:
    """The lines that a player shows at this time."""
    screen = Screen(position.columns, position.rows, newline=position.newline)
    emulator = Emulator(screen)
    emulator.feed(position.state)
    for step in position.steps:
        if step.at > at:
            break
        if step.frame.kind is FrameKind.OUTPUT:
            emulator.feed(step.frame.data)
    return [text for line in screen.lines if (text := "".join(line.texts).strip())]


@pytest.mark.parametrize("at", [0.5, 3, 11, 59.5, 300, 598, 599, 10**6])
def test_each_time_is_reached(at: float) -> None:
    """The screen at a time is the one that playing from the beginning shows."""
    stored = Stored()
    last = min(int(at), 599)
    expected = [f"at {number}" for number in range(max(1, last - 22), last + 1)]
    position = stored.opened().position(at)
    assert position.at <= at
    assert screen_at(position, at) == expected


def test_only_what_is_needed_is_read() -> None:
    """The tables once, then for each time one keyframe and the chunk in which it is."""
    stored = Stored()
    seekable = stored.opened()
    assert stored.read == ["get_index"]
    for at in (590, 10, 300):
        del stored.read[:]
        screen_at(seekable.position(at), at)
        assert stored.read[0] == "get_index"
        assert len(stored.read) <= 3
    assert seekable.length == 599


def test_steps_go_on_in_the_time_of_the_session() -> None:
    """The first step waits since the keyframe, and pauses are cut on demand."""
    seekable = Stored().opened()
    position = seekable.position(305)
    first = next(position.steps)
    assert first.wait == pytest.approx(first.at - position.at)
    assert next(seekable.position(305, 0, 0.25).steps).wait == 0.25


def test_keyframes_are_of_terminals() -> None:
    """A recording of programs without a terminal is listed from its beginning instead."""
    seekable = Stored().opened()
    assert seekable.has_terminal(0)
    assert seekable.has_terminal(1)
    assert not seekable.has_terminal(2)


def test_a_chunk_that_is_not_the_named_one_is_not_shown() -> None:
    """An archive that gives another session's chunk is found out in the middle, too."""
    stored = Stored()
    seekable = stored.opened()
    good = stored.chunks[6]
    stored.chunks[6] = chunks_of([opened(), frame(1, FrameKind.OUTPUT, b"forged")], each=50)[0]
    with pytest.raises(BadRecording, match="chunk"):
        screen_at(seekable.position(320), 330)
    stored.chunks[6] = good[:-1] + bytes((good[-1] ^ 1,))
    with pytest.raises(BadRecording, match="chunk 6"):
        screen_at(seekable.position(320), 330)


def test_an_index_that_cannot_be_used_is_none() -> None:
    """Damaged, or of a recording with more chunks: the recording is played from its beginning."""
    stored = Stored()
    stored.index = b"TLX1" + bytes(200)
    assert open_seekable(stored.source(), stored.perform) is None
    longer = Stored()
    shorter = longer.source()
    assert shorter.manifest is not None
    cut = evolve(shorter.manifest, chunks=shorter.manifest.chunks[:3])
    assert open_seekable(evolve(shorter, manifest=cut), longer.perform) is None
    assert open_seekable(longer.source(), None) is None


def test_a_recording_without_an_index_asks_for_one() -> None:
    """The first player of an older recording makes auth index it, and plays without."""
    stored = Stored()
    stored.index = b""
    assert open_seekable(stored.source(IndexState.NONE), stored.perform) is None
    assert stored.read == ["get_index"]


def test_lost_chunks_are_passed_over() -> None:
    """A hole in the archive is not asked for: the frames after it follow."""
    stored = Stored()
    source = evolve(stored.source(), missing=(7,))
    seekable = open_seekable(source, stored.perform)
    assert seekable is not None
    del stored.read[:]
    numbers = [int(step.at) for step in seekable.position(340).steps]
    assert numbers[-1] == 599
    assert not set(range(355, 390)) & set(numbers)


def test_attack_the_index_of_another_recording() -> None:
    """Who has the archive puts it in the place of this one's, with as many chunks: none is shown
    a screen of that session.
    """
    stored = Stored()
    output = [frame(at, FrameKind.OUTPUT, b"not %d\r\n" % at) for at in range(1, 600)]
    other = chunks_of([opened(), *output], each=50, start=START)
    assert len(other) == len(stored.chunks)
    stored.index = Built(read_all(other), OwnTerminal).blob
    assert open_seekable(stored.source(), stored.perform) is None


def test_a_damaged_keyframe_is_passed_over() -> None:
    """The replay begins with the one before; if none can be read, where the channel was opened."""
    stored = Stored()
    seekable = stored.opened()
    shown = screen_at(seekable.position(320), 330)
    index = seekable.index
    wanted = index.keyframe(1, 320 * 10**9)
    assert wanted is not None
    good = stored.index
    at = index.states + wanted.offset + wanted.packed - 2
    stored.index = good[:at] + bytes((good[at] ^ 1,)) + good[at + 1 :]
    earlier = seekable.position(320)
    assert earlier.at < wanted.time / 10**9
    assert screen_at(earlier, 330) == shown
    stored.index = good[: index.states] + bytes(index.states_size)
    from_opening = seekable.position(320)
    assert from_opening.at == 0
    assert screen_at(from_opening, 330) == shown


def test_an_index_of_other_chunks_is_not_used() -> None:
    """One of another recording with as many chunks, or one from before it was completed."""
    stored, other = Stored(), Stored()
    other.chunks = chunks_of(
        [opened(), *(frame(at, FrameKind.OUTPUT, b"x") for at in range(1, 600))], each=50
    )
    stored.index = Built(read_all(other.chunks), OwnTerminal).blob
    assert open_seekable(stored.source(), stored.perform) is None
    stored.index = Built(read_all(stored.chunks[:-1]), OwnTerminal).blob
    assert open_seekable(stored.source(), stored.perform) is None


def closed_by_auth(stored: Stored) -> Source:
    """The recording as it is if its host never closed it."""
    source = stored.source()
    assert source.details is not None
    row = evolve(source.details.recording, complete=False, incomplete="its node is gone")
    details = evolve(source.details, recording=row, manifest=None, state=RecordingState.INCOMPLETE)
    return evolve(source, manifest=None, details=details)


def test_a_recording_without_a_manifest_is_sought_in() -> None:
    """Its chunks name each other; the last one is that of which auth made the index."""
    stored = Stored()
    seekable = open_seekable(closed_by_auth(stored), stored.perform)
    assert seekable is not None
    assert screen_at(seekable.position(320), 330) == screen_at(stored.opened().position(320), 330)
    stored.chunks[8] = stored.chunks[7]
    with pytest.raises(BadRecording, match="chunk"):
        screen_at(seekable.position(340), 500)
    other = chunks_of(
        [opened(), *(frame(at, FrameKind.OUTPUT, b"x") for at in range(1, 600))], each=50
    )
    stored.chunks[6:] = other[6:]
    with pytest.raises(BadRecording, match="not the one that auth made the index of"):
        screen_at(seekable.position(340), 10**6)


def test_a_sealed_recording_is_sought_in_with_its_key() -> None:
    """Tables and keyframes open with the data key, which is asked for once."""
    stored = Stored()
    secret = bytes(range(32))
    output = [frame(at, FrameKind.OUTPUT, b"at %d\r\n" % at) for at in range(1, 600)]
    clear = Stored()
    stored.chunks = chunks_of(
        [opened(), *output], each=50, start=START, seal=DataKey(1, secret, os.urandom)
    )
    open_chunk = opener({1: secret})
    read = [open_chunk(data, number, None) for number, data in enumerate(stored.chunks)]
    stored.index = seal_index(Built(read, OwnTerminal).blob, 1, secret, START.id, os.urandom)
    asked: list[int] = []

    def secrets() -> dict[int, bytes]:
        asked.append(1)
        return {1: secret}

    source = evolve(stored.source(), open_chunk=open_chunk, secrets=secrets)
    seekable = open_seekable(source, stored.perform)
    assert seekable is not None
    assert screen_at(seekable.position(320), 330) == screen_at(clear.opened().position(320), 330)
    assert asked == [1]
    assert open_seekable(evolve(source, secrets=dict), stored.perform) is None
