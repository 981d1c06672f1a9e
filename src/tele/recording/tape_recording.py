"""How is one session recorded while it runs?

Invariants:

* The reactor never waits for the disk. Memory is bounded: one chunk that fills, and one that is
  packed and written. If the spool is slower than the session, the session is paused.
* A full disk does not end a session: dropped bytes are counted. Frames about programs and the like
  are kept until then. The end of a session, with its gap, uses reserved space; output never does.
  If that is not enough either, the end is reported to auth.
* What was dropped is stated, with the reason, right before the next frame that is kept: so what is
  missing within a chunk is stated in it.
* While a frame is awaited at auth, chunks are cut at once, one after the other; less
  often when there are many already, since the manifest names each.
* The length of a recording is the time that the session took, even if the clock was set.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial
from typing import Final, Protocol

from attrs import evolve
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.task import deferLater
from twisted.python.failure import Failure
from zope.interface import implementer

from tele.capacity.disk import why
from tele.errors import TeleError, Unavailable
from tele.interfaces import IReportingRecording, ISyncRecording
from tele.log import make_logger
from tele.model.codec import encode
from tele.model.frame import UNNUMBERED, Frame, FrameKind
from tele.model.session import ChunkDigest, Manifest, RecordingStart
from tele.recording.commit import FLUSH_SECONDS, GroupCommit
from tele.recording.limit import Limit
from tele.recording.losses import Losses
from tele.recording.share import DiskShares
from tele.recording.spool import Spool, SpoolFolder, SpoolKey, SpoolKeys, Stored
from tele.recording.sync import Acknowledged
from tele.tape.layout import RAW_LIMIT
from tele.tape.sealing import make_data_key, wrap
from tele.tape.verify import VERSION
from tele.tape.writer import BYTES, Packed, TapeWriter
from tele.workers import SerialWorker

log = make_logger(__name__)

SECOND: Final = 1_000_000_000
TOO_SLOW: Final = "the disk was too slow"
#: So many seconds pass between chunks with awaited frames when there are so many chunks.
PACE: Final = ((60_000, FLUSH_SECONDS), (20_000, 0.1))


class Shared(Protocol):
    """What the recordings of one recorder share; see :class:`tele.recording.recorder`."""

    clock: IReactorTime
    spool: Spool
    shares: DiskShares
    writer: SerialWorker
    commit: GroupCommit
    #: Called with the id of a recording of which there is more to upload.
    changed: Callable[[str], None]
    #: Returns the public keys of those who may open recordings; none: they are not sealed.
    recipients: Callable[[], tuple[bytes, ...]]

    @property
    def cut_at(self) -> int:
        """Bytes of frames at which a chunk is cut."""

    def remember(self, recording_id: str, known: Stored) -> None:
        """In a thread: keep the summary of a packed chunk."""

    def signed(self, manifest: Manifest) -> Manifest:
        """Sign with the host's key."""

    def closed(self, recording_id: str) -> None:
        """Forget a recording that is complete."""


