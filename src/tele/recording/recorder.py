"""Which sessions does a node record, and what do their recordings share?

Each session is a :class:`tele.recording.tape_recording.TapeRecording`.

Invariants:

* Frames are durable within a second (:mod:`tele.recording.commit`): a killed process or a power
  cut loses no more than that.
* A session that cannot be recorded from its start is refused with the reason.
* What a recorder that stops has accepted is on the disk, and is closed after the next start.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from datetime import datetime
from typing import Any, Final

from attrs import evolve
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from zope.interface import implementer

from tele.capacity.disk import why
from tele.errors import Unavailable
from tele.interfaces import IRecorder
from tele.model.session import Manifest, RecordingStart
from tele.recording.commit import GroupCommit
from tele.recording.share import DiskShares
from tele.recording.spool import Spool, Stored
from tele.recording.tape_recording import TapeRecording
from tele.tape.verify import to_sign
from tele.tape.writer import CUT_AT
from tele.workers import SerialWorker

#: How long recordings that end may take when the node stops.
CLOSE_SECONDS: Final = 5.0
#: Chunks of all recordings that were packed lately and whose summary is kept.
KNOWN_LIMIT: Final = 4096
#: Bytes of frames that all recordings together keep in memory before they are packed, and the least
#: that is left for one: a session is paused while its own part is used up.
BUFFERED: Final = 64 << 20
LEAST_BUFFERED: Final = 32 << 10


def sign_manifest(
    manifest: Manifest, sign: Callable[[bytes], bytes], host_certificate: Callable[[], str]
) -> Manifest:
    """Return ``manifest`` with the host's certificate and signature."""
    named = evolve(manifest, host_certificate=host_certificate(), signature=b"")
    return evolve(named, signature=sign(to_sign(named)))


@implementer(IRecorder)
class TapeRecorder:
    """Records sessions into ``spool``; calls ``changed(id)`` when there is more to upload.

    New recordings are sealed for the public keys that ``recipients()`` returns.
    """

    def __init__(
        self,
        spool: Spool,
        clock: IReactorTime,
        sign: Callable[[bytes], bytes],
        host_certificate: Callable[[], str],
        changed: Callable[[str], None] = lambda _: None,
        recipients: Callable[[], tuple[bytes, ...]] = tuple,
    ) -> None:
        self.recipients = recipients
        self.clock = clock
        self.changed = changed
        self.spool = spool
        self.shares = DiskShares()
        self.writer = SerialWorker(clock, "recording writer")
        self.commit = GroupCommit(clock, self.writer, spool.sync, self._measure)
        self._sign = sign
        self._host_certificate = host_certificate
        self._open: dict[str, TapeRecording] = {}
        self._ended: Deferred[None] | None = None
        self._known: dict[tuple[str, int], Stored] = {}
        self._lock = threading.Lock()

    @property
    def cut_at(self) -> int:
        """Bytes of frames at which a chunk is cut: the more sessions run, the fewer."""
        return max(LEAST_BUFFERED, min(CUT_AT, BUFFERED // max(1, len(self._open))))

    def open(self, start: RecordingStart) -> Deferred[Any]:
        """See :class:`IRecorder`."""
        return Deferred.fromCoroutine(self._begin(start))

    async def _begin(self, start: RecordingStart) -> TapeRecording:
        recording = TapeRecording(self, self.spool.folder(start.id), start)
        self._open[start.id] = recording
        try:
            await self.writer.call(self._create, recording)
        except OSError as error:
            del self._open[start.id]
            raise Unavailable(f"the session cannot be recorded: {why(error)}") from None
        except BaseException:
            del self._open[start.id]
            raise
        recording.count()
        self.commit.soon()
        self.changed(start.id)
        return recording

    def _create(self, recording: TapeRecording) -> None:
        if not self.spool.reserve.is_whole():
            raise Unavailable("the session cannot be recorded: there is no space for its end")
        recording.create()

    @property
    def open_count(self) -> int:
        """How many recordings are being written."""
        return len(self._open)

    def is_open(self, recording_id: str) -> bool:
        """Whether a session of this process is recorded under this id."""
        return recording_id in self._open

    def is_running(self, recording_id: str) -> bool:
        """Whether a session is recorded under this id that has not ended."""
        recording = self._open.get(recording_id)
        return recording is not None and not recording.closing

    def ended_unwritten(self, recording_id: str) -> datetime | None:
        """Return when a session ended whose end cannot be written for now."""
        recording = self._open.get(recording_id)
        return None if recording is None else recording.ended_unwritten

    def signed(self, manifest: Manifest) -> Manifest:
        """Sign with the host's key."""
        return sign_manifest(manifest, self._sign, self._host_certificate)

    def closed(self, recording_id: str) -> None:
        """Forget a recording that is complete."""
        self._open.pop(recording_id, None)
        self.changed(recording_id)
        if self._ended is not None and not any(r.closing for r in self._open.values()):
            ended, self._ended = self._ended, None
            ended.callback(None)

    def remember(self, recording_id: str, known: Stored) -> None:
        """In a thread: keep the summary of a packed chunk, so that it need not be unpacked soon."""
        with self._lock:
            self._known[recording_id, known.digest.number] = known
            if len(self._known) > KNOWN_LIMIT:
                del self._known[next(iter(self._known))]

    def recall(self, recording_id: str, number: int) -> Stored | None:
        """Return the summary of a chunk, once, if it is still kept."""
        with self._lock:
            return self._known.pop((recording_id, number), None)

    def limit(self, recording_id: str, why: str) -> None:
        """Set the limit of auth that a recording exceeds; empty for none."""
        recording = self._open.get(recording_id)
        if recording is not None:
            recording.limit(why)

    def acknowledged(self, recording_id: str, known: Stored) -> None:
        """Auth has this chunk of a recording, and all before it."""
        recording = self._open.get(recording_id)
        if recording is not None and known.sequence is not None:
            recording.acknowledged(known.sequence)

    def refused(self, recording_id: str, why: str) -> None:
        """Auth takes nothing of a recording."""
        recording = self._open.get(recording_id)
        if recording is not None:
            recording.refused(why)

    def is_waited_for(self, recording_id: str) -> bool:
        """Whether output of a session waits until auth has it."""
        recording = self._open.get(recording_id)
        return recording is not None and recording.is_waited_for

    def released(self, recording_id: str, size: int) -> None:
        """Count ``size`` bytes of a recording that were uploaded and removed from the spool."""
        self.shares.remove(recording_id, size)

    def _measure(self) -> Callable[[], object]:
        """In a thread: measure the free space."""
        try:
            found = os.statvfs(self.spool.root)
        except OSError:
            return lambda: self._measured(None)
        free = found.f_bavail * found.f_frsize
        return lambda: self._measured(free)

    def _measured(self, free: int | None) -> None:
        self.shares.measured(free)
        for recording in list(self._open.values()):
            recording.check_share()

    def close(self) -> Deferred[None]:
        """Write and sync all that is pending, and stop; fires when that is done."""
        return Deferred.fromCoroutine(self._close())

    async def _close(self) -> None:
        if any(recording.closing for recording in self._open.values()):
            ended = self._ended = Deferred()
            ended.addTimeout(CLOSE_SECONDS, self.clock).addErrback(lambda _: None)
            await ended  # recordings that cannot end are closed after the next start
        await self.commit.close()
        await self.writer.close()
        self.spool.close()
