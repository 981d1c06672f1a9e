"""When are the indexes of recordings made, and what if that fails?

A closed recording that waits for its index is under ``/recordings/unindexed/<id>``, one that has
failed for good under ``/recordings/unindexable/<id>``, with the reason.

Invariants:

* A recording waits from the commit that closes it, so no restart forgets it; one of an older
  version, when its index is first asked for.
* One index is made at a time. The others wait in the store, oldest id first, and cost nothing.
* An attempt that fails is made again later, at last with tele's own terminal; after
  :data:`ATTEMPTS` there is no index, and the recording is played without.
* Several auths share the work: an attempt is claimed in the store, for as long as it may take.
* What is made for a recording that was removed meanwhile is removed again.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any, Final

from attrs import evolve, frozen
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime

from tele.auth.manifests import MANIFEST, chunk_name
from tele.auth.repository import Repository, Versioned
from tele.errors import BadRecording, Conflict, NotFound, TeleError
from tele.interfaces import Delete, IArchive, IBackend, IRangeArchive, Put
from tele.log import make_logger
from tele.loop import now
from tele.model.api.operation import Octets
from tele.model.api.recordings import IndexState
from tele.model.codec import decode
from tele.model.session import Manifest, Recording
from tele.recording.indexing import Indexer, MadeIndex, describe, library
from tele.tape.index import HEAD_SIZE, blob_size, head_tag
from tele.wakeup import Wakeup

log: Final = make_logger(__name__)

INDEX: Final = "index"
WAITING: Final = "/recordings/unindexed/"
FAILED: Final = "/recordings/unindexable/"
#: Attempts, and the seconds after each of them before the next one.
RETRY_SECONDS: Final = (60.0, 600.0, 3600.0)
ATTEMPTS: Final = len(RETRY_SECONDS) + 1
#: How long an attempt is claimed: an auth that stops in the middle leaves it to another.
CLAIM: Final = timedelta(minutes=30)
#: How often what waits is read, and how many with one call.
POLL_SECONDS: Final = 60.0
PAGE: Final = 100
#: Seconds without work after each index, for everything else on auth's machine.
PAUSE_SECONDS: Final = 0.2


@frozen
class Unindexed:
    """A recording that waits for its index: how often it failed, why, and until when it waits."""

    attempts: int = 0
    due: datetime | None = None
    reason: str = ""


class _Sealed(BadRecording):
    """The archive must not have what a sealed recording shows."""


class RecordingIndexes:
    """Makes the indexes of ``archive``; ``find(id)`` returns a recording's row.

    ``made(row, index)`` is called with each index before it counts as made, ``removed(id)`` if the
    recording was removed meanwhile.
    """

    def __init__(
        self,
        backend: IBackend,
        archive: IArchive,
        clock: IReactorTime,
        indexer: Indexer,
        find: Callable[[str], Awaitable[Recording | None]],
        made: Callable[[Recording, MadeIndex], Awaitable[None]] | None = None,
        removed: Callable[[str], Awaitable[None]] | None = None,
    ) -> None:
        self._backend = backend
        self._archive = archive
        self._clock = clock
        self._indexer = indexer
        self._find = find
        self._made = made
        self._removed = removed
        self._waiting = Repository(backend, WAITING, Unindexed)
        self._failed = Repository(backend, FAILED, Unindexed)
        self._wakeup = Wakeup(clock)
        self._loop: Deferred[None] | None = None
        self._stopped = False

    # -- what waits -----------------------------------------------------------------------
    def wait(self, recording_id: str) -> Put:
        """Return the change by which a recording waits for its index; :meth:`check` follows."""
        return self._waiting.put(recording_id, Unindexed())

    def forget(self, recording_id: str) -> tuple[Delete, ...]:
        """Return the changes with the removal of a recording."""
        return self._waiting.delete(recording_id), self._failed.delete(recording_id)

    def check(self) -> None:
        """Look for what waits now."""
        self._wakeup.set()

    async def state(self, recording_id: str) -> tuple[IndexState, str]:
        """Return whether a recording without an index will have one, and why not."""
        if (entry := await self._waiting.get(recording_id)) is not None:
            return IndexState.WAITING, entry.value.reason
        if (entry := await self._failed.get(recording_id)) is not None:
            return IndexState.FAILED, entry.value.reason
        return IndexState.NONE, ""

    async def part(self, row: Recording, start: int, end: int, if_range: str) -> Octets:
        """Return the index, or a part of it, see :class:`~tele.model.api.recordings.GetIndex`.

        Raises :class:`NotFound`; a closed recording that never waited for its index does now.
        """
        try:
            head = await self._range(row.id, 0, HEAD_SIZE)
        except NotFound:
            raise NotFound(await self._why_not(row)) from None
        total, tag = blob_size(head), head_tag(head)
        if if_range not in ("", tag):
            start, end = 0, 0
        first = max(0, total + start) if start < 0 else min(start, total)
        last = min(end or total, total)
        data = await self._range(row.id, first, last) if last > first else b""
        return Octets(data, first, total, tag)

    async def _range(self, recording_id: str, start: int, end: int) -> bytes:
        archive: Any = IRangeArchive(self._archive, None)
        if archive is not None:
            part: bytes = await archive.get_range(recording_id, INDEX, start, end)
            return part
        return (await self._archive.get(recording_id, INDEX))[start:end]

    async def _why_not(self, row: Recording) -> str:
        state, reason = await self.state(row.id)
        if state is IndexState.FAILED:
            return f"the recording has no index: {reason}"
        if state is IndexState.NONE and (row.complete or row.incomplete):
            if row.incomplete and MANIFEST not in await self._names(row.id):
                return "the recording has no index: it was closed without a manifest"
            await self._backend.commit(self.wait(row.id))
            self.check()
        elif state is IndexState.NONE:
            return "the recording has no index yet: it is not complete"
        return "the index of the recording is being made; try again later"

    async def _names(self, recording_id: str) -> list[str]:
        return [name for name, _ in await self._archive.names(recording_id)]

    # -- the loop -------------------------------------------------------------------------
    def start(self) -> None:
        """Begin to make indexes."""
        self._loop = Deferred.fromCoroutine(self._run())

    async def stop(self) -> None:
        """End: what is being made is made again after the next start."""
        self._stopped = True
        loop, self._loop = self._loop, None
        if loop is not None:
            ended: Deferred[None] = Deferred()
            loop.addBoth(lambda _: ended.callback(None))
            self._indexer.kill()
            loop.cancel()
            await ended
        await self._indexer.close()

    async def _run(self) -> None:
        while not self._stopped:
            try:
                worked = await self._next()
            except CancelledError:
                return
            except TeleError as error:
                log.warn("cannot read which recordings wait for an index", error=str(error))
                worked = False
            with suppress(CancelledError):
                await self._wakeup.wait(PAUSE_SECONDS if worked else POLL_SECONDS)

    async def _next(self) -> bool:
        """Make the index of the first recording that is due; returns whether there was one."""
        after = ""
        while page := await self._waiting.list(PAGE, after):
            for entry in page:
                if entry.value.due is None or entry.value.due <= now(self._clock):
                    await self._attempt(entry)
                    return True
            after = page[-1].name
        return False

    async def _attempt(self, entry: Versioned[Unindexed]) -> None:
        attempts = entry.value.attempts
        claimed = evolve(entry.value, attempts=attempts + 1, due=now(self._clock) + CLAIM)
        try:
            await self._backend.commit(self._waiting.put(entry.name, claimed, entry.revision))
        except Conflict:
            return  # another auth makes it
        terminal = library() if attempts < ATTEMPTS - 1 else "own"
        try:
            await self._make(entry.name, terminal)
        except NotFound:
            await self._gone(entry.name)
        except _Sealed as error:
            await self._again(entry.name, Unindexed(ATTEMPTS, None, str(error)))
        except (TeleError, OSError) as error:
            await self._again(entry.name, evolve(claimed, reason=str(error)[:500]))
        else:
            await self._backend.commit(self._waiting.delete(entry.name))

    async def _gone(self, recording_id: str) -> None:
        """The recording, or a part of it, is not there: it was removed, or is damaged."""
        if await self._find(recording_id) is not None:
            failed = Unindexed(ATTEMPTS, None, "a part of it is not in the archive")
            await self._again(recording_id, failed)
            return
        await self._backend.commit(*self.forget(recording_id))

    async def _again(self, recording_id: str, entry: Unindexed) -> None:
        """Try again later, or never."""
        log.warn(
            "the index of a recording was not made",
            recording=recording_id, attempts=entry.attempts, error=entry.reason,
        )  # fmt: skip
        if entry.attempts >= ATTEMPTS:
            failed = self._failed.put(recording_id, evolve(entry, due=None))
            await self._backend.commit(self._waiting.delete(recording_id), failed)
            return
        due = now(self._clock) + timedelta(seconds=RETRY_SECONDS[entry.attempts - 1])
        await self._backend.commit(self._waiting.put(recording_id, evolve(entry, due=due)))

    async def _make(self, recording_id: str, terminal: str) -> None:
        row = await self._find(recording_id)
        if row is None:
            raise NotFound("the recording was removed")
        names = await self._names(recording_id)
        if MANIFEST not in names:
            raise BadRecording("it was closed without a manifest")
        manifest = decode(Manifest, await self._archive.get(recording_id, MANIFEST))
        if manifest.keys:
            raise _Sealed("it is sealed, and its index would not be")
        missing = {each.number for each in manifest.chunks if chunk_name(each.number) not in names}
        made = await self._indexer.make(
            self._archive, recording_id, manifest.chunks, missing, chunk_name, terminal
        )
        if self._made is not None:
            await self._made(row, made)
        with suppress(Conflict):  # there is one, made by another version
            await self._archive.put(recording_id, INDEX, made.blob)
        if await self._find(recording_id) is None:
            await self._archive.remove(recording_id)
            if self._removed is not None:
                await self._removed(recording_id)
            raise NotFound("the recording was removed")
        log.info("index made", recording=recording_id, terminal=terminal, **describe(made))
