"""Which heads of the audit does this host keep, so that what was published cannot be rewritten?

Auth answers an announcement with the last head that it signed. The host appends it to
``audit-heads`` in its folder, where ``tele audit verify --heads`` reads it.

Invariants:

* Only heads that an auth of the cluster signed are kept, one a minute at most.
* The file is bounded: of older heads fewer are kept (:func:`tele.audit.heads.thinned`).
* A head that contradicts the one before is kept, too, and logged as an error.
* The disk is written in a thread; a failure is logged once, and loses that head only.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Final

from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from tele.audit.heads import check_head, contradiction, read_lines, thinned, to_line
from tele.capacity.descriptors import spare_descriptor
from tele.durable_files import write_file
from tele.errors import InvalidInput
from tele.log import make_logger
from tele.model.audit_head import SignedHead
from tele.workers import SerialWorker

HEADS: Final = "audit-heads"
#: The file is made anew, with fewer of the old ones, when it has so many bytes.
FILE_LIMIT: Final = 4 * 1024 * 1024
#: Heads of an auth that signs more often are left out.
KEEP_SECONDS: Final = 20.0

_log: Final = make_logger(__name__)


class HeadFile:
    """The heads in one file; every method may wait for the disk."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def append(self, head: SignedHead) -> None:
        """Add a head, durably. May raise OSError."""
        line = to_line(head)
        with spare_descriptor():
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
            descriptor = os.open(self._path, flags, 0o600)
            try:
                size = os.fstat(descriptor).st_size
                # What a power cut left of a line ends here.
                os.write(descriptor, b"\n" + line if size else line)
                os.fdatasync(descriptor)
            finally:
                os.close(descriptor)
            if size + len(line) > FILE_LIMIT:
                kept = thinned(read_lines(self._path.read_bytes()))
                write_file(self._path, b"".join(map(to_line, kept)))


class HeadKeeper:
    """Keeps what auth sends in ``file`` (None: nowhere), written by ``worker``.

    ``trusted`` returns the key blobs of the host authorities, ``cluster`` the cluster's name.
    """

    def __init__(
        self,
        clock: IReactorTime,
        file: HeadFile | None,
        worker: SerialWorker,
        trusted: Callable[[], Collection[bytes]],
        cluster: Callable[[], str],
    ) -> None:
        self._clock = clock
        self._file = file
        self._worker = worker
        self._trusted = trusted
        self._cluster = cluster
        self._last: tuple[SignedHead, float] | None = None
        self._failing = False

    def receive(self, head: SignedHead) -> None:
        """Keep ``head``, if it is signed and not the one before."""
        last, moment = self._last, self._clock.seconds()
        if last is not None and (last[0] == head or moment - last[1] < KEEP_SECONDS):
            return
        try:
            check_head(head, self._trusted(), self._cluster())
        except InvalidInput as error:
            self._failed(str(error))
            return
        if last is not None and (problem := contradiction(last[0], head)):
            _log.error(
                "audit contradicts what auth signed before", problem=problem,
                before=f"{last[0].number}:{last[0].hash}", now=f"{head.number}:{head.hash}",
            )  # fmt: skip
        self._last = head, moment
        if self._file is not None:
            file = self._file
            self._worker.call(lambda: file.append(head)).addBoth(self._written)

    def _written(self, result: object) -> None:
        if isinstance(result, Failure):
            self._failed(result.getErrorMessage())
        else:
            self._failing = False

    def _failed(self, problem: str) -> None:
        if not self._failing:
            _log.warn("head of the audit not kept", error=problem)
        self._failing = True
