"""A node seals what it records: neither its chunks nor auth have anything that can be read."""

from __future__ import annotations

from pathlib import Path

import pytest

from spool_world import Auth, Place, lose, output, start
from tele.errors import BadRecording
from tele.recording.commit import FLUSH_SECONDS
from tele.recording.playback import from_file
from tele.tape.file import write_file
from tele.tape.sealing import public_key

AUTH, RECOVERY = bytes([7]) * 32, bytes([8]) * 32
SECRET = b"a word that no other may read " * 20


@pytest.fixture
def place(tmp_path: Path) -> Place:
    made = Place(tmp_path / "spool")
    made.recipients = (public_key(AUTH), public_key(RECOVERY))
    made.recorder = made.restarted()
    return made


def auth() -> Auth:
    made = Auth()
    made.private = AUTH
    return made


def record(place: Place, chunks: int = 2) -> str:
    """Record chunks that are on the disk, without an end."""
    begin = start()
    recording = place.open(begin)
    for number in range(chunks):
        recording.write(output(number + 1, SECRET))
        place.clock.advance(FLUSH_SECONDS)
    return begin.id


def test_nothing_that_leaves_the_node_can_be_read(place: Place) -> None:
    """Chunks have neither what was shown nor who it was; auth reads them with its key."""
    there = auth()
    recording_id = record(place)
    place.recover(there)
    stored = b"".join(there.chunks.values())
    assert SECRET[:16] not in stored
    assert b"alice" not in stored
    assert there.shown() == [SECRET, SECRET]
    assert there.manifest is not None
    assert there.manifest.keys == 1
    assert there.verify().complete
    assert not place.folder(recording_id).path.exists()


def test_a_recording_that_ends_is_sealed_to_the_end(place: Place) -> None:
    """The last chunk, too; what auth gets of the key is wrapped."""
    there = auth()
    recording = place.open(begin := start())
    recording.write(output(1, SECRET))
    recording.close("done")
    place.clock.pump([FLUSH_SECONDS] * 4)
    keys = place.folder(begin.id).keys
    secret = keys.keys[0].secret
    place.recover(there)
    assert there.shown() == [SECRET]
    assert [len(each.data) for each in there.wrapped] == [80, 80]
    assert all(secret not in each.data for each in there.wrapped)
    there.private = bytes([9]) * 32
    with pytest.raises(BadRecording, match="data key 1"):
        there.shown()


def test_the_key_is_private_on_the_node(place: Place) -> None:
    """No other account reads it, and it goes with the folder."""
    recording_id = record(place)
    path = place.folder(recording_id).path / "keys.json"
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("how", ["gone", "empty", "torn"])
def test_a_key_that_is_lost_ends_the_recording(place: Place, how: str) -> None:
    """Nothing can be appended to it: it is given up with a reason, and not tried for ever."""
    there = auth()
    recording_id = record(place)
    lose(place.folder(recording_id), "keys.json", how)
    place.recover(there)
    place.clock.pump([1.0] * 200)
    assert there.manifest is not None or there.incomplete


def test_an_exported_file_is_opened_with_a_recovery_key(place: Place, tmp_path: Path) -> None:
    """And with no other key; without one it is still verified."""
    there = auth()
    record(place)
    place.recover(there)
    source = there.source()
    file = tmp_path / "one.tape"
    from attrs import evolve

    file.write_bytes(b"".join(write_file(evolve(source, keys=there.wrapped).blobs())))
    opened = from_file(file, RECOVERY)
    assert [f.data for f in opened.frames() if f.data == SECRET] == [SECRET, SECRET]
    with pytest.raises(Exception, match="not sealed for this key"):
        from_file(file, bytes([9]) * 32)
    with pytest.raises(BadRecording, match="its key is not here"):
        list(from_file(file).frames())
