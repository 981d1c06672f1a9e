"""The index of a sealed recording: it opens with a data key, in parts, and not otherwise."""

from __future__ import annotations

import os

import pytest
from attrs import evolve

from tele.errors import BadRecording
from tele.tape.index import (
    HEAD_SIZE,
    Index,
    Keyframe,
    Mark,
    MarkKind,
    blob_size,
    head_tag,
    pack_index,
    pack_state,
    read_index,
    tables_end,
)
from tele.tape.sealed_index import open_index, read_any_index, seal_index

ID, SECRET = "9d6d2e0e-0000-4000-8000-000000000001", bytes(range(32))
TEXTS = [b"a screen with a password", b"another screen" * 50]
STATES = [pack_state(each) for each in TEXTS]
KEYFRAMES = tuple(
    Keyframe(n, 1, 0, 0, 80, 24, False, False, 9, at, len(STATES[n]), len(TEXTS[n]))
    for n, at in enumerate((0, len(STATES[0])))
)
INDEX = Index(
    True, 0, 0, 0, bytes(32), (), (), KEYFRAMES, (), (Mark(1, 1, MarkKind.EXEC, "rm -rf /secret"),)
)
CLEAR = pack_index(INDEX, STATES)
SEALED = seal_index(CLEAR, 1, SECRET, ID, os.urandom)


def parts(blob: bytes, secrets: dict[int, bytes], recording_id: str = ID) -> list[bytes]:
    """Read it as a player does: the tables first, then each state."""
    end = tables_end(blob[:HEAD_SIZE])
    index, read = open_index(blob[:end], secrets, recording_id)
    assert [mark.text for mark in index.marks] == ["rm -rf /secret"]
    assert blob_size(blob[:HEAD_SIZE]) == len(blob)
    found = []
    for each in index.keyframes:
        first = index.states + each.offset
        found.append(read(each, blob[first : first + each.packed]))
    return found


def test_it_is_read_in_parts() -> None:
    """A reader with the data key needs no more of it than of one in clear."""
    assert parts(SEALED, {1: SECRET}) == TEXTS
    assert read_any_index(CLEAR, dict, ID)[0] == read_index(CLEAR)
    assert read_any_index(SEALED, lambda: {1: SECRET}, ID)[0].keyframes


def test_attack_nothing_of_it_is_in_clear() -> None:
    """Neither commands nor screens; nor how many there are."""
    for secret in (b"password", b"secret", STATES[0], STATES[1][:40]):
        assert secret not in SEALED
    assert SEALED[:4] == b"TLXS"
    with pytest.raises(BadRecording, match="newer version"):
        read_index(SEALED)


def test_attack_it_opens_with_no_other_key() -> None:
    """Another recording's key, the key for another recording, and no key."""
    for secrets, recording_id in (
        ({1: bytes(32)}, ID),
        ({2: SECRET}, ID),
        ({}, ID),
        ({1: SECRET}, ID[:-1] + "2"),
    ):
        with pytest.raises(BadRecording):
            parts(SEALED, secrets, recording_id)


def test_every_changed_bit_of_an_index_is_noticed() -> None:
    """In its head, in its tables and in its states, and a state in the place of another."""
    for at in (*range(0, len(SEALED), 7), len(SEALED) - 1):
        wrong = SEALED[:at] + bytes((SEALED[at] ^ 1,)) + SEALED[at + 1 :]
        with pytest.raises(BadRecording):
            assert parts(wrong, {1: SECRET}) is None or blob_size(wrong) == len(SEALED)
    index, read = open_index(SEALED, {1: SECRET}, ID)
    first, second = index.keyframes
    data = SEALED[index.states + first.offset :][: first.packed]
    with pytest.raises(BadRecording, match="was changed"):
        read(second, data)


def test_an_index_that_is_made_again_has_other_keys() -> None:
    """The same content does not look the same: no two parts share key and nonce."""
    again = seal_index(CLEAR, 1, SECRET, ID, os.urandom)
    assert again[-60:] != SEALED[-60:]
    assert head_tag(again) != head_tag(SEALED)


def test_attack_states_that_overlap_are_refused() -> None:
    """A process that was taken over cannot make a large index of few bytes."""
    twice = evolve(INDEX, keyframes=(KEYFRAMES[0], evolve(KEYFRAMES[0], time=1)))
    with pytest.raises(BadRecording, match="one after the other"):
        seal_index(pack_index(twice, STATES), 1, SECRET, ID, os.urandom)
