"""How is a session written down while it runs?

Laws of this file:

* Frames are on disk within a second. A process that is killed loses no more than that.
* Memory is bounded: one chunk that fills and one that is packed. When the spool is slower
  than the session, the session waits.
* No session begins whose recording cannot be written, or not be ended on a full disk.
* A full disk does not end a session: what is dropped is counted, and written down as a gap with
  the true reason as soon as there is room. The end of a session, with its gap, uses space that
  is reserved for it; output never does.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, Final

from attrs import evolve
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from zope.interface import implementer

from tele.capacity.disk import why
from tele.errors import TeleError, Unavailable
from tele.interfaces import IRecorder, IRecording
from tele.loop import make_logger, now
from tele.model.codec import encode
from tele.model.frame import Frame, FrameKind
from tele.model.session import ChunkDigest, Manifest, RecordingStart
from tele.recording.share import DiskShares
from tele.recording.spool import Spool, SpoolFolder
from tele.tape.verify import VERSION, to_sign
from tele.tape.writer import Packed, TapeWriter, Worker, at_once

log = make_logger(__name__)

FLUSH_SECONDS: Final = 1.0
SECOND: Final = 1_000_000_000


def sign_manifest(
    manifest: Manifest, sign: Callable[[bytes], bytes], host_certificate: Callable[[], str]
) -> Manifest:
    """Return ``manifest`` with the host's certificate and signature."""
    named = evolve(manifest, host_certificate=host_certificate(), signature=b"")
    return evolve(named, signature=sign(to_sign(named)))


