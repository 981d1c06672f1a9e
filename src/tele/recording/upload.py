"""How does a recording get from the spool to auth?

While the session runs, chunk by chunk; after any outage from where auth says it is.

Laws of this file:

* Every step may be repeated. Nothing leaves the spool before auth has the manifest.
* One broken recording stops no other; what auth refuses for good is put aside and said.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from tele.errors import (
    AccessDenied,
    BadRecording,
    Conflict,
    InvalidInput,
    NotFound,
    TeleError,
)
from tele.interfaces import IAuthority
from tele.loop import backoff, make_logger
from tele.model.api import table
from tele.model.api.members import ById
from tele.model.api.records import (
    FinishRecording,
    PutChunk,
    RecordingProgress,
    StartRecording,
    UpdateRecording,
)
from tele.recording.spool import Spool, SpoolFolder

log = make_logger(__name__)

AT_ONCE: Final = 4
#: How long to wait after a no: asking again changes nothing soon, and each is in the audit.
DENIED_PAUSE: Final = 120.0
_FOR_GOOD: Final = (InvalidInput, Conflict, BadRecording)


def _is_final(error: TeleError) -> bool:
    """Whether auth refuses the recording itself, not the host for now: removed, or locked."""
    if isinstance(error, AccessDenied):
        return error.reason == "host"
    return isinstance(error, _FOR_GOOD)


class _Progress:
    """What auth has of one recording."""

    def __init__(self) -> None:
        self.started = False
        self.next = 0
        self.interactive = False
        self.ended = False
        self.failures = 0
        self.running = False
        self.again = False
        self.timer: IDelayedCall | None = None


class Uploader:
    """Uploads what is in ``spool`` through ``authority``. :meth:`changed` when there is more.

    ``removed(id)`` is told what has left the spool.
    """

    def __init__(
        self,
        spool: Spool,
        authority: IAuthority,
        clock: IReactorTime,
        removed: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._removed = removed
        self._spool = spool
        self._authority: Any = authority
        self._clock = clock
        self._known: dict[str, _Progress] = {}
        self._running = 0
        self._waiting: dict[str, None] = {}
        self._stopped = False

    def start(self) -> None:
        """Begin with everything that is in the spool."""
        for folder in self._spool.folders():
            self.changed(folder.id)

    def stop(self) -> None:
        """Begin nothing more."""
        self._stopped = True
        self._waiting.clear()
        for progress in self._known.values():
            if progress.timer is not None:
                progress.timer.cancel()
                progress.timer = None

    def changed(self, recording_id: str) -> None:
        """There is more of this recording."""
        if self._stopped:
            return
        progress = self._known.setdefault(recording_id, _Progress())
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
        folder = self._spool.folder(recording_id)
        progress.again = False
        try:
            if await self._upload(folder, progress):
                folder.remove()
                del self._known[recording_id]
                self._removed(recording_id)
            progress.failures = 0
        except TeleError as error:
            # One that is being written cannot be moved away yet.
            if _is_final(error) and folder.is_closed:
                self._refused(folder, error)
            else:
                self._try_later(recording_id, progress, error)
        except OSError as error:
            self._try_later(recording_id, progress, error)
        except Exception:
            log.failure("uploading {name} failed", name=recording_id)
            self._try_later(recording_id, progress, None)
        finally:
            progress.running = False
            self._running -= 1
        if progress.again and recording_id in self._known:
            self.changed(recording_id)
        self._next()

    def _try_later(self, recording_id: str, progress: _Progress, error: Exception | None) -> None:
        if progress.failures == 0:
            log.warn("{name} is uploaded later: {why!s}", name=recording_id, why=error)
        wait = backoff(progress.failures)
        if isinstance(error, AccessDenied):
            wait += DENIED_PAUSE
        progress.failures += 1
        progress.again = False
        progress.started = False  # auth is asked anew what it has
        if self._stopped:
            return

        def again() -> None:
            progress.timer = None
            self.changed(recording_id)

        progress.timer = self._clock.callLater(wait, again)

    def _refused(self, folder: SpoolFolder, error: Exception) -> None:
        self._known.pop(folder.id, None)
        if not folder.path.exists():
            return
        kept = self._spool.put_aside(folder)
        log.error(
            "auth refuses recording {name}: {why!s}; it is kept in {path}",
            name=folder.id, why=error, path=kept,
        )  # fmt: skip

    async def _upload(self, folder: SpoolFolder, progress: _Progress) -> bool:
        """Send what is new; returns whether auth has all of it and it may be removed."""
        perform = self._authority.perform
        if not progress.started:
            await perform(table.START_RECORDING, StartRecording(folder.id, folder.start))
            known: RecordingProgress = await perform(table.RECORDING_PROGRESS, ById(folder.id))
            if known.complete:
                return True
            there = set(known.chunks)
            progress.next = next(n for n in range(len(there) + 1) if n not in there)
            progress.started = True
        if folder.interactive and not progress.interactive:
            await perform(table.UPDATE_RECORDING, UpdateRecording(folder.id, interactive=True))
            progress.interactive = True
        manifest = folder.manifest  # read before the chunks: it is written after them
        numbers = [number for number in folder.numbers() if number >= progress.next]
        if manifest is not None and not progress.ended and len(numbers) > 1:
            # It takes a while: until then nobody shall think that the session runs.
            await perform(table.UPDATE_RECORDING, UpdateRecording(folder.id, ended=manifest.ended))
            progress.ended = True
        for number in numbers:
            await perform(table.PUT_CHUNK, PutChunk(folder.id, number, folder.chunk(number)))
            progress.next = number + 1
        if manifest is None:
            return False
        try:
            await perform(table.FINISH_RECORDING, FinishRecording(folder.id, manifest))
        except NotFound:
            progress.next = 0  # auth lost a chunk that it had acknowledged: send all again
            raise
        return True
