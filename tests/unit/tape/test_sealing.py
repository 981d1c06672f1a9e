"""A sealed recording says nothing without a key, and is verified without one."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from itertools import count

import pytest
from attrs import evolve

from tele.errors import BadRecording, InvalidInput
from tele.model.codec import encode
from tele.model.frame import Frame, FrameKind
from tele.model.session import ChunkDigest, Manifest, RecordingStart
from tele.tape.examine import ChunkExaminer
from tele.tape.faults import Faults
from tele.tape.layout import read_chunk, read_head
from tele.tape.sealing import (
    check_recipient,
    make_data_key,
    opener,
    public_key,
    unwrap,
    wrap,
)
from tele.tape.verify import VERSION, read_frames, verify
from tele.tape.writer import TapeWriter

ID = "5b8b6f2e-6a0c-4c8e-9a53-2f7d5d2d9a11"
OTHER = "6b8b6f2e-6a0c-4c8e-9a53-2f7d5d2d9a22"
START = RecordingStart(
    ID, "ssh", "c", "alice", "root", ("access",), "s1", "web1", OTHER, "192.0.2.7:1",
    datetime(2026, 11, 1, tzinfo=UTC),
)  # fmt: skip


def entropy() -> Callable[[int], bytes]:
    """Bytes that are never the same."""
    numbers = count(1)
    return lambda size: next(numbers).to_bytes(size, "big")


def recording() -> tuple[list[bytes], Manifest, dict[int, bytes]]:
    """A sealed recording of three chunks, its manifest and its keys."""
    key = make_data_key(1, entropy())
    writer = TapeWriter(seal=key)
    writer.add(Frame(0, 0, FrameKind.START, encode(START)))
    chunks, named = [], []
    for number in range(3):
        writer.add(Frame(number * 10, 1, FrameKind.OUTPUT, b"a secret word"))
        if number == 2:
            writer.add(Frame(30, 0, FrameKind.END, b"{}"))
        cut = writer.cut(last=number == 2)
        assert cut is not None
        named.append(cut[0])
        chunks.append(cut[1])
    manifest = Manifest(
        ID, VERSION, START, START.started, tuple(named), writer.frames, False, False, "",
        sequence=writer.sequence, keys=1,
    )  # fmt: skip
    return chunks, manifest, {1: key.secret}


CHUNKS, MANIFEST, KEYS = recording()


def test_what_is_sealed_is_read_with_its_key() -> None:
    """The same frames come back; numbers and times are in the head without a key."""
    frames = list(read_frames(CHUNKS, MANIFEST, START, open_chunk=opener(KEYS)))
    assert [f.data for f in frames if f.kind is FrameKind.OUTPUT] == [b"a secret word"] * 3
    assert [read_head(data, n).key for n, data in enumerate(CHUNKS)] == [1, 1, 1]
    assert verify(CHUNKS, MANIFEST, START, lambda _: None, open_chunk=opener(KEYS)).complete


def test_nothing_is_read_without_it() -> None:
    """Neither with no key nor with another one; not even the session's user is in the bytes."""
    with pytest.raises(BadRecording, match="its key is not here"):
        read_chunk(CHUNKS[0], 0)
    with pytest.raises(BadRecording, match="data key 1"):
        opener({2: KEYS[1]})(CHUNKS[0], 0, None)
    with pytest.raises(BadRecording, match="was changed"):
        opener({1: bytes(32)})(CHUNKS[0], 0, None)
    assert b"alice" not in b"".join(CHUNKS)


def test_it_is_verified_without_a_key() -> None:
    """Chain, digests and numbers need none."""
    faults = Faults()
    examiner = ChunkExaminer(START, MANIFEST, (), faults)
    for number, data in enumerate(CHUNKS):
        examiner.take(number, data)
    examiner.end()
    assert not faults
    assert examiner.sealed == 3


def test_every_changed_bit_is_noticed() -> None:
    """In the head, in the sealed frames, and in the tag (attack)."""
    data = CHUNKS[1]
    for at in range(len(data)):
        changed = bytearray(data)
        changed[at] ^= 1
        with pytest.raises(BadRecording):
            list(opener(KEYS)(bytes(changed), 1, None).all_frames())


def test_no_two_chunks_have_a_nonce() -> None:
    """Bytes 83 to 94 of each chunk differ."""
    assert len({data[83:95] for data in CHUNKS}) == len(CHUNKS)


def test_a_key_is_wrapped_for_each_recipient() -> None:
    """Each opens it alone; a key of another recipient opens nothing."""
    first, second, third = (bytes([n]) * 32 for n in (1, 2, 3))
    wrapped = [wrap(1, KEYS[1], public_key(private), ID) for private in (first, second)]
    assert unwrap(wrapped, first, ID) == unwrap(wrapped, second, ID) == KEYS
    assert unwrap(wrapped, third, ID) == {}
    assert KEYS[1] not in wrapped[0].data
    assert [len(each.data) for each in wrapped] == [80, 80]


def test_a_wrapped_key_is_of_one_recording_and_number() -> None:
    """It cannot be passed off as that of another recording, to have auth open it (attack)."""
    private = bytes([1]) * 32
    wrapped = wrap(1, KEYS[1], public_key(private), ID)
    with pytest.raises(BadRecording, match="not one of this recording"):
        unwrap([wrapped], private, OTHER)
    with pytest.raises(BadRecording, match="not one of this recording"):
        unwrap([evolve(wrapped, number=2)], private, ID)
    with pytest.raises(BadRecording, match="not one of this recording"):
        unwrap([evolve(wrapped, data=b"short")], private, ID)


@pytest.mark.parametrize("public", [b"", bytes(31), bytes(32)])
def test_a_bad_recipient_is_refused(public: bytes) -> None:
    """A point of low order would let every reader open it (attack)."""
    with pytest.raises(InvalidInput):
        check_recipient(public)
    with pytest.raises(InvalidInput):
        wrap(1, KEYS[1], public, ID)


@pytest.mark.parametrize("keys", [-1, 1001])
def test_the_number_of_keys_is_bounded(keys: int) -> None:
    """A manifest that claims more is refused, and so is an old one with any."""
    with pytest.raises(BadRecording, match="so many keys"):
        verify(CHUNKS, evolve(MANIFEST, keys=keys), START, lambda _: None)
    with pytest.raises(BadRecording):
        verify(CHUNKS, evolve(MANIFEST, version=2, sequence=0), START, lambda _: None)
    assert isinstance(MANIFEST.chunks[0], ChunkDigest)
