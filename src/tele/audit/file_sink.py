"""A sink that writes each event as a line of JSON to a file, for those who ship files."""

from __future__ import annotations

import os
from pathlib import Path

from twisted.internet.defer import Deferred, fail, succeed
from zope.interface import implementer

from tele.interfaces import IAuditSink
from tele.model.codec import encode
from tele.model.event import Event


@implementer(IAuditSink)
class FileSink:
    """Appends to ``path`` (mode 0600). A file moved away by logrotate is made again."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def receive(self, event: Event) -> Deferred[None]:
        """See :class:`IAuditSink`."""
        try:
            descriptor = os.open(
                self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600
            )
            try:
                os.write(descriptor, encode(event) + b"\n")
            finally:
                os.close(descriptor)
        except OSError as error:
            return fail(error)
        return succeed(None)