@implementer(IRecording)
class TapeRecording:
    """One session on its way to the spool. Making it may raise OSError; then there is none."""

    def __init__(self, recorder: TapeRecorder, folder: SpoolFolder, start: RecordingStart) -> None:
        self.paused = False
        self._recorder = recorder
        self._folder = folder
        self._start = start
        self._writer = TapeWriter(worker=recorder.worker)
        self._digests: list[ChunkDigest] = []
        self._pending: list[tuple[ChunkDigest, bytes]] = []
        self._lost: Counter[str] = Counter()
        self._reasons: dict[str, None] = {}
        self._resumed: list[Callable[[], None]] = []
        self._interactive = False
        self._timer: IDelayedCall | None = None
        self._closed = False
        self._last_time = 0
        self._began = recorder.clock.seconds()
        self._end: Frame | None = None
        self._done: Deferred[None] = Deferred()
        self._writer.add(Frame(0, 0, FrameKind.START, encode(start)))
        self._cut()
        recorder.changed(folder.id)

    def write(self, frame: Frame) -> None:
        """See :class:`IRecording`."""
        if self._closed:
            return
        self._last_time = max(self._last_time, frame.time)
        if self._pending:
            self._lost[frame.kind.name.lower()] += len(frame.data)
            return
        if frame.kind is FrameKind.OPEN and not self._interactive:
            self._look_for_terminal(frame)
        self._writer.add(frame)
        if self._writer.is_full and self._put_on_disk(self._begin):
            self._recorder.changed(self._folder.id)
        if self._timer is None:
            self._timer = self._recorder.clock.callLater(FLUSH_SECONDS, self._on_time)

    def _look_for_terminal(self, frame: Frame) -> None:
        if json.loads(frame.data).get("pty"):
            self._interactive = True
            try:
                self._folder.mark_interactive()
            except OSError as error:
                log.warn("recording {name} is not marked: {why!s}", name=self._folder.id, why=error)
            self._recorder.changed(self._folder.id)

    def _on_time(self) -> None:
        self._timer = None
        if self.paused:
            self._look_at_share()
        self._flush()

    def _flush(self) -> None:
        if self._put_on_disk(self._cut):
            self._write_gap()
            self._recorder.changed(self._folder.id)

    def _put_on_disk(self, put: Callable[[], None]) -> bool:
        try:
            put()
        except OSError as error:
            self._note(error)
            self._look_again()
            return False
        self._look_at_share()
        return True

    def _note(self, error: OSError) -> None:
        """Remember why there is a gap; the log hears of each reason once, until there is none."""
        reason = why(error)
        if reason not in self._reasons:
            self._reasons[reason] = None
            log.error(
                "recording {name} cannot be written: {why!s}", name=self._folder.id, why=error
            )

    def _look_again(self) -> None:
        if self._timer is None:
            self._timer = self._recorder.clock.callLater(FLUSH_SECONDS, self._on_time)

    def _look_at_share(self) -> None:
        """Have the session wait while its user's recordings take too much of the disk."""
        over = self._recorder.shares.is_over(self._start.user)
        if over and not self.paused:
            log.warn(
                "sessions of {user!r} wait: their recordings hold a quarter of the disk",
                user=self._start.user,
            )
        self.paused = over
        if over:
            self._look_again()
            return
        resumed, self._resumed = self._resumed, []
        for callback in resumed:
            callback()

    def _begin(self) -> None:
        """Have a full chunk packed, and put the one before it on disk."""
        self._write_chunks(self._writer.collect())
        self._writer.begin()

    def _cut(self, *, last: bool = False) -> None:
        """Put what is written so far on disk. May raise OSError: then it is still there."""
        self._write_chunks(self._writer.collect())
        self._write_chunks(self._writer.cut(last=last))

    def _write_chunks(self, cut: Packed | None) -> None:
        if cut is not None:
            self._pending.append(cut)
        while self._pending:
            named, data = self._pending[0]
            self._folder.write_chunk(named.number, data)
            self._recorder.shares.add(self._folder.id, self._start.user, len(data))
            self._digests.append(named)
            self._pending.pop(0)

    def _write_gap(self) -> None:
        reasons, self._reasons = self._reasons, {}
        if not self._lost:
            return
        lost, self._lost = self._lost, Counter()
        body = json.dumps({"lost": dict(lost), "reason": "; ".join(reasons)}).encode()
        self._writer.add(Frame(self._last_time, 0, FrameKind.GAP, body))

    def when_resumed(self, callback: Callable[[], None]) -> None:
        """See :class:`IRecording`. Writing is synchronous: only a share that is used up waits."""
        if self.paused:
            self._resumed.append(callback)
        else:
            callback()

    def close(self, reason: str) -> Deferred[None]:
        """See :class:`IRecording`."""
        if self._closed:
            return succeed(None)
        self._closed = True
        self._resumed.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        lasted = timedelta(seconds=self._recorder.clock.seconds() - self._began)
        ended = self._start.started + lasted  # whatever the clock was set to meanwhile
        body = json.dumps({"reason": reason}).encode()
        self._end = Frame(self._time(ended), 0, FrameKind.END, body)
        self._finish(ended, retry=False)
        return self._done

    def _finish(self, ended: datetime, *, retry: bool) -> None:
        """Write the end, and sign, on a full disk with the space that is reserved for it.

        Where not even that is enough, try again; memory is one chunk.
        """
        try:
            self._recorder.spool.reserve.spend(lambda: self._put_end(ended))
        except OSError as error:
            self._note(error)
            if not retry:
                name = self._folder.id
                log.error("recording {name} is not closed yet: {why!s}", name=name, why=error)
            self._recorder.clock.callLater(FLUSH_SECONDS, self._finish, ended, retry=True)
        except TeleError as error:
            self._done.errback(Unavailable(f"the recording could not be closed: {error}"))
        else:
            self._recorder.closed(self._folder.id)
            self._done.callback(None)

    def _put_end(self, ended: datetime) -> None:
        """May raise OSError, and goes on where it was when it is called again."""
        if self._end is not None:
            if self._pending:
                self._cut()
            self._write_gap()
            self._writer.add(self._end)
            self._end = None
        self._cut(last=not self._writer.finished)
        self._folder.write_manifest(self._recorder.signed(self._manifest(ended)))

    def _manifest(self, ended: datetime) -> Manifest:
        return Manifest(
            id=self._start.id,
            version=VERSION,
            start=self._start,
            ended=ended,
            chunks=tuple(self._digests),
            frames=self._writer.frames,
            interactive=self._interactive,
            recovered=False,
            host_certificate="",
        )

    def _time(self, moment: datetime) -> int:
        elapsed = int((moment - self._start.started).total_seconds() * SECOND)
        return max(elapsed, self._last_time)


