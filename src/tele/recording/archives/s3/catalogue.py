"""Which blobs are in the bucket, in which object, and who may add to them? Rows of the store.

``/archive/packs/<recording>/<sha256>`` is a pack, written before it is sent, so that whatever
reaches the bucket is known; ``/archive/owner/<recording>`` a lease. ``/archive/stuck/<recording>``
says why an upload does not go on.

Invariants:

* What is in the bucket is known from here, never from a listing.
* A pack is written down as stored after it is, and its blobs are then read from it.
* Packs of a recording are added by the owner of its lease alone. A lease ends by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

from attrs import evolve, frozen

from tele.errors import Conflict, InvalidInput, Unavailable
from tele.interfaces import Delete, IBackend, Put
from tele.model.codec import decode, encode
from tele.model.stuck import StuckUpload
from tele.recording.archives.s3.errors import BucketError, Trouble
from tele.recording.archives.s3.packs import Entry, Pack

PACKS: Final = "/archive/packs/"
OWNER: Final = "/archive/owner/"
STUCK: Final = "/archive/stuck/"
LEASE: Final = timedelta(seconds=60)


@frozen
class Place:
    """A blob in a pack."""

    pack: Pack
    entry: Entry


class CatalogueRows:
    """The rows in ``backend``. ``owner`` names this auth: the same one after a restart."""

    def __init__(self, backend: IBackend, owner: str) -> None:
        self._backend = backend
        self._owner = owner.encode()

    async def packs(self, recording_id: str) -> Sequence[Pack]:
        """Return the packs of a recording, in order, stored or not."""
        prefix = f"{PACKS}{recording_id}/"
        items = await self._backend.range(prefix, prefix[:-1] + "0")
        try:
            packs = [decode(Pack, item.value) for item in items]
        except InvalidInput as error:
            raise Unavailable(f"a row of the archive cannot be read: {error}") from None
        return sorted(packs, key=lambda pack: pack.number)

    async def places(self, recording_id: str) -> dict[str, Place]:
        """Return where each blob is that is stored; of several of one name the latest."""
        return {
            entry.name: Place(pack, entry)
            for pack in await self.packs(recording_id)
            if pack.stored
            for entry in pack.entries
        }

    async def note(self, recording_id: str, pack: Pack) -> None:
        """Write a pack down."""
        await self._backend.commit(Put(f"{PACKS}{recording_id}/{pack.sha256}", encode(pack)))

    async def note_stored(self, recording_id: str, pack: Pack) -> Pack:
        """Write down that a pack is in the bucket."""
        done = evolve(pack, stored=True, upload="")
        await self.note(recording_id, done)
        return done

    async def forget(self, recording_id: str, *packs: Pack) -> None:
        """Remove packs from the rows: they are not in the bucket any more."""
        if packs:
            await self._backend.commit(
                *(Delete(f"{PACKS}{recording_id}/{pack.sha256}") for pack in packs)
            )

    # -- leases -----------------------------------------------------------------------
    async def acquire(self, recording_id: str) -> None:
        """Own a recording for :data:`LEASE` from now on, or longer. Raises :class:`BucketError`."""
        key = OWNER + recording_id
        item = await self._backend.get(key)
        if item is not None and item.value != self._owner:
            raise BucketError("another auth is uploading this recording", Trouble.RETRY)
        try:
            await self._backend.commit(
                Put(key, self._owner, 0 if item is None else item.revision, LEASE)
            )
        except Conflict:
            raise BucketError("another auth is uploading this recording", Trouble.RETRY) from None

    async def release(self, recording_id: str) -> None:
        """Own a recording no longer."""
        item = await self._backend.get(OWNER + recording_id)
        if item is not None and item.value == self._owner:
            await self._backend.commit(Delete(OWNER + recording_id))

    # -- troubles ---------------------------------------------------------------------
    async def stuck(self) -> Sequence[StuckUpload]:
        """Return uploads that do not go on, of all auths."""
        items = await self._backend.range(STUCK, STUCK[:-1] + "0")
        return [decode(StuckUpload, item.value) for item in items]

    async def note_stuck(self, upload: StuckUpload) -> None:
        """Write down why an upload does not go on."""
        await self._backend.commit(Put(STUCK + upload.id, encode(upload)))

    async def clear_stuck(self, recording_id: str) -> bool:
        """Forget it; returns whether there was one."""
        key = STUCK + recording_id
        if await self._backend.get(key) is None:
            return False
        await self._backend.commit(Delete(key))
        return True


def stuck_upload(
    recording_id: str, trouble: Trouble, reason: str, since: datetime, attempts: int
) -> StuckUpload:
    """Return the row of an upload that failed."""
    state = "retry" if trouble is Trouble.MISSING else trouble.value
    return StuckUpload(recording_id, state, reason[:512], since, attempts)
