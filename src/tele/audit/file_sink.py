"""A sink that writes each event as a line of JSON to a file.

Invariants:

* A line is ASCII, so that a terminal may show the file.
* A delivered event is on disk. The reactor does not wait for that.
* Lines are complete: what a full disk or a power cut left of one is removed before the next.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from twisted.internet.defer import Deferred, maybeDeferred
from zope.interface import implementer

from tele.capacity.descriptors import spare_descriptor
from tele.durable_files import sync_folder
from tele.interfaces import IAuditBatchSink
from tele.model.codec import to_json
from tele.model.event import Event
from tele.text import printable_json

#: Bytes that are read at a time to find where a torn line begins.
_LOOK_BACK: Final = 64 * 1024


@implementer(IAuditBatchSink)
class FileSink:
    """Appends to ``path`` (mode 0600). A file that logrotate moved away is created again.

    ``in_thread`` runs a function that waits for the disk; one call is made at a time.
    """

    def __init__(
        self,
        path: Path,
        in_thread: Callable[[Callable[[], None]], Deferred[None]] = maybeDeferred,
    ) -> None:
        self._path = path
        self._in_thread = in_thread

    def __repr__(self) -> str:
        """Return which one it is, for the log."""
        return f"FileSink({str(self._path)!r})"

    def receive(self, event: Event) -> Deferred[None]:
        """See :class:`tele.interfaces.IAuditSink`."""
        return self.receive_all([event])

    def receive_all(self, events: Sequence[Event]) -> Deferred[None]:
        """See :class:`tele.interfaces.IAuditBatchSink`."""
        lines = [printable_json(to_json(event)).encode("ascii") + b"\n" for event in events]
        return self._in_thread(lambda: self._append(b"".join(lines)))

    def _append(self, lines: bytes) -> None:
        """Write all of ``lines``, or nothing and raise OSError."""
        with spare_descriptor():
            new = self._write(lines)
        if new:
            with spare_descriptor():
                sync_folder(self._path.parent)

    def _write(self, lines: bytes) -> bool:
        """Return whether the file is new."""
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        descriptor = os.open(self._path, flags, 0o600)
        try:
            before = _cut_torn_line(descriptor)
            try:
                written = os.write(descriptor, lines)
                if written != len(lines):  # the disk filled up
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                os.fsync(descriptor)
            except OSError:
                os.ftruncate(descriptor, before)
                raise
        finally:
            os.close(descriptor)
        return not before


def _cut_torn_line(descriptor: int) -> int:
    """Remove an incomplete last line; return the size of the rest."""
    size = end = os.fstat(descriptor).st_size
    while end:
        start = max(0, end - _LOOK_BACK)
        found = os.pread(descriptor, end - start, start).rfind(b"\n")
        if found >= 0:
            end = start + found + 1
            break
        end = start
    if end != size:
        os.ftruncate(descriptor, end)
    return end
