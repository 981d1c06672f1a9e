"""What recordings need of disks: data that stay, and a warning before the disk is full."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from spool_world import Auth, Place, output, place, start, uploading
from tele.capacity import durable
from tele.model.frame import Frame, FrameKind
from tele.recording.commit import FLUSH_SECONDS
from tele.recording.recorder import KNOWN_LIMIT
from tele.recording.share import LITTLE, DiskShares
from tele.recording.spool import Spool

__all__ = ["place"]


def test_a_file_system_is_synced(tmp_path: Path) -> None:
    """Also by a C library that can only sync all of them; what is no file is an error."""
    (tmp_path / "a").write_bytes(b"x")
    folder = os.open(tmp_path, os.O_RDONLY)
    try:
        durable.sync_file_system(folder)
        with pytest.MonkeyPatch.context() as patch:
            synced: list[str] = []
            patch.setattr(durable, "_SYNCFS", None)
            patch.setattr(os, "sync", lambda: synced.append("all"))
            durable.sync_file_system(folder)
            assert synced == ["all"]
    finally:
        os.close(folder)
    with pytest.raises(OSError, match="Bad file descriptor"):
        durable.sync_file_system(folder)


def test_a_spool_syncs_its_own_file_system(tmp_path: Path) -> None:
    """The folder that is synced is the spool's, and nothing happens after it was closed."""
    synced: list[int] = []

    def sync(folder: int) -> None:
        synced.append(os.fstat(folder).st_ino)

    spool = Spool(tmp_path / "spool", sync)
    spool.sync()
    spool.close()
    spool.close()
    spool.sync()
    assert synced == [(tmp_path / "spool").stat().st_ino]


def test_the_operator_is_warned_before_the_disk_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once when little is left, and once when there is enough again."""
    said: list[str] = []

    class Log:
        def warn(self, text: str, **fields: Any) -> None:
            said.append(f"warn {text} free={fields['free']}")

        def info(self, text: str, **fields: Any) -> None:
            said.append(f"info {text} free={fields['free']}")

    monkeypatch.setattr("tele.recording.share.log", Log())
    shares = DiskShares()
    shares.add("a", "alice", 40 * LITTLE)
    for free in (20 * LITTLE, 2 * LITTLE, LITTLE, None, 0, 20 * LITTLE, 20 * LITTLE):
        shares.measured(free)
    assert [line.split()[0] for line in said] == ["warn", "info"]
    assert said[0].endswith(f" free={2 * LITTLE}")


def test_what_auth_has_counts_for_no_share(place: Place) -> None:
    """A user's share is of what waits for auth: what has left the spool is not counted."""
    auth = Auth()
    uploading(place, auth)
    recording = place.open()
    for number in range(20):
        recording.write(output(number, os.urandom(512)))
        place.clock.advance(FLUSH_SECONDS)
    assert place.recorder.shares.total == 0
    auth.away = True
    recording.write(output(99, os.urandom(4096)))
    place.clock.advance(FLUSH_SECONDS)
    assert place.recorder.shares.total > 4096
    recording.close("done")
    place.kill()


def test_facts_outlast_a_full_disk(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was launched while nothing could be written is on the recording; what was shown is
    counted.
    """
    begin = start()
    recording = place.open(begin)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("tele.recording.spool.SpoolFolder.write_chunk", full)
        recording.write(output(1, b"held"))
        place.clock.advance(FLUSH_SECONDS)
        recording.write(Frame(2, 2, FrameKind.OPEN, b'{"kind": "exec", "command": "id"}'))
        recording.write(output(3, b"lost"))
    place.clock.advance(FLUSH_SECONDS)
    recording.close("done")
    frames = place.frames(begin.id)
    assert [f.kind for f in frames] == [
        FrameKind.START, FrameKind.OUTPUT, FrameKind.OPEN, FrameKind.GAP, FrameKind.END,
    ]  # fmt: skip
    assert json.loads(frames[3].data)["lost"] == {"output": 4}


def test_what_is_remembered_of_a_chunk_is_what_is_in_it(place: Place) -> None:
    """Frames, time and end as unpacking it would show; the oldest are forgotten."""
    begin = start()
    recording = place.open(begin)
    for number in range(3):
        for each in range(number + 1):
            recording.write(output(number * 10 + each, b"x"))
        place.clock.advance(FLUSH_SECONDS)
    recording.close("done")
    folder = place.folder(begin.id)
    for number in folder.numbers():
        found = folder.read(number)
        assert found is not None
        assert place.recorder.recall(begin.id, number) == found[1]
        assert place.recorder.recall(begin.id, number) is None
    recording = place.open()
    for number in range(2 * KNOWN_LIMIT):
        recording.write(output(number, b"x"))
        place.clock.advance(FLUSH_SECONDS)
    assert len(place.recorder._known) == KNOWN_LIMIT
    recording.close("done")
