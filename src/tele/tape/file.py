"""The ``.tape`` file: a whole recording as a sequence of named blobs.

The magic ``TELETAPE1`` and a line feed, then for each blob: u16 length of its name, the
name, u64 length, bytes.
The names are ``start``, ``manifest`` (if there is one) and ``<number>.chunk``.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Iterator
from typing import BinaryIO, Final

from tele.errors import BadRecording, InvalidInput

MAGIC: Final = b"TELETAPE1\n"
_NAME: Final = struct.Struct(">H")
_SIZE: Final = struct.Struct(">Q")
BLOB_LIMIT: Final = 64 * 1024 * 1024


def write_file(blobs: Iterable[tuple[str, bytes]]) -> Iterator[bytes]:
    """Yield the bytes of a file with these blobs."""
    yield MAGIC
    for name, data in blobs:
        encoded = name.encode("ascii")
        yield _NAME.pack(len(encoded)) + encoded + _SIZE.pack(len(data)) + data


def read_file(file: BinaryIO) -> Iterator[tuple[str, bytes]]:
    """Yield the blobs of a file. Raises :class:`InvalidInput` or :class:`BadRecording`."""
    for name, size in _heads(file):
        yield name, _exactly(file, size)


def find_blobs(file: BinaryIO) -> Iterator[tuple[str, int, int]]:
    """Yield the name, offset and size of each blob, without reading it; see :func:`read_file`."""
    for name, size in _heads(file):
        yield name, file.tell(), size
        file.seek(size, os.SEEK_CUR)


def _heads(file: BinaryIO) -> Iterator[tuple[str, int]]:
    """Yield name and size of each blob; its bytes are read, or passed over, before the next."""
    if file.read(len(MAGIC)) != MAGIC:
        raise InvalidInput("not a .tape file")
    while head := file.read(_NAME.size):
        name = _exactly(file, _NAME.unpack(head.ljust(2, b"\0"))[0])
        (size,) = _SIZE.unpack(_exactly(file, _SIZE.size))
        if size > BLOB_LIMIT:
            raise BadRecording("a part of the file claims to be larger than any part")
        yield name.decode("ascii", "replace"), size


def _exactly(file: BinaryIO, size: int) -> bytes:
    data = file.read(size)
    if len(data) != size:
        raise BadRecording("the file is cut off")
    return data
