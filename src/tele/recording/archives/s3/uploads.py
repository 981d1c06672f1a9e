"""When is a recording uploaded, and what happens when that fails?

A recording is uploaded when it is closed, when a good pack of it waits, and when a part of it has
waited for an hour. A signed head of the audit is uploaded at once: it proves nothing on the disk of
those who can rewrite the audit.

Invariants:

* A recording that fails waits by itself: others go on. When several fail one after the other, the
  bucket is at fault, and all wait for one that tries.
* Of each failure there is a row that says why, once it is not the network's first hiccup, and one
  event.
* The number of uploads at a time is bounded.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from datetime import datetime
from typing import Any, Final

from attrs import define
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from tele.errors import NotFound, TeleError
from tele.log import make_logger
from tele.loop import backoff, now
from tele.measures import catalogue
from tele.measures.metric import Sample
from tele.model.stuck import StuckUpload
from tele.recording.archives.s3.catalogue import CatalogueRows, stuck_upload
from tele.recording.archives.s3.errors import BucketError, Trouble
from tele.recording.archives.s3.landing import Landing
from tele.recording.archives.s3.packs import PACK_AT, is_urgent
from tele.recording.archives.s3.sender import Sender

log = make_logger(__name__)

#: Uploads at a time.
PARALLEL: Final = 4
#: After so long a part is uploaded that is small: a lost disk of auth costs no more than that.
FLUSH_SECONDS: Final = 3600.0
CHECK_SECONDS: Final = 2.0
#: Failures after which an upload that is tried again is shown as stuck.
SHOWN_AFTER: Final = 5
#: Failures in a row, of several recordings, after which the bucket is at fault.
BUCKET_AT_FAULT: Final = 3
#: First and longest wait, in seconds.
_WAITS: Final = {Trouble.RETRY: (2.0, 300.0), Trouble.REFUSED: (30.0, 600.0)}


@define(eq=False)
class _Job:
    """What waits of one recording."""

    id: str
    since: float
    size: int = 0
    urgent: bool = False
    version: int = 0
    due: float = 0.0
    attempts: int = 0
    failing_since: datetime | None = None
    shown: bool = False
    running: Deferred[None] | None = None

    def is_ready(self, moment: float) -> bool:
        """Whether it ought to be uploaded now."""
        if self.running is not None or moment < self.due or not self.size:
            return False
        return self.urgent or self.size >= PACK_AT or moment - self.since >= FLUSH_SECONDS


class Uploads:
    """The uploads of this auth."""

    def __init__(
        self,
        reactor: IReactorTime,
        sender: Sender,
        rows: CatalogueRows,
        landing: Landing,
        report: Callable[[StuckUpload], Awaitable[None]],
    ) -> None:
        self._reactor = reactor
        self._sender = sender
        self._rows = rows
        self._landing = landing
        self._report = report
        self._jobs: dict[str, _Job] = {}
        self._ready: dict[str, None] = {}
        self._running = 0
        self._failed: list[str] = []
        self._pause_until = 0.0
        self._timer: IDelayedCall | None = None
        self._stopped = False

    def samples(self) -> Iterator[Sample]:
        """See :class:`tele.measures.metric.Measured`."""
        stuck = {job.id for job in self._jobs.values() if job.shown} | set(self._landing.aside)
        yield catalogue.UPLOADS_STUCK.at(len(stuck))
        yield catalogue.UPLOAD_BYTES.at(sum(job.size for job in self._jobs.values()))

    async def start(self) -> None:
        """Upload what waits since before the start, and from now on what is added."""
        waiting = await self._landing.recordings()
        shown = {each.id for each in await self._rows.stuck()}
        for recording_id in waiting:
            job = self._job(recording_id)
            job.shown = recording_id in shown
            await self._recount(job)
        self._check()

    async def stop(self) -> None:
        """End all uploads."""
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for recording_id in list(self._jobs):
            await self.halt(recording_id)

    def added(self, recording_id: str, name: str, size: int) -> None:
        """A blob was stored on the disk."""
        job = self._job(recording_id)
        job.version += 1
        job.size += size
        job.urgent = job.urgent or is_urgent(name)
        self._offer(job)

    async def halt(self, recording_id: str) -> None:
        """End the upload of a recording that runs, and forget it."""
        self._ready.pop(recording_id, None)
        job = self._jobs.pop(recording_id, None)
        if job is None or job.running is None:
            return
        ended: Deferred[None] = Deferred()
        job.running.addBoth(lambda _: ended.callback(None))
        job.running.cancel()
        await ended

    async def retry(self, recording_id: str) -> None:
        """Try a recording again now. Raises :class:`NotFound` if it is not stuck."""
        was_aside = await self._landing.bring_back(recording_id)
        was_shown = await self._rows.clear_stuck(recording_id)
        job = self._jobs.get(recording_id)
        if not was_aside and not was_shown and (job is None or not job.attempts):
            raise NotFound("the upload of this recording is not stuck here")
        job = self._job(recording_id)
        job.due, job.attempts, job.shown, job.failing_since = 0.0, 0, False, None
        self._pause_until = 0.0
        self._failed.clear()
        await self._recount(job)
        self._offer(job)

    def _job(self, recording_id: str) -> _Job:
        job = self._jobs.get(recording_id)
        if job is None:
            job = self._jobs[recording_id] = _Job(recording_id, self._reactor.seconds())
        return job

    # -- turns ------------------------------------------------------------------------
    def _check(self) -> None:
        self._timer = self._reactor.callLater(CHECK_SECONDS, self._check)
        for job in list(self._jobs.values()):
            self._offer(job)

    def _offer(self, job: _Job) -> None:
        """Give a recording its turn, if it is ready."""
        if job.id not in self._landing.aside and job.is_ready(self._reactor.seconds()):
            self._ready.setdefault(job.id)
            self._start_some()

    def _start_some(self) -> None:
        most = 1 if self._failed[BUCKET_AT_FAULT - 1 :] else PARALLEL
        while self._ready and self._running < most and not self._stopped:
            if self._reactor.seconds() < self._pause_until:
                return
            recording_id = next(iter(self._ready))
            del self._ready[recording_id]
            job = self._jobs.get(recording_id)
            if job is None or job.running is not None:
                continue
            self._running += 1
            job.running = Deferred.fromCoroutine(self._run(job))
            job.running.addBoth(self._ended, job)

    def _ended(self, result: Any, job: _Job) -> None:
        self._running -= 1
        job.running = None
        if not self._stopped and self._jobs.get(job.id) is job:
            if not job.size and not job.attempts:
                del self._jobs[job.id]
            else:
                self._offer(job)
        self._start_some()

    async def _run(self, job: _Job) -> None:
        try:
            old = self._reactor.seconds() - job.since >= FLUSH_SECONDS
            await self._sender.send(job.id, everything=old or job.urgent)
            await self._succeeded(job)
        except CancelledError:
            return
        except Exception as error:
            if self._stopped or self._jobs.get(job.id) is not job:
                return
            await self._fail(job, error)

    async def _recount(self, job: _Job) -> None:
        """Count again what waits of a recording, although more may arrive meanwhile."""
        while True:
            version = job.version
            blobs = await self._landing.waiting(job.id)
            if version == job.version:
                break
        job.size = sum(size for _, size in blobs)
        job.urgent = any(is_urgent(name) for name, _ in blobs)

    async def _succeeded(self, job: _Job) -> None:
        self._failed.clear()
        if job.shown:
            await self._rows.clear_stuck(job.id)
            log.info("upload goes on", recording=job.id)
        job.attempts, job.shown, job.failing_since = 0, False, None
        job.since = self._reactor.seconds()
        await self._recount(job)

    # -- troubles ---------------------------------------------------------------------
    async def _fail(self, job: _Job, error: Exception) -> None:
        trouble, reason = _trouble_of(error)
        job.attempts += 1
        job.failing_since = job.failing_since or now(self._reactor)
        first, longest = _WAITS.get(trouble, _WAITS[Trouble.RETRY])
        job.due = self._reactor.seconds() + backoff(job.attempts - 1, first, longest)
        log.warn(
            "upload failed", recording=job.id, state=trouble.value, reason=reason,
            attempts=job.attempts,
        )  # fmt: skip
        row = stuck_upload(job.id, trouble, reason, job.failing_since, job.attempts)
        try:
            if trouble is Trouble.QUARANTINE:
                await self._landing.set_aside(job.id)
                self._jobs.pop(job.id, None)
            else:
                self._blame(job)
            news = not job.shown
            if trouble is Trouble.RETRY and job.attempts < SHOWN_AFTER and news:
                return
            job.shown = True
            await self._rows.note_stuck(row)
            if news:
                await self._report(row)
        except TeleError as problem:
            log.warn("cannot note a failed upload", recording=job.id, reason=str(problem))

    def _blame(self, job: _Job) -> None:
        """Count failures of different recordings in a row; all wait when there are several."""
        if job.id not in self._failed:
            self._failed.append(job.id)
        rounds = len(self._failed) - BUCKET_AT_FAULT
        if rounds >= 0:
            self._pause_until = self._reactor.seconds() + backoff(rounds, 2.0, 60.0)
            del self._failed[BUCKET_AT_FAULT + 8 :]


def _trouble_of(error: Exception) -> tuple[Trouble, str]:
    """Return what follows from an error, and its text."""
    if isinstance(error, BucketError):
        missing = error.trouble is Trouble.MISSING
        return Trouble.RETRY if missing else error.trouble, str(error)
    if isinstance(error, OSError):
        return Trouble.QUARANTINE, f"it cannot be read from the disk: {error.strerror}"
    if isinstance(error, ValueError):
        return Trouble.QUARANTINE, str(error)
    if not isinstance(error, TeleError):
        log.failure("upload failed by a fault of tele")
    return Trouble.RETRY, str(error) or type(error).__name__