@implementer(ISyncRecording, IReportingRecording)
class TapeRecording:
    """The recording of one session, a source of :class:`GroupCommit`."""

    def __init__(self, recorder: Shared, folder: SpoolFolder, start: RecordingStart) -> None:
        self._recorder = recorder
        self._folder = folder
        self._start = start
        self._recipients = recorder.recipients()
        self._key = make_data_key(1, os.urandom) if self._recipients else None
        self._writer = TapeWriter(seal=self._key)
        self._held: Packed | None = None
        self._busy = False
        #: Whether the last attempt to write the held chunk failed.
        self._fails = False
        self._idle: list[Deferred[None]] = []
        self._behind = False
        self._over = False
        self._limit = Limit()
        self._losses = Losses()
        self._reasons: dict[str, None] = {}
        self._resumed: list[Callable[[], None]] = []
        self._interactive = False
        self._marked = False
        self._closed = False
        self._last_time = 0
        #: The number of the last frame that was written or lost.
        self._number = 0
        self._last_frame = recorder.clock.seconds()
        self._end: Frame | None = None
        self._synced = Acknowledged()
        self._cutting: IDelayedCall | None = None
        self._refused = False
        self._on_loss: list[Callable[[str], None]] = []
        #: When the session ended, if the end cannot be written for now.
        self.ended_unwritten: datetime | None = None
        self._written = 0
        self._writer.add(Frame(0, 0, FrameKind.START, encode(start)))

    def create(self) -> None:
        """In a thread: make the folder and its first chunk. After OSError there is no folder."""
        self._folder.create(self._start, self._wrapped())
        try:
            self._hold(self._writer.take())
            self._write_held()
        except OSError:
            self._folder.discard()
            raise

    def _wrapped(self) -> SpoolKeys:
        """Wrap the data key for those who may open the recording."""
        if self._key is None:
            return SpoolKeys()
        number, secret = self._key.number, self._key.secret
        wrapped = tuple(wrap(number, secret, each, self._start.id) for each in self._recipients)
        return SpoolKeys((SpoolKey(number, secret, wrapped),))

    @property
    def _is_full(self) -> bool:
        return self._writer.waiting >= self._recorder.cut_at

    @property
    def closing(self) -> bool:
        """Whether the session ended, and its end is being written."""
        return self._closed

    @property
    def paused(self) -> bool:
        """See :class:`IRecording`."""
        return self._behind or self._over

    def write(self, frame: Frame) -> None:
        """See :class:`IRecording`."""
        if self._closed:
            return
        if not frame.sequence and frame.kind not in UNNUMBERED:
            frame = evolve(frame, sequence=self._number + 1)
        self._last_time = max(self._last_time, frame.time)
        self._last_frame = self._recorder.clock.seconds()
        writer = self._writer
        if frame.kind in BYTES and self._limit.holds(self._last_frame):
            self._limit.losses.lose(frame)
            self._number = frame.sequence
            if self._limit.is_news or self._limit.losses.is_full:
                self._write_limit()
            return
        if self._fails and (frame.kind in BYTES or self._is_full):
            self._lose(frame)
            return
        if writer.waiting + len(frame.data) > RAW_LIMIT:
            self._reasons[TOO_SLOW] = None  # the session writes although it is paused
            self._lose(frame)
            return
        if frame.kind is FrameKind.OPEN and not self._interactive:
            self._interactive = bool(json.loads(frame.data).get("pty"))
        self._write_gaps()
        writer.add(frame)
        self._number = frame.sequence or self._number
        if not self._is_full:
            self._recorder.commit.soon(self)
        elif self._busy:
            self._behind = True
        elif not self._fails:
            self._recorder.commit.now(self)

    def _lose(self, frame: Frame) -> None:
        is_news = not self._losses
        self._losses.lose(frame)
        self._number = frame.sequence or self._number
        if is_news:
            self._report_loss("; ".join(self._reasons))
        if self._losses.is_full:
            self._write_gap()

    def _write_gaps(self) -> None:
        """State what was lost since the last frame."""
        if self._losses:
            self._write_gap()
        if self._limit.losses:
            self._write_limit()

    def _gap(self, body: bytes) -> Frame:
        return Frame(self._last_time, 0, FrameKind.GAP, body, self._number)

    def limit(self, why: str) -> None:
        """Set the limit of auth that this recording exceeds, or none."""
        if self._limit.set(why, self._recorder.clock.seconds()):
            log.warn("recording limit exceeded", recording_id=self._folder.id, error=why)
            self._report_loss(why)

    def _write_limit(self) -> None:
        """Write a gap frame for what was not recorded because of a limit."""
        body = self._limit.take()
        if body is not None:
            self._writer.add(self._gap(body))
            self._recorder.commit.soon(self)

    # -- what auth has ----------------------------------------------------------------
    @property
    def is_waited_for(self) -> bool:
        """Whether a frame is awaited at auth."""
        return bool(self._synced.newest)

    def synced(self, sequence: int) -> Deferred[None]:
        """See :class:`ISyncRecording`."""
        waiting = self._synced.wait(sequence)
        if not waiting.called:
            self._cut_if_awaited()
        return waiting

    def acknowledged(self, sequence: int) -> None:
        """Auth has all frames up to ``sequence``."""
        self._synced.advance(sequence)

    def _cut_if_awaited(self) -> None:
        """Cut a chunk now if a frame is awaited that is not in one yet."""
        cut = self._writer.taken.sequence or 0
        if self._busy or self._closed or self._cutting is not None or self._synced.newest <= cut:
            return
        pace = next((seconds for chunks, seconds in PACE if self._writer.number >= chunks), 0.0)
        if pace:
            self._cutting = self._recorder.clock.callLater(pace, self._cut_awaited)
        else:
            self._recorder.commit.now(self)

    def _cut_awaited(self) -> None:
        self._cutting = None
        if not self._busy:
            self._recorder.commit.now(self)

    def on_loss(self, callback: Callable[[str], None]) -> None:
        """See :class:`IReportingRecording`."""
        self._on_loss.append(callback)

    def refused(self, why: str) -> None:
        """Auth takes nothing of this recording: what is written is here alone."""
        if not self._refused:
            self._refused = True
            self._report_loss(why)

    def _report_loss(self, reason: str) -> None:
        for callback in self._on_loss:
            callback(reason)

    # -- writing ----------------------------------------------------------------------
    def begin(self) -> Callable[[], OSError | None] | None:
        """See :class:`tele.recording.commit.Source`."""
        if self._busy or self._closed:
            return None
        mark = self._interactive and not self._marked
        if self._held is None:
            pack = self._writer.take()
            if pack is None and not mark:
                return None
        else:
            pack = None
        self._busy = True
        return partial(self._put, pack, mark)

    def _put(self, pack: Callable[[], Packed] | None, mark: bool) -> OSError | None:
        """In a thread: write one chunk; it is held if it cannot be written."""
        try:
            self._hold(pack)
            self._write_held()
            if mark:
                self._folder.mark_interactive()
                self._marked = True
        except OSError as error:
            return error
        return None

    def _hold(self, pack: Callable[[], Packed] | None) -> None:
        if pack is not None:
            named, _ = self._held = pack()
            self._writer.packed(self._held)
            taken = self._writer.taken
            known = Stored(named, taken.frames, taken.time, self._writer.finished, taken.sequence)
            self._recorder.remember(self._folder.id, known)

    def _write_held(self) -> None:
        if self._held is not None:
            named, data = self._held
            self._folder.write_chunk(named.number, data)
            self._written += len(data)
            self._held = None

    def done(self, result: OSError | Failure | None) -> None:
        """See :class:`tele.recording.commit.Source`."""
        self._busy = False
        self._fails = isinstance(result, OSError)
        self.count()
        if isinstance(result, Failure):
            log.failure("recording lost a chunk", failure=result, recording_id=self._folder.id)
        elif result is not None:
            self._note(result)
            self._recorder.commit.soon(self)
        else:
            self._write_gap()
            self._recorder.changed(self._folder.id)
        idle, self._idle = self._idle, []
        for waiting in idle:
            waiting.callback(None)
        if self._closed:
            return
        if result is None and self._is_full:
            self._recorder.commit.now(self)
        elif self._writer.waiting:
            self._recorder.commit.soon(self)
        self._behind = self._busy and self._is_full
        if result is None:
            self._cut_if_awaited()
        self.check_share()

    def count(self) -> None:
        """Count written bytes for the user."""
        written, self._written = self._written, 0
        if written:
            self._recorder.shares.add(self._folder.id, self._start.user, written)

    def _note(self, error: OSError) -> None:
        """Remember the reason of a gap; each reason is logged once until the gap ends."""
        reason = why(error)
        if reason not in self._reasons:
            self._reasons[reason] = None
            log.error("recording not written", recording_id=self._folder.id, error=error)

    def _write_gap(self) -> None:
        reasons = "; ".join(self._reasons)
        if not self._fails:
            self._reasons = {}
        if self._losses:
            self._writer.add(self._gap(self._losses.take(reasons)))

    # -- waiting ----------------------------------------------------------------------
    def check_share(self) -> None:
        """Pause the session while its user's recordings take too much of the disk."""
        if self._closed:
            return
        over = self._recorder.shares.is_over(self._start.user)
        if over and not self._over:
            log.warn(
                "sessions paused: recordings of the user take their share of the disk",
                user=self._start.user,
            )
        self._over = over
        if over:
            self._recorder.commit.soon(self)  # measures again
        if self.paused:
            return
        resumed, self._resumed = self._resumed, []
        for callback in resumed:
            callback()

    def when_resumed(self, callback: Callable[[], None]) -> None:
        """See :class:`IRecording`."""
        if self.paused:
            self._resumed.append(callback)
        else:
            callback()

    # -- the end ----------------------------------------------------------------------
    def close(self, reason: str, sequence: int = 0) -> Deferred[None]:
        """See :class:`IRecording`."""
        if self._closed:
            return succeed(None)
        self._closed = True
        if self._cutting is not None:
            self._cutting.cancel()
            self._cutting = None
        self._resumed.clear()
        self._recorder.commit.forget(self)
        passed = int((self._recorder.clock.seconds() - self._last_frame) * SECOND)
        elapsed = self._last_time = self._last_time + max(0, passed)
        body = json.dumps({"reason": reason}).encode()
        self._end = Frame(elapsed, 0, FrameKind.END, body, sequence or self._number)
        ended = self._start.started + timedelta(microseconds=elapsed // 1000)
        return Deferred.fromCoroutine(self._finish(ended))

    async def _finish(self, ended: datetime) -> None:
        """Write the end, and sign; on a full disk in the reserved space.

        If that is not enough, try again; memory is one chunk.
        """
        if self._busy:
            idle: Deferred[None] = Deferred()
            self._idle.append(idle)
            await idle
        failed = False
        while True:
            try:
                await self._recorder.writer.call(self._put_end, ended)
            except OSError as error:
                self._note(error)
                if not failed:
                    name = self._folder.id
                    log.error("recording not closed yet", recording_id=name, error=error)
                    self.ended_unwritten = ended
                    self._recorder.changed(name)
                failed = True
            except TeleError as error:
                # The recovery after the next start tries again.
                self._recorder.closed(self._folder.id)
                raise Unavailable(f"the recording could not be closed: {error}") from None
            else:
                break
            finally:
                self.count()
                self._synced.fail(Unavailable("the recording has ended"))
            await deferLater(self._recorder.clock, FLUSH_SECONDS)
        self._recorder.closed(self._folder.id)
        await self._recorder.commit.synced()

    def _put_end(self, ended: datetime) -> None:
        """In a thread. May raise OSError; a second call continues where it failed."""
        spend = self._recorder.spool.reserve.spend
        spend(self._write_held)
        if self._end is not None:
            self._write_gap()
            if (body := self._limit.take()) is not None:
                self._writer.add(self._gap(body))
            self._writer.add(self._end)
            self._end = None
            self._hold(self._writer.take(last=True))
            spend(self._write_held)
        manifest = self._recorder.signed(self._manifest(ended, self._folder.digests()))
        spend(lambda: self._folder.write_manifest(manifest))

    def _manifest(self, ended: datetime, digests: list[ChunkDigest]) -> Manifest:
        return Manifest(
            id=self._start.id,
            version=VERSION,
            start=self._start,
            ended=ended,
            chunks=tuple(digests),
            frames=self._writer.frames,
            interactive=self._interactive,
            recovered=False,
            host_certificate="",
            sequence=self._writer.sequence,
            keys=0 if self._key is None else self._key.number,
        )
