"""When are the indexes of recordings made, and what if that fails?

A closed recording that waits for its index is under ``/recordings/unindexed/<id>``, one that has
failed for good under ``/recordings/unindexable/<id>``, with the reason.

Invariants:

* A recording waits from the commit that closes it, so no restart forgets it; one of an older
  version, when its index is first asked for.
* One index is made at a time. The others wait in the store, and cost nothing. First comes one of
  the host, and then of the user on it, for which the least time was spent since the start: one of
  many, or of expensive ones, delays others by one at most.
* An attempt that fails is made again later, at last with tele's own terminal; after
  :data:`ATTEMPTS` there is no index, and the recording is played without.
* Several auths share the work: an attempt is claimed in the store, for as long as it may take.
* What is made for a recording that was removed meanwhile is removed again.
* The index of a sealed recording is sealed for those who can open the recording, and its text is
  stored for the search only if the cluster says so (:mod:`tele.auth.sealed_texts` removes it).
* An index that is damaged, or another recording's, is made again (:mod:`tele.auth.index_blobs`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from functools import partial
from os import urandom
from typing import Final

from attrs import evolve, field, frozen
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime

from tele.auth.host_places import place_key
from tele.auth.index_blobs import INDEX as INDEX
from tele.auth.index_blobs import IndexBlobs, is_index
from tele.auth.manifests import MANIFEST, chunk_name, chunk_numbers
from tele.auth.recording_keys import RecordingKeys
from tele.auth.repository import Repository, Versioned
from tele.errors import BadRecording, Conflict, NotFound, TeleError
from tele.https.large_json import LargeJson
from tele.interfaces import Delete, IArchive, IBackend, Put
from tele.log import make_logger
from tele.loop import now
from tele.model.api.operation import Octets
from tele.model.api.recordings import IndexState
from tele.model.bounds import OMITTED
from tele.model.codec import decode
from tele.model.session import ChunkDigest, Manifest, Recording
from tele.recording.index_program import MadeIndex, library
from tele.recording.indexing import Indexer, describe
from tele.tape.index import HEAD_SIZE, blob_size, head_tag
from tele.tape.sealed_index import seal_index
from tele.tape.sealing import opener
from tele.wakeup import Wakeup

log: Final = make_logger(__name__)

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
#: How many of those without an index are counted.
COUNTED: Final = 1000
#: Of how many that are due one is chosen; users on hosts whose time is counted.
LOOKED_AT: Final = 2000
SPENT_LIMIT: Final = 10_000
#: Seconds without work after each index, for everything else on auth's machine.
PAUSE_SECONDS: Final = 0.2


_BEING_MADE: Final = "the index of the recording is being made; try again later"


@frozen
class Unindexed:
    """A recording that waits for its index: how often it failed, why, and until when it waits.

    ``host`` is the place of the host that recorded it, ``user`` whose session it is of.
    ``opened``: it has one, which is to be compared first.
    """

    attempts: int = 0
    due: datetime | None = None
    reason: str = ""
    host: str = ""
    user: str = ""
    opened: bool = field(default=False, metadata=OMITTED)


def _keys(entry: Unindexed) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return what time is counted for: the host, which cannot choose it, and the user there."""
    return (entry.host,), (entry.host, entry.user)


class _Never(BadRecording):
    """No attempt will succeed."""