@implementer(IRecorder)
class TapeRecorder:
    """Records sessions into ``spool``; ``changed(id)`` is told when there is more to upload.

    ``worker`` packs full chunks.
    """

    def __init__(
        self,
        spool: Spool,
        clock: IReactorTime,
        sign: Callable[[bytes], bytes],
        host_certificate: Callable[[], str],
        changed: Callable[[str], None] = lambda _: None,
        worker: Worker = at_once,
    ) -> None:
        self.clock = clock
        self.changed = changed
        self.worker = worker
        self.spool = spool
        self.shares = DiskShares(spool.root)
        self._sign = sign
        self._host_certificate = host_certificate
        self._open: set[str] = set()

    def open(self, start: RecordingStart) -> Deferred[Any]:
        """See :class:`IRecorder`."""
        if not self.spool.reserve.is_whole():
            return fail(
                Unavailable("the session cannot be recorded: there is no space for its end")
            )
        folder = self.spool.folder(start.id)
        try:
            folder.create(start)
            recording = self._begin(folder, start)
        except OSError as error:
            return fail(Unavailable(f"the session cannot be recorded: {error.strerror}"))
        self._open.add(start.id)
        return succeed(recording)

    def _begin(self, folder: SpoolFolder, start: RecordingStart) -> TapeRecording:
        try:
            return TapeRecording(self, folder, start)
        except OSError:
            folder.discard()
            raise

    def signed(self, manifest: Manifest) -> Manifest:
        """Sign with the host's key."""
        return sign_manifest(manifest, self._sign, self._host_certificate)

    def closed(self, recording_id: str) -> None:
        """One is complete."""
        self._open.discard(recording_id)
        self.changed(recording_id)

    def recover(self) -> list[str]:
        """Close what a process before this one left open; returns the ids.

        Call it once, before the first session.
        """
        recovered = []
        self.spool.clean()
        for folder in self.spool.folders():
            self._count(folder)
            if folder.id in self._open or folder.is_closed:
                continue
            try:
                self._close_orphan(folder)
            except (OSError, TeleError) as error:
                log.error(
                    "recording {name} cannot be recovered: {why!s}", name=folder.id, why=error
                )
                continue
            recovered.append(folder.id)
        return recovered

    def _count(self, folder: SpoolFolder) -> None:
        try:
            self.shares.add(folder.id, folder.start.user, folder.size)
        except (OSError, TeleError) as error:
            log.error("recording {name} cannot be counted: {why!s}", name=folder.id, why=error)

    def _close_orphan(self, folder: SpoolFolder) -> None:
        start = folder.start
        digests, previous, time, frames = folder.recover()
        writer = TapeWriter(len(digests), previous)
        if not digests:  # not even its first frame was on disk
            writer.add(Frame(0, 0, FrameKind.START, encode(start)))
        body = json.dumps({"reason": "the recorder ended before the session"}).encode()
        writer.add(Frame(time, 0, FrameKind.END, body))
        cut = writer.cut(last=True)
        spend = self.spool.reserve.spend
        if cut is not None:
            named, data = cut
            spend(lambda: folder.write_chunk(named.number, data))
            digests.append(named)
        manifest = Manifest(
            id=start.id,
            version=VERSION,
            start=start,
            ended=now(self.clock),
            chunks=tuple(digests),
            frames=frames + writer.frames,
            interactive=folder.interactive,
            recovered=True,
            host_certificate="",
        )
        signed = self.signed(manifest)
        spend(lambda: folder.write_manifest(signed))
