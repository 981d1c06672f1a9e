"""Where are audit events kept until auth has them?

Every call may wait for the disk. A reactor uses it through
:class:`tele.membership.background_spool.BackgroundSpool`.

Invariants:

* In order, and each at least once: what was appended is there after ``kill -9``, and after a power
  cut if :meth:`Spool.sync` came after it; what was sent but not yet dropped is sent again, and
  auth knows it by its id.
* The mark names the file that it is about by its first line. One that is older than the file, since
  the disk wrote them in its own order before a power cut, means that all is sent again. So no
  write of the mark has to wait for the disk.
* Bounded. When it is full nothing old is lost: :attr:`full` is true, and the node refuses sessions
  that it could not record.
* On a disk that other programs filled, the ends of running sessions are kept, too: they use space
  that was reserved (:mod:`tele.capacity.disk`). While half of that is missing it counts as full.
* What was sent is dropped also on a full disk: the mark is written in place.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections import deque
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Final, Protocol

from tele.capacity.disk import DiskReserve
from tele.errors import TeleError
from tele.membership.files import read_private

LIMIT: Final = 256 << 20
LINE_LIMIT: Final = 256 << 10
BATCH_BYTES: Final = 512 << 10
BATCH_LINES: Final = 200
#: Bytes kept free for the ends of sessions that run when it gets full, and allocated on the disk.
RESERVE: Final = 4 << 20
#: So much of the reserve is released at a time: more than a line.
RESERVE_STEP: Final = 2 * LINE_LIMIT
#: How much has been sent, and the digest of the first line of the file that this is about. The
#: mark has always this size, so that writing it takes no space that it does not have.
_MARK: Final = b"%020d %s\n"


class Spool(Protocol):
    """Lines of bytes (no line feed in them), oldest first."""

    @property
    def full(self) -> bool:
        """Whether new sessions are refused; running ones may still append."""

    @property
    def waiting(self) -> int:
        """How many bytes have not been sent. May be asked for in any thread."""

    def append(self, line: bytes) -> bool:
        """Keep one line; False if it is too long or nothing more fits."""

    def append_all(self, lines: Sequence[bytes]) -> int:
        """Keep lines, in order, up to the first that is too long or does not fit; their number."""

    def peek(self) -> list[bytes]:
        """Return the oldest lines, as many as fit into one request."""

    def drop(self, lines: list[bytes]) -> None:
        """Forget ``lines``, which :meth:`peek` returned, or the first of them."""

    def sync(self) -> None:
        """Have all that was appended so far survive a power cut. Raises OSError.

        May be called in a thread while another one appends.
        """

    def close(self) -> None:
        """Close files."""


class MemorySpool:
    """For a member that keeps nothing on disk: what was not sent is lost when it ends."""

    def __init__(self, limit: int = LIMIT // 16) -> None:
        self._limit = limit
        self._lines: deque[bytes] = deque()
        self._size = 0

    @property
    def full(self) -> bool:
        """See :class:`Spool`."""
        return self._size > self._limit - self._limit // 8

    @property
    def waiting(self) -> int:
        """See :class:`Spool`."""
        return self._size

    def append(self, line: bytes) -> bool:
        """See :class:`Spool`."""
        if len(line) > LINE_LIMIT or self._size + len(line) > self._limit:
            return False
        self._lines.append(line)
        self._size += len(line)
        return True

    def append_all(self, lines: Sequence[bytes]) -> int:
        """See :class:`Spool`."""
        return append_each(self, lines)

    def peek(self) -> list[bytes]:
        """See :class:`Spool`."""
        batch: list[bytes] = []
        size = 0
        for line in self._lines:
            size += len(line)
            if batch and (size > BATCH_BYTES or len(batch) == BATCH_LINES):
                break
            batch.append(line)
        return batch

    def drop(self, lines: list[bytes]) -> None:
        """See :class:`Spool`."""
        for _ in lines:
            self._size -= len(self._lines.popleft())

    def sync(self) -> None:
        """See :class:`Spool`."""

    def close(self) -> None:
        """See :class:`Spool`."""


class FileSpool:
    """An append-only file of lines, and beside it how much of it has been sent."""

    def __init__(self, path: Path, limit: int = LIMIT) -> None:
        self._limit = limit
        self._spare = min(RESERVE, limit // 8)
        marked = path.with_name(path.name + ".sent")
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        try:
            mark = read_private(marked) or b""
            self._file = os.open(path, flags | os.O_APPEND, 0o600)
            self._mark = os.open(marked, flags, 0o600)
        except OSError as error:
            raise TeleError(f"{path} cannot be used: {error.strerror}") from None
        reserve = path.with_name(path.name + ".reserve")
        self._reserve = DiskReserve(reserve, self._spare, RESERVE_STEP)
        self._closed = False
        self._size = self._cut_torn_line()
        self._first = self._read_first()
        self._sent = self._marked(mark)
        if not self._forget_if_all_sent() and self._write_mark(self._sent):
            # A mark that is beyond the end of the file would be about later lines, too.
            os.fsync(self._mark)

    def _marked(self, mark: bytes) -> int:
        """Return how much was sent, by the mark."""
        number, _, digest = mark.strip().partition(b" ")
        if not number.isdigit() or (digest and digest != self._first):
            return 0
        return min(int(number), self._size)

    def _read_first(self) -> bytes:
        """Return the digest of the first line, or of none."""
        line, _, _ = os.pread(self._file, LINE_LIMIT, 0).partition(b"\n")
        return _digest(line if self._size else b"")

    def _cut_torn_line(self) -> int:
        """Cut off half a line, which a crash may leave, and which was never reported as kept."""
        size = os.fstat(self._file).st_size
        position = size
        while position:
            start = max(0, position - LINE_LIMIT)
            found = os.pread(self._file, position - start, start).rfind(b"\n")
            if found >= 0:
                position = start + found + 1
                break
            position = start
        if position != size:
            os.ftruncate(self._file, position)
        return position

    @property
    def full(self) -> bool:
        """See :class:`Spool`."""
        return self._size > self._limit - self._spare or not self._reserve.is_half()

    @property
    def waiting(self) -> int:
        """See :class:`Spool`."""
        return max(0, self._size - self._sent)

    def append(self, line: bytes) -> bool:
        """See :class:`Spool`. The line is in the kernel when this returns."""
        if len(line) >= LINE_LIMIT or self._size + len(line) >= self._limit:
            return False
        try:
            self._reserve.spend(lambda: self._write(line + b"\n"))
        except OSError:
            return False
        if not self._size:
            self._first = _digest(line.partition(b"\n")[0])
        self._size += len(line) + 1
        return True

    def append_all(self, lines: Sequence[bytes]) -> int:
        """See :class:`Spool`. All of them are one write, if they fit."""
        if len(lines) > 1 and self.append(b"\n".join(lines)):
            return len(lines)
        return append_each(self, lines)

    def _write(self, data: bytes) -> None:
        """Append all of ``data``, or nothing and raise OSError."""
        if os.write(self._file, data) != len(data):
            # A full disk takes a part, and fails with ENOSPC at the next byte.
            os.ftruncate(self._file, self._size)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def peek(self) -> list[bytes]:
        """See :class:`Spool`. Raises :class:`TeleError` if the disk cannot be read."""
        wanted = min(BATCH_BYTES, self._size - self._sent)
        try:
            data = os.pread(self._file, wanted, self._sent)
        except OSError as error:
            raise TeleError(f"the audit spool cannot be read: {error.strerror}") from None
        return data[: data.rfind(b"\n") + 1].split(b"\n")[:-1][:BATCH_LINES]

    def drop(self, lines: list[bytes]) -> None:
        """See :class:`Spool`."""
        self._sent += sum(len(line) + 1 for line in lines)
        if not self._forget_if_all_sent():
            # If it cannot be written they are sent again after a restart; auth knows them.
            self._write_mark(self._sent)

    def _write_mark(self, sent: int) -> bool:
        mark = _MARK % (sent, self._first)
        try:
            self._reserve.spend(lambda: os.pwrite(self._mark, mark, 0))
        except OSError:
            return False
        return True

    def _forget_if_all_sent(self) -> bool:
        if self._sent < self._size or not self._size:
            return False
        # In this order: a crash in between means that events are sent twice, not never.
        if not self._write_mark(0):
            return False
        try:
            os.ftruncate(self._file, 0)
        except OSError:
            return False
        self._size = self._sent = 0
        return True

    def sync(self) -> None:
        """See :class:`Spool`."""
        os.fdatasync(self._file)

    def close(self) -> None:
        """See :class:`Spool`. May be called twice."""
        if self._closed:
            return
        self._closed = True
        self._reserve.close()
        with contextlib.suppress(OSError):  # what cannot be synced now never can
            os.fdatasync(self._file)
        os.close(self._mark)
        os.close(self._file)


def append_each(spool: Spool, lines: Sequence[bytes]) -> int:
    """Append one line after the other; see :meth:`Spool.append_all`."""
    for number, line in enumerate(lines):
        if not spool.append(line):
            return number
    return len(lines)


def _digest(line: bytes) -> bytes:
    return sha256(line).hexdigest().encode("ascii")
