"""The index of a recording as bytes: what is packed is read, and nothing else is."""

from __future__ import annotations

import struct

import pytest
import zstandard
from attrs import evolve

from tele.errors import BadRecording
from tele.tape.index import (
    HEAD_SIZE,
    Channel,
    ChunkPlace,
    Index,
    Keyframe,
    Mark,
    MarkKind,
    Resize,
    pack_index,
    pack_state,
    read_index,
    read_state,
    tables_end,
)

STATES = [pack_state(b"first"), pack_state(b"second" * 100)]
INDEX = Index(
    whole=True,
    length=70,
    raw=500,
    output=400,
    digest=bytes(range(32)),
    chunks=(ChunkPlace(0, 0, 300, 0, 30, 1, 9, 0), ChunkPlace(2, 300, 200, 31, 70, 20, 25, 250)),
    channels=(Channel(1, 5, False, True, 0, 0), Channel(2, 6, True, False, 80, 24)),
    keyframes=(
        Keyframe(10, 2, 0, 100, 80, 24, False, False, 90, 0, len(STATES[0]), 5),
        Keyframe(40, 2, 2, 17, 132, 50, True, True, 300, len(STATES[0]), len(STATES[1]), 600),
    ),
    resizes=(Resize(35, 2, 132, 50),),
    marks=(Mark(7, 2, MarkKind.EXEC, "ls é"), Mark(50, 2, MarkKind.PROMPT, "")),
)
BLOB = pack_index(INDEX, STATES)


def test_what_is_packed_is_read() -> None:
    """Tables, and the states that keyframes refer to, come back as they were."""
    read = read_index(BLOB)
    assert evolve(read, states=0, states_size=0) == INDEX
    assert read.states_size == sum(map(len, STATES))
    found = []
    for each in read.keyframes:
        at = read.states + each.offset
        found.append(read_state(each, BLOB[at : at + each.packed]))
    assert found == [b"first", b"second" * 100]


def test_the_tables_are_read_without_the_states() -> None:
    """A reader asks for the head, then for the tables; the states may be long."""
    end = tables_end(BLOB[:HEAD_SIZE])
    assert read_index(BLOB[:end]) == read_index(BLOB)
    with pytest.raises(BadRecording, match="cut off"):
        read_index(BLOB[: end - 1])
    with pytest.raises(BadRecording, match="cut off"):
        tables_end(BLOB[: HEAD_SIZE - 1])


def test_a_keyframe_is_found_by_its_time() -> None:
    """The last one of the channel that is not later is the one to begin with."""
    index = read_index(BLOB)
    assert index.keyframe(2, 9) is None
    assert index.keyframe(2, 10) == index.keyframes[0]
    assert index.keyframe(2, 39) == index.keyframes[0]
    assert index.keyframe(2, 10**15) == index.keyframes[1]
    assert index.keyframe(1, 10**15) is None
    assert index.main_channel() == 2


def test_the_bytes_are_those_of_the_document() -> None:
    """Offsets of docs/protocols/recording-index: another program may read an index by them."""
    assert BLOB[:4] == b"TLX1"
    assert HEAD_SIZE == 104
    assert struct.unpack_from(">HHIIIII", BLOB, 4) == (1, 1, 2, 2, 2, 1, 2)
    packed = struct.unpack_from(">I", BLOB, 36)[0]
    tables = zstandard.ZstdDecompressor().decompress(BLOB[104 : 104 + packed])
    assert struct.unpack_from(">IQI", tables, 56) == (2, 300, 200)
    assert struct.unpack_from(">QIII", tables, 2 * 56 + 2 * 17 + 49) == (40, 2, 2, 17)
    assert tables.endswith("ls é".encode())


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        (b"TLX2" + BLOB[4:], "newer version"),
        (BLOB[:4] + b"\0\2" + BLOB[6:], "newer version"),
        (BLOB[:8] + b"\xff\xff\xff\xff" + BLOB[12:], "not as long"),
        (BLOB[:64] + bytes(8) + BLOB[72:], "where no state is"),
        (BLOB[:HEAD_SIZE] + b"\0" + BLOB[HEAD_SIZE + 1 :], "tables of the index"),
    ],
)
def test_a_wrong_index_is_refused(wrong: bytes, why: str) -> None:
    """Numbers that do not fit are found before anything is read by them."""
    with pytest.raises(BadRecording, match=why):
        read_index(wrong)


def test_keyframes_have_to_be_in_order() -> None:
    """They are searched by halves: an index in another order would be searched wrongly."""
    turned = evolve(INDEX, keyframes=INDEX.keyframes[::-1])
    with pytest.raises(BadRecording, match="order"):
        read_index(pack_index(turned, STATES))
    doubled = evolve(INDEX, chunks=(*INDEX.chunks, INDEX.chunks[0]))
    with pytest.raises(BadRecording, match="order"):
        read_index(pack_index(doubled, STATES))


def test_a_state_is_as_long_as_the_table_says() -> None:
    """A state that unpacks to more or less than it claims is refused before it is unpacked."""
    keyframe = INDEX.keyframes[0]
    with pytest.raises(BadRecording, match="cut off"):
        read_state(keyframe, STATES[0][:-1])
    other = evolve(keyframe, packed=len(STATES[1]))
    with pytest.raises(BadRecording, match="not as long"):
        read_state(other, STATES[1])
