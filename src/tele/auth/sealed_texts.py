"""Is the text of sealed recordings still there, although the cluster does not keep it any more?

Invariants:

* While auth runs without ``searchable``, nothing is added (:mod:`tele.auth.recording_indexes`), and
  what an earlier process kept is removed, trigrams included, after the start.
* It is done once (``/recordings/texts-removed``), in steps between which other calls run, and again
  until it has succeeded.
"""

from __future__ import annotations

from typing import Final

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

from tele.auth.recording_keys import RecordingKeys
from tele.auth.recording_texts import RecordingTexts
from tele.errors import TeleError
from tele.interfaces import Delete, IBackend, Put
from tele.log import make_logger

log = make_logger(__name__)

REMOVED: Final = "/recordings/texts-removed"
#: Seconds after a failure, and after each step.
RETRY_SECONDS: Final = 600.0
_PAUSE: Final = 0.02


class SealedTexts:
    """Removes from ``texts`` what sealed recordings show, unless it is to be kept."""

    def __init__(
        self, backend: IBackend, keys: RecordingKeys, texts: RecordingTexts, clock: IReactorTime
    ) -> None:
        self._backend = backend
        self._keys = keys
        self._texts = texts
        self._clock = clock
        self._work: Deferred[None] | None = None

    async def start(self) -> None:
        """Begin to remove; or note that text is kept from now on, before any is."""
        if self._keys.searchable:
            if await self._backend.get(REMOVED) is not None:
                await self._backend.commit(Delete(REMOVED))
            return
        self._work = Deferred.fromCoroutine(self._until_done())

    async def stop(self) -> None:
        """End; what is left is removed after the next start."""
        work, self._work = self._work, None
        if work is not None:
            ended: Deferred[None] = Deferred()
            work.addBoth(lambda _: ended.callback(None))
            work.cancel()
            await ended

    async def _until_done(self) -> None:
        while True:
            try:
                await self._remove_all()
                return
            except CancelledError:
                return
            except TeleError as error:
                log.warn("text of sealed recordings was not removed", reason=str(error))
            except Exception:
                log.failure("text of sealed recordings was not removed")
            try:
                await deferLater(self._clock, RETRY_SECONDS)
            except CancelledError:
                return

    async def _remove_all(self) -> None:
        if await self._backend.get(REMOVED) is not None:
            return
        removed, after = 0, ""
        while ids := await self._keys.sealed(after):
            for each in ids:
                await self._texts.remove(each)
            removed += len(ids)
            after = ids[-1]
            await deferLater(self._clock, _PAUSE)
        if removed:
            await self._texts.scrub()
            log.info("sealed recordings cannot be searched any more", recordings=removed)
        await self._backend.commit(Put(REMOVED, b""))