class RecordingIndexes:
    """Makes the indexes of ``archive``; ``find(id)`` returns a recording's row.

    ``made(row, index)`` is called with each index before it counts as made, ``removed(id)`` if the
    recording was removed meanwhile. ``keys`` opens those that are sealed.
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
        keys: RecordingKeys | None = None,
        large: LargeJson | None = None,
    ) -> None:
        self._large = large or LargeJson()
        self._keys = keys or RecordingKeys(backend)
        self._blobs = IndexBlobs(backend, archive, clock, indexer)
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
        #: Seconds that were spent for hosts, and for users on a host.
        self._spent: dict[tuple[str, ...], float] = {}
        #: Behind which id what waits is looked for.
        self._after = ""

    # -- what waits -----------------------------------------------------------------------
    def wait(self, row: Recording) -> Put:
        """Return the change by which a recording waits for its index; :meth:`check` follows."""
        waiting = Unindexed(host=place_key(row.recorded_by), user=row.user)
        return self._waiting.put(row.id, waiting)

    def forget(self, recording_id: str) -> tuple[Delete, ...]:
        """Return the changes with the removal of a recording."""
        waits, failed = self._waiting.delete(recording_id), self._failed.delete(recording_id)
        return waits, failed, self._blobs.forget(recording_id)

    def check(self) -> None:
        """Look for what waits now."""
        self._wakeup.set()

    async def state(self, recording_id: str, names: Sequence[str]) -> tuple[IndexState, str]:
        """Return whether a recording has an index or will have one, and why not.

        ``names`` are those of its blobs.
        """
        ready = any(map(is_index, names))
        if (entry := await self._waiting.get(recording_id)) is not None:
            if not (ready and entry.value.opened):
                return IndexState.WAITING, entry.value.reason
        elif not ready and (entry := await self._failed.get(recording_id)) is not None:
            return IndexState.FAILED, entry.value.reason
        return IndexState.READY if ready else IndexState.NONE, ""

    async def without(self) -> tuple[int, int]:
        """Return how many closed recordings wait for their index, and how many get none.

        More than :data:`COUNTED` are so many.
        """
        waiting = await _count(self._waiting, lambda entry: not entry.opened)
        return waiting, await _count(self._failed, lambda _: True)

    async def part(self, row: Recording, start: int, end: int, if_range: str) -> Octets:
        """Return the index, or a part of it, see :class:`~tele.model.api.recordings.GetIndex`.

        Raises :class:`NotFound`; a closed recording that never waited for its index does now.
        """
        try:
            head = await self._blobs.part(row.id, 0, HEAD_SIZE)
            total, tag = blob_size(head), head_tag(head)
        except NotFound:
            raise NotFound(await self._why_not(row)) from None
        except BadRecording:
            await self._suspect(row)
            raise NotFound(_BEING_MADE) from None
        if start == 0 and self._blobs.is_due(row.id):
            await self._suspect(row)
        if if_range not in ("", tag):
            start, end = 0, 0
        first = max(0, total + start) if start < 0 else min(start, total)
        last = min(end or total, total)
        data = await self._blobs.part(row.id, first, last) if last > first else b""
        if len(data) != max(0, last - first):
            await self._suspect(row)
            raise NotFound(_BEING_MADE)
        return Octets(data, first, total, tag)

    async def _suspect(self, row: Recording) -> None:
        """Have an index compared soon with what was stored."""
        entry = Unindexed(host=place_key(row.recorded_by), user=row.user, opened=True)
        with suppress(Conflict):  # it waits already
            waits = self._waiting.put(row.id, entry, if_revision=0)
            await self._backend.commit(waits)
        self.check()

    async def _why_not(self, row: Recording) -> str:
        state, reason = await self.state(row.id, await self._names(row.id))
        if state is IndexState.FAILED:
            return f"the recording has no index: {reason}"
        if state is IndexState.NONE and (row.complete or row.incomplete):
            await self._backend.commit(self.wait(row))
            self.check()
        elif state is IndexState.NONE:
            return "the recording has no index yet: it is not closed"
        return _BEING_MADE

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
            except Exception:
                log.failure("recordings wait for their index")
                worked = False
            with suppress(CancelledError):
                await self._wakeup.wait(PAUSE_SECONDS if worked else POLL_SECONDS)

    async def _next(self) -> bool:
        """Make the index of a recording that is due; returns whether there was one."""
        due = await self._due(self._after)
        if self._after and len(due) < LOOKED_AT:
            due += [entry for entry in await self._due("") if entry.name <= self._after]
        if not due:
            return False
        self._after = due[-1].name
        chosen = min(due, key=lambda entry: self._spent_for(entry.value))
        began = self._clock.seconds()
        try:
            await self._attempt(chosen)
        finally:
            spent = self._clock.seconds() - began
            for key in _keys(chosen.value):
                self._spent[key] = self._spent.get(key, 0.0) + spent
            if len(self._spent) > SPENT_LIMIT:  # hosts are as many as there are members
                self._spent = {key: value for key, value in self._spent.items() if not key[1:]}
        return True

    async def _due(self, after: str) -> list[Versioned[Unindexed]]:
        """Return recordings that are due, in order of their ids, some of them if they are many."""
        found: list[Versioned[Unindexed]] = []
        moment = now(self._clock)
        while len(found) < LOOKED_AT and (page := await self._waiting.list(PAGE, after)):
            found += [e for e in page if e.value.due is None or e.value.due <= moment]
            after = page[-1].name
        return found

    def _spent_for(self, entry: Unindexed) -> tuple[float, ...]:
        return tuple(self._spent.get(key, 0.0) for key in _keys(entry))

    async def _attempt(self, entry: Versioned[Unindexed]) -> None:
        attempts = entry.value.attempts
        claimed = evolve(entry.value, attempts=attempts + 1, due=now(self._clock) + CLAIM)
        try:
            await self._backend.commit(self._waiting.put(entry.name, claimed, entry.revision))
        except Conflict:
            return  # another auth makes it
        terminal = library() if attempts < ATTEMPTS - 1 else "own"
        try:
            if entry.value.opened and await self._blobs.is_good(entry.name):
                await self._backend.commit(self._waiting.delete(entry.name))
                return
            stored = await self._make(entry.name, terminal)
        except NotFound:
            await self._gone(entry.name)
        except _Never as error:
            await self._again(entry.name, Unindexed(ATTEMPTS, None, str(error)))
        except (TeleError, OSError) as error:
            await self._again(entry.name, evolve(claimed, reason=str(error)[:500]))
        except CancelledError:
            raise
        except Exception:
            log.failure("index of a recording not made", recording=entry.name)
            reason = "auth could not make it; its log has more"
            await self._again(entry.name, evolve(claimed, reason=reason))
        else:
            waits, failed, _ = self.forget(entry.name)
            await self._backend.commit(waits, failed, stored)

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

    async def _make(self, recording_id: str, terminal: str) -> Put:
        """Make and store an index; returns the change by which it counts."""
        row = await self._find(recording_id)
        if row is None:
            raise NotFound("the recording was removed")
        names = await self._names(recording_id)
        chunks = await self._chunks(row, names)
        missing = {each.number for each in chunks if chunk_name(each.number) not in names}
        try:
            secrets = await self._keys.opened(recording_id)
        except NotFound as error:  # another auth may have its key, or gives it to this one
            raise BadRecording(str(error)) from None
        made = await self._indexer.make(
            self._archive, recording_id, chunks, missing, chunk_name, terminal,
            opener(secrets), _seal(recording_id, secrets),
        )  # fmt: skip
        if self._made is not None and (not secrets or self._keys.searchable):
            await self._made(row, made)
        stored = await self._blobs.store(recording_id, names, made.blob)
        if await self._find(recording_id) is None:
            await self._archive.remove(recording_id)
            if self._removed is not None:
                await self._removed(recording_id)
            raise NotFound("the recording was removed")
        log.info("index made", recording=recording_id, terminal=terminal, **describe(made))
        return stored

    async def _chunks(self, row: Recording, names: Sequence[str]) -> Sequence[ChunkDigest]:
        """Return the chunks of a recording; without a manifest their digests are empty."""
        if MANIFEST in names:
            data = await self._archive.get(row.id, MANIFEST)
            manifest: Manifest = await self._large.call("", len(data), decode, Manifest, data)
            return manifest.chunks
        if not (row.complete or row.incomplete):
            raise _Never("it is not closed")  # it was, but its host continues it
        numbers = chunk_numbers(names)
        if not numbers:
            raise _Never("nothing of it has arrived")
        return [ChunkDigest(number, 0, "") for number in numbers]


async def _count(entries: Repository[Unindexed], counts: Callable[[Unindexed], bool]) -> int:
    page = await entries.list(COUNTED)
    return sum(counts(entry.value) for entry in page)


def _seal(recording_id: str, secrets: Mapping[int, bytes]) -> Callable[[bytes], bytes] | None:
    """Return what seals an index with a data key of its recording, if there is one."""
    if not secrets:
        return None
    number = min(secrets)
    return partial(
        seal_index, number=number, secret=secrets[number], recording_id=recording_id,
        entropy=urandom,
    )  # fmt: skip
