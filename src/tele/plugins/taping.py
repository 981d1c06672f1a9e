"""What does the recorder ``tape`` consist of? A recorder, its spool, and what uploads it.

It is a service, too: whoever runs the host starts it when the host is a member, because
what an earlier process left open is closed and signed then.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from zope.interface import implementer

from tele.interfaces import IRecorder, RecorderSurroundings
from tele.loop import make_logger
from tele.model.session import RecordingStart
from tele.recording.recorder import TapeRecorder
from tele.recording.spool import Spool
from tele.recording.upload import Uploader

_log = make_logger(__name__)


@implementer(IRecorder)
class Taping(Service):
    """Records into the folder ``spool`` of data_dir, and uploads to auth."""

    def __init__(self, surroundings: RecorderSurroundings) -> None:
        spool = Spool(surroundings.data_dir / "spool")
        self._uploader = Uploader(
            spool,
            surroundings.authority,
            surroundings.reactor,
            lambda name: self._recorder.shares.forget(name),  # noqa: PLW0108 (made below)
        )
        self._recorder = TapeRecorder(
            spool,
            surroundings.reactor,
            surroundings.sign,
            surroundings.host_certificate,
            self._uploader.changed,
            ThreadPoolExecutor(1, thread_name_prefix="tape").submit,
        )

    def open(self, start: RecordingStart) -> Deferred[Any]:
        """See :class:`IRecorder`."""
        return self._recorder.open(start)

    def startService(self) -> None:
        """Close what an earlier process left open, and upload all that is there."""
        super().startService()
        for name in self._recorder.recover():
            _log.info("recording {name} was closed after a crash", name=name)
        self._uploader.start()

    def stopService(self) -> None:
        """Upload nothing more; the rest follows after the next start."""
        super().stopService()
        self._uploader.stop()
