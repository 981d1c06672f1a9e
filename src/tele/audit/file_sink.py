"""A sink that writes each event as a line of JSON to a file, for those who ship files.

Law of this file: a line is ASCII, so that a terminal may show the file.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

from twisted.internet.defer import Deferred, fail, succeed
from zope.interface import implementer

from tele.capacity.descriptors import room_for_one
from tele.interfaces import IAuditSink
from tele.model.codec import to_json
from tele.model.event import Event
from tele.text import printable_json


@implementer(IAuditSink)
class FileSink:
    """Appends to ``path`` (mode 0600). A file moved away by logrotate is made again."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def receive(self, event: Event) -> Deferred[None]:
        """See :class:`IAuditSink`."""
        try:
            line = printable_json(to_json(event)).encode("ascii")
            with room_for_one():
                self._append(line + b"\n")
        except OSError as error:
            return fail(error)
        return succeed(None)

    def _append(self, line: bytes) -> None:
        """Write all of ``line``, or nothing and raise OSError."""
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        descriptor = os.open(self._path, flags, 0o600)
        try:
            before = os.fstat(descriptor).st_size
            if os.write(descriptor, line) != len(line):
                # A disk that has filled takes a part: half an event would spoil the next line.
                os.ftruncate(descriptor, before)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        finally:
            os.close(descriptor)
