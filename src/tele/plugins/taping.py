"""What does the recorder ``tape`` consist of? A recorder, its spool, and an uploader.

It is a service, too, which is started when the host is a member: recordings that an earlier process
left open are closed and signed then.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from zope.interface import implementer

from tele.interfaces import IRecorder, RecorderSurroundings
from tele.measures import catalogue
from tele.measures.metric import Sample
from tele.model.session import RecordingStart
from tele.recording.recorder import TapeRecorder
from tele.recording.spool import Spool
from tele.recording.upload import Uploader


@implementer(IRecorder)
class Taping(Service):
    """Records into the directory ``spool`` of data_dir, and uploads to auth."""

    def __init__(self, surroundings: RecorderSurroundings) -> None:
        self._recorder = TapeRecorder(
            Spool(surroundings.data_dir / "spool"),
            surroundings.reactor,
            surroundings.sign,
            surroundings.host_certificate,
            recipients=surroundings.recipients,
        )
        self._uploader = Uploader(self._recorder, surroundings.authority)

    def samples(self) -> Iterator[Sample]:
        """See :class:`tele.measures.metric.Measured`."""
        yield catalogue.RECORDING.at(self._recorder.open_count)
        yield catalogue.RECORDING_BYTES.at(self._recorder.shares.total)
        if self._recorder.shares.free is not None:
            yield catalogue.RECORDING_FREE.at(self._recorder.shares.free)
        yield from self._uploader.samples()

    def open(self, start: RecordingStart) -> Deferred[Any]:
        """See :class:`IRecorder`."""
        return self._recorder.open(start)

    def startService(self) -> None:
        """Upload what is in the spool, and close what an earlier process left open."""
        super().startService()
        self._uploader.start()

    def stopService(self) -> Deferred[None]:
        """Write and sync open recordings; they are uploaded after the next start."""
        super().stopService()
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        await self._uploader.close()
        await self._recorder.close()
