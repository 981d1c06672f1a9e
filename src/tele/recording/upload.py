"""How is a recording uploaded from the spool to auth?

While the session runs, and after an outage from the progress that auth reports; the chunks of all
recordings share calls (:mod:`tele.recording.sending`). A recording that an earlier process left is
closed first (:mod:`tele.recording.recovery`).

Invariants:

* Every step may be repeated. A chunk leaves the spool when auth has acknowledged it, the rest
  when auth has the manifest.
* A chunk that neither auth nor the spool has is reported as missing; it is not retried for ever.
* One broken recording does not stop others. A recording that auth refuses for good, or that cannot
  be read, is moved aside, logged, and reported to auth, so that it ends there, too.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from twisted.internet.defer import Deferred, DeferredList, DeferredSemaphore
from twisted.internet.interfaces import IDelayedCall
from twisted.python.failure import Failure

from tele.errors import (
    AccessDenied,
    BadRecording,
    Conflict,
    InvalidInput,
    NotFound,
    TeleError,
)
from tele.interfaces import IAuthority
from tele.log import make_logger
from tele.loop import backoff, now
from tele.measures import catalogue
from tele.measures.metric import Sample
from tele.model.api.operation import Nothing
from tele.model.api.paging import ById
from tele.model.api.recordings import (
    FINISH_RECORDING,
    OPEN_RECORDINGS,
    RECORDING_PROGRESS,
    START_RECORDING,
    UPDATE_RECORDING,
    FinishRecording,
    OpenRecordings,
    RecordingProgress,
    StartRecording,
    UpdateRecording,
)
from tele.model.session import Manifest
from tele.recording import spool_steps as steps
from tele.recording.batch import CHUNKS_LIMIT, BatchChunk
from tele.recording.recorder import TapeRecorder
from tele.recording.recovery import Recovery
from tele.recording.sending import CALLS, ChunkSender
from tele.recording.spool import SpoolFolder
from tele.recording.upload_memory import UploadMemory
from tele.workers import SerialWorker

log = make_logger(__name__)

#: Recordings that are uploaded at once: as many as fill the calls that their chunks share.
AT_ONCE: Final = CALLS * CHUNKS_LIMIT
#: Of these, recordings that are read, begun or closed at once, with calls of their own.
STEPS_AT_ONCE: Final = 32
#: Bytes of chunks that are sent at once.
MEMORY: Final = 16 << 20
#: The longest time in seconds between attempts while output of a session waits for auth.
WAITED_FOR: Final = 2.0
#: Pause after a denial: it will not change soon, and each one is an audit event.
DENIED_PAUSE: Final = 120.0
#: Seconds in which chunks of a session that runs gather to be sent together, unless one is waited
#: for: each call costs auth more than each chunk.
GATHER_SECONDS: Final = 0.25
_FOR_GOOD: Final = (InvalidInput, Conflict, BadRecording)
#: Errors of a disk that waiting does not cure, and how often they are retried.
_UNREADABLE: Final = frozenset(
    {errno.EIO, errno.EUCLEAN, errno.EBADMSG, errno.EACCES, errno.EPERM, errno.EISDIR}
)
UNREADABLE_TRIES: Final = 6


def _is_final(error: TeleError) -> bool:
    """Whether auth refuses the recording itself, and not the host, which may be locked for now."""
    if isinstance(error, AccessDenied):
        return error.reason == "host"
    return isinstance(error, _FOR_GOOD)


class _Progress:
    """What auth has of one recording. ``next`` is the chunk after those that it has."""

    def __init__(self) -> None:
        self.started = False
        self.there: frozenset[int] = frozenset()
        self.next = 0
        self.interactive = False
        self.ended = False
        self.failures = 0
        self.running = False
        self.again = False
        self.timer: IDelayedCall | None = None
        #: Whether the timer is not after a failure, but lets chunks gather.
        self.gathers = False

    def stop_timer(self) -> None:
        """Wait no more."""
        timer, self.timer, self.gathers = self.timer, None, False
        if timer is not None:
            timer.cancel()

    def has(self, number: int) -> bool:
        """Whether auth has this chunk."""
        return number < self.next or number in self.there


class Uploader:
    """Uploads the recordings of ``recorder`` through ``authority``."""

    def __init__(self, recorder: TapeRecorder, authority: IAuthority) -> None:
        self._recorder = recorder
        self._spool = recorder.spool
        self._worker = SerialWorker(recorder.clock, "recording upload")
        self._call: Callable[..., Deferred[Any]] = self._worker.call
        self._authority = authority
        self._sender = ChunkSender(authority)
        self._slots = DeferredSemaphore(STEPS_AT_ONCE)
        self._memory = UploadMemory(MEMORY)
        self._recovery = Recovery(recorder, authority, self._worker)
        #: Recordings of an earlier process, which may have to be closed.
        self._left: set[str] = set()
        self._clock = recorder.clock
        recorder.changed = self.changed
        self._known: dict[str, _Progress] = {}
        self._running = 0
        self._waiting: dict[str, None] = {}
        self._stopped = False
        self._asking: IDelayedCall | None = None
        self._given_up = 0

    def start(self) -> None:
        """Start with all recordings in the spool, and those that auth knows to run here."""
        Deferred.fromCoroutine(self._start()).addErrback(
            lambda failure: log.failure("recording spool not read", failure=failure)
        )

    async def _start(self) -> None:
        shares = self._recorder.shares
        for folder in await self._call(self._spool.folders):
            if self._recorder.is_open(folder.id):
                continue
            user, size = await self._call(steps.weigh, folder)
            shares.add(folder.id, user, size)
            self._left.add(folder.id)
            self.changed(folder.id)
        await self._ask_auth(0)

    async def _ask_auth(self, failures: int) -> None:
        """Close also recordings that auth has open and that are not in the spool."""
        self._asking = None
        if self._stopped:
            return
        try:
            there: OpenRecordings = await self._authority.perform(OPEN_RECORDINGS, Nothing())
        except TeleError as error:
            wait = backoff(failures) + DENIED_PAUSE * isinstance(error, AccessDenied)

            def again() -> None:
                Deferred.fromCoroutine(self._ask_auth(failures + 1))

            if not self._stopped:
                self._asking = self._clock.callLater(wait, again)
            return
        for name in there.ids:
            if not self._recorder.is_open(name) and name not in self._known:
                self._left.add(name)
                self.changed(name)

    def samples(self) -> Iterator[Sample]:
        """See :class:`tele.measures.metric.Measured`."""
        known = self._known.values()
        yield catalogue.RECORDINGS.at(len(known))
        yield catalogue.UPLOADS_FAILING.at(sum(each.failures > 0 for each in known))
        yield catalogue.GIVEN_UP.at(self._given_up)

    def close(self) -> Deferred[None]:
        """Stop, and end the thread; fires when it is idle."""
        self.stop()
        return self._worker.close()

    def stop(self) -> None:
        """Start no more uploads."""
        self._stopped = True
        self._waiting.clear()
        for progress in self._known.values():
            progress.stop_timer()
        if self._asking is not None:
            self._asking.cancel()
            self._asking = None

    def changed(self, recording_id: str) -> None:
        """Upload more of this recording."""
        if self._stopped:
            return
        progress = self._known.setdefault(recording_id, _Progress())
        if progress.gathers and not self._may_gather(recording_id):
            progress.stop_timer()
        if progress.running:
            progress.again = True
        elif progress.timer is None:
            self._waiting[recording_id] = None
            self._next()

    def _next(self) -> None:
        while self._waiting and self._running < AT_ONCE and not self._stopped:
            recording_id = next(iter(self._waiting))
            del self._waiting[recording_id]
            progress = self._known[recording_id]
            progress.running = True
            self._running += 1
            Deferred.fromCoroutine(self._run(recording_id, progress))

    async def _run(self, recording_id: str, progress: _Progress) -> None:
        progress.again = False
        try:
            folder = self._spool.folder(recording_id)
            if await self._upload(folder, progress):
                await self._call(steps.remove, folder)
                self._forget(recording_id)
            progress.failures = 0
        except TeleError as error:
            # A recording that is being written cannot be moved aside yet.
            if _is_final(error) and not self._recorder.is_open(recording_id):
                await self._give_up(recording_id, progress, f"auth refuses it: {error}")
            else:
                if _is_final(error):
                    self._recorder.refused(recording_id, f"auth refuses it: {error}")
                self._try_later(recording_id, progress, error)
        except OSError as error:
            lost = error.errno in _UNREADABLE and progress.failures >= UNREADABLE_TRIES
            if lost and not self._recorder.is_open(recording_id):
                why = f"its node cannot read it: {error.strerror}"
                await self._give_up(recording_id, progress, why)
            else:
                self._try_later(recording_id, progress, error)
        except Exception:
            if not self._stopped:
                log.failure("upload of recording failed", recording_id=recording_id)
            self._try_later(recording_id, progress, None)
        finally:
            progress.running = False
            self._running -= 1
        if progress.again and recording_id in self._known:
            if self._may_gather(recording_id) and progress.timer is None and not self._stopped:
                progress.gathers = True
                self._wait(recording_id, progress, GATHER_SECONDS)
            else:
                self.changed(recording_id)
        self._next()

    def _may_gather(self, recording_id: str) -> bool:
        recorder = self._recorder
        return recorder.is_running(recording_id) and not recorder.is_waited_for(recording_id)

    def _wait(self, recording_id: str, progress: _Progress, seconds: float) -> None:
        def again() -> None:
            progress.timer, progress.gathers = None, False
            self.changed(recording_id)

        progress.timer = self._clock.callLater(seconds, again)

    def _forget(self, recording_id: str) -> None:
        self._known.pop(recording_id, None)
        self._left.discard(recording_id)
        self._recorder.shares.forget(recording_id)

    def _try_later(self, recording_id: str, progress: _Progress, error: Exception | None) -> None:
        if progress.failures == 0:
            log.warn("upload of recording delayed", recording_id=recording_id, error=error)
        wait = backoff(progress.failures)
        if isinstance(error, AccessDenied):
            wait += DENIED_PAUSE
        elif self._recorder.is_waited_for(recording_id):
            wait = min(wait, WAITED_FOR)
        progress.failures += 1
        progress.again = False
        progress.started = False  # asks auth for its progress again
        if not self._stopped:
            self._wait(recording_id, progress, wait)

    async def _give_up(self, recording_id: str, progress: _Progress, why: str) -> None:
        """Report a recording to auth as incomplete, and move it aside."""
        given_up = UpdateRecording(recording_id, ended=now(self._clock), incomplete=why)
        try:
            await self._authority.perform(UPDATE_RECORDING, given_up)
        except TeleError as problem:
            if not (_is_final(problem) or isinstance(problem, NotFound)):
                self._try_later(recording_id, progress, problem)
                return
        try:
            moved = await self._call(steps.put_aside, self._spool.folder(recording_id))
        except OSError as problem:
            self._try_later(recording_id, progress, problem)
            return
        self._forget(recording_id)
        self._given_up += 1
        log.error("recording given up", recording_id=recording_id, error=why, path=moved)

    async def _upload(self, folder: SpoolFolder, progress: _Progress) -> bool:
        """Upload what is new; return whether auth has all of it and it may be removed."""
        async with self._slots:
            if self._stopped:
                return False
            here = await self._begin(folder, progress)
            if isinstance(here, bool):
                return here
            size = _size(here.first)
            await self._memory.take(size)
        try:
            await self._put(folder, progress, here.first)
        finally:
            self._memory.give(size)
        await self._send(folder, progress, here.numbers[len(here.first) :])
        if here.manifest is None:
            return False
        await self._finish(folder, progress, here.manifest)
        return True

    async def _begin(self, folder: SpoolFolder, progress: _Progress) -> steps.Here | bool:
        """Read what there is, and have auth know of the recording.

        Returns whether it may be removed if there is nothing to send.
        """
        perform = self._authority.perform
        live = self._recorder.is_open(folder.id)
        if folder.id in self._left or not (live or await self._call(steps.is_closed, folder)):
            progress.started = False
            if not await self._recovery.close(folder):
                return True
            self._left.discard(folder.id)
        here: steps.Here = await self._call(steps.read_spool, folder, progress.started)
        if here.start is not None:
            await perform(START_RECORDING, StartRecording(folder.id, here.start, here.keys))
            if await self._ask(folder.id, progress):
                progress.started = False
                self._recorder.refused(folder.id, "auth has closed its recording")
                return not live  # if it was removed while it is written, it goes when it ends
        if here.interactive and not progress.interactive:
            await perform(UPDATE_RECORDING, UpdateRecording(folder.id, interactive=True))
            progress.interactive = True
        ended = self._recorder.ended_unwritten(folder.id)
        if here.manifest is not None and sum(not progress.has(n) for n in here.numbers) > 1:
            ended = here.manifest.ended
        if ended is not None and not progress.ended:
            # Uploading the rest takes a while: the session is not to be listed until then.
            await perform(UPDATE_RECORDING, UpdateRecording(folder.id, ended=ended))
            progress.ended = True
        return here

    async def _ask(self, recording_id: str, progress: _Progress) -> bool:
        """Ask auth for its progress; return whether it has all."""
        perform = self._authority.perform
        known: RecordingProgress = await perform(RECORDING_PROGRESS, ById(recording_id))
        progress.there = frozenset(known.chunks)
        progress.next = 0
        progress.started = True
        return known.complete or known.closed

    async def _send(
        self, folder: SpoolFolder, progress: _Progress, numbers: tuple[int, ...]
    ) -> None:
        """Read and upload these chunks."""
        while numbers:
            async with self._slots:
                chunks: list[BatchChunk] = await self._call(steps.read_chunks, folder, numbers)
                size = _size(chunks)
                await self._memory.take(size)
            try:
                await self._put(folder, progress, chunks)
            finally:
                self._memory.give(size)
            numbers = numbers[len(chunks) :]

    async def _put(
        self, folder: SpoolFolder, progress: _Progress, chunks: Sequence[BatchChunk]
    ) -> None:
        """Upload chunks that auth lacks, and release those that it has."""
        lacking = [chunk for chunk in chunks if not progress.has(chunk.number)]
        problem = await self._store(lacking, progress)
        await self._release(folder, [each for each in chunks if progress.has(each.number)])
        if problem is not None:
            problem.raiseException()

    async def _store(self, chunks: Sequence[BatchChunk], progress: _Progress) -> Failure | None:
        """Send chunks, in order; returns why the first one was not stored that was not."""
        for chunk, (_, result) in zip(
            chunks, await DeferredList(self._sender.send(chunks), consumeErrors=True), strict=True
        ):
            if isinstance(result, Failure):
                return result
            self._recorder.limit(chunk.id, result.over)
            progress.next = chunk.number + 1
        return None

    async def _release(self, folder: SpoolFolder, chunks: Sequence[BatchChunk]) -> None:
        """Auth has these chunks: release them."""
        known = [self._recorder.recall(folder.id, chunk.number) for chunk in chunks]
        for each in known:
            if each is None:
                break
            self._recorder.acknowledged(folder.id, each)
        for each in await self._call(steps.release, folder, chunks, known, self._spool.reserve):
            self._recorder.acknowledged(folder.id, each)
            self._recorder.released(folder.id, each.digest.size)

    async def _finish(self, folder: SpoolFolder, progress: _Progress, manifest: Manifest) -> None:
        """Close it with its manifest; a chunk that auth lacks is sent, or reported as lost."""
        perform = self._authority.perform
        async with self._slots:
            try:
                await perform(FINISH_RECORDING, FinishRecording(folder.id, manifest))
            except NotFound:
                if await self._ask(folder.id, progress):
                    return
            else:
                return
            numbers = tuple(await self._call(folder.numbers))
        await self._send(folder, progress, numbers)
        there = {*progress.there, *numbers}
        missing = tuple(c.number for c in manifest.chunks if c.number not in there)
        async with self._slots:
            await perform(FINISH_RECORDING, FinishRecording(folder.id, manifest, missing))


def _size(chunks: Sequence[BatchChunk]) -> int:
    return sum(len(chunk.data) for chunk in chunks)
