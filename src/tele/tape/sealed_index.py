"""How is the index of a sealed recording sealed, and read in parts?

With a key of its own, which HKDF (RFC 5869) makes of a data key of the recording and a random salt:
the tables as a whole, and each state by itself, so that a reader needs no more of them than of an
index in clear. ``docs/protocols/recording-index`` has the bytes.

Invariants:

* Who can open the recording can open its index, and no one else.
* No two parts are sealed with the same key and nonce, however often an index is made.
* A part that was changed, moved, or is of another recording does not open.

Entropy is an argument.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

from attrs import evolve

from tele.errors import BadRecording
from tele.tape.index import (
    MAGIC_SEALED,
    SEALED_HEAD,
    VERSION,
    Index,
    Keyframe,
    pack_index,
    read_index,
    read_state,
    tables_end,
)

if TYPE_CHECKING:  # most indexes are in clear
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

SALT_SIZE: Final = 32
TAG_SIZE: Final = 16
_CONTEXT: Final = b"tele-recording-index@tele\n"
_TABLES: Final = b"\xff" * 12

ReadState = Callable[[Keyframe, bytes], bytes]


def _aead(secret: bytes, salt: bytes, recording_id: str) -> AESGCM:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    info = _CONTEXT + recording_id.encode("ascii")
    return AESGCM(HKDF(SHA256(), 32, salt, info).derive(secret))


def _nonce(offset: int) -> bytes:
    return bytes(4) + offset.to_bytes(8, "big")


def seal_index(
    blob: bytes, number: int, secret: bytes, recording_id: str, entropy: Callable[[int], bytes]
) -> bytes:
    """Seal an index with the data key ``secret``, which has this ``number``.

    Raises :class:`BadRecording` for an index whose states are not one after the other.
    """
    index = read_index(blob)
    salt = entropy(SALT_SIZE)
    aead = _aead(secret, salt, recording_id)
    keyframes: list[Keyframe] = []
    states: list[bytes] = []
    taken = at = 0
    for each in index.keyframes:
        if each.offset != taken:
            raise BadRecording("the states of the index are not one after the other")
        first = index.states + taken
        taken += each.packed
        states.append(aead.encrypt(_nonce(at), blob[first : first + each.packed], b""))
        keyframes.append(evolve(each, offset=at, packed=len(states[-1])))
        at += len(states[-1])
    inner = pack_index(evolve(index, keyframes=tuple(keyframes)), states)
    tables = inner[: tables_end(inner)]
    head = SEALED_HEAD.pack(MAGIC_SEALED, VERSION, number, salt, len(tables) + TAG_SIZE, at)
    return b"".join((head, aead.encrypt(_TABLES, tables, head), *states))


def open_index(
    data: bytes, secrets: Mapping[int, bytes], recording_id: str
) -> tuple[Index, ReadState]:
    """Read the tables of a sealed blob that begins with ``data``, and return what reads states.

    Raises :class:`BadRecording`.
    """
    from cryptography.exceptions import InvalidTag

    end = tables_end(data)
    _, _, number, salt, _, _ = SEALED_HEAD.unpack_from(data)
    if len(data) < end:
        raise BadRecording("the index is cut off")
    secret = secrets.get(number)
    if secret is None:
        raise BadRecording(f"the index is sealed with data key {number}, which is not here")
    aead = _aead(secret, salt, recording_id)
    try:
        tables = aead.decrypt(_TABLES, data[SEALED_HEAD.size : end], data[: SEALED_HEAD.size])
    except InvalidTag:
        raise BadRecording("the sealed index was changed, or is another recording's") from None

    def read_sealed(keyframe: Keyframe, sealed: bytes) -> bytes:
        try:
            packed = aead.decrypt(_nonce(keyframe.offset), sealed, b"")
        except (InvalidTag, ValueError):
            raise BadRecording("a sealed keyframe of the index was changed") from None
        return read_state(evolve(keyframe, packed=len(packed)), packed)

    return evolve(read_index(tables), states=end), read_sealed


def read_any_index(
    data: bytes, secrets: Callable[[], Mapping[int, bytes]], recording_id: str
) -> tuple[Index, ReadState]:
    """Read the tables of an index that is sealed or not; ``secrets`` returns the data keys."""
    if data[:4] == MAGIC_SEALED:
        return open_index(data, secrets(), recording_id)
    return read_index(data), read_state
