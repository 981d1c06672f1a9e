"""How do blobs of a recording become objects? Several are one object, a pack, named by its content.

A pack is the blobs one after the other; what is where is in the catalogue.

Invariants:

* The name of a pack is the SHA-256 of its bytes: the same blobs in the same order are the same
  object, however often they are sent.
* A generation of packs ends with the manifest. What comes later begins a new one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from attrs import field, frozen

from tele.model.bounds import OMITTED

#: A recording that goes on is packed when it has so many bytes that are not.
PACK_AT: Final = 8 << 20
#: Most bytes of a pack, but for one that has a single blob.
PACK_LIMIT: Final = 64 << 20
#: A larger pack is stored in parts of this size; S3 wants at least 5 MiB, and at most 10,000 parts.
PART_SIZE: Final = 8 << 20
#: The blob that ends a generation.
CLOSING: Final = "manifest"

#: The end of the names of signed heads of the audit.
_HEAD: Final = ".head"


def is_urgent(name: str) -> bool:
    """Whether a blob, and what waits before it, is uploaded at once."""
    return name == CLOSING or name.endswith(_HEAD)


@frozen
class Entry:
    """A blob in a pack: ``size`` bytes from ``offset``; ``sha256`` is hex, of these bytes."""

    name: str
    offset: int
    size: int
    sha256: str


@frozen
class Pack:
    """An object with blobs of one recording. ``sha256`` is hex, of the whole.

    ``number`` counts the packs of a recording, from 0. ``stored``: it is in the bucket, whole.
    ``upload`` is the id of an upload in parts that has begun.
    """

    sha256: str
    size: int
    entries: tuple[Entry, ...]
    generation: int
    number: int
    stored: bool = False
    upload: str = field(default="", metadata=OMITTED)


@frozen
class Catalogue:
    """What is where, of one generation of a recording: the object that is stored at its end."""

    id: str
    generation: int
    packs: tuple[Pack, ...]


def folder_of(recording_id: str) -> str:
    """Return the part of a key that a recording's objects have in common."""
    return f"{recording_id[:2]}/{recording_id}"


def pack_key(recording_id: str, pack: Pack) -> str:
    """Return the key of a pack."""
    return f"{folder_of(recording_id)}/{pack.sha256}.pack"


def catalogue_key(recording_id: str, generation: int) -> str:
    """Return the key of the catalogue of a generation."""
    return f"{folder_of(recording_id)}/catalogue-{generation}.json"


def choose(blobs: Sequence[tuple[str, int]], last: str) -> list[tuple[str, int]]:
    """Return the next blobs, of (name, size), for one pack: in order, ``last`` at the end.

    What ``last`` ends is a generation, so that nothing follows it in a pack.
    """
    before = [blob for blob in blobs if blob[0] != last]
    after = [blob for blob in blobs if blob[0] == last]
    chosen: list[tuple[str, int]] = []
    size = 0
    for blob in before + after:
        if chosen and size + blob[1] > PACK_LIMIT:
            break
        chosen.append(blob)
        size += blob[1]
    return chosen


def measure(folder: Path, names: Iterable[str], generation: int, number: int) -> Pack:
    """Read blobs and return their pack. Call it in a thread; may raise OSError."""
    whole = hashlib.sha256()
    entries: list[Entry] = []
    offset = 0
    for name in names:
        data = (folder / name).read_bytes()
        whole.update(data)
        entries.append(Entry(name, offset, len(data), hashlib.sha256(data).hexdigest()))
        offset += len(data)
    return Pack(whole.hexdigest(), offset, tuple(entries), generation, number)


def read_span(folder: Path, pack: Pack, first: int, size: int) -> bytes:
    """Return bytes of a pack from the files of its blobs. Call it in a thread; may raise OSError.

    Raises ``ValueError`` if a file is not what it was any more.
    """
    found = bytearray()
    for entry in pack.entries:
        if entry.offset + entry.size <= first or entry.offset >= first + size:
            continue
        data = (folder / entry.name).read_bytes()
        if len(data) != entry.size or hashlib.sha256(data).hexdigest() != entry.sha256:
            raise ValueError(f"{entry.name} has changed on the disk")
        begin = max(0, first - entry.offset)
        found += data[begin : first + size - entry.offset]
    return bytes(found)
