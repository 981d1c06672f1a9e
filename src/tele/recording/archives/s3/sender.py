"""How does what waits of one recording get into the bucket?

Invariants:

* Only the owner of the recording's lease sends.
* A pack is written down before it is sent, and as stored after its size in the bucket was seen. So
  a killed auth sends the same pack again, or takes back what it began.
* The catalogue of a generation is in the bucket before the pack that ends it counts as stored.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Final

from attrs import evolve
from twisted.internet.interfaces import IReactorTime

from tele.errors import TeleError
from tele.model.codec import encode
from tele.recording.archives.s3.bucket import Bucket
from tele.recording.archives.s3.catalogue import LEASE, CatalogueRows
from tele.recording.archives.s3.errors import BucketError, Trouble
from tele.recording.archives.s3.landing import Landing
from tele.recording.archives.s3.packs import (
    CLOSING,
    PACK_AT,
    PART_SIZE,
    Catalogue,
    Pack,
    catalogue_key,
    choose,
    measure,
    pack_key,
    read_span,
)

_RENEW: Final = LEASE.total_seconds() / 4


class Sender:
    """Sends packs from ``landing`` to ``bucket``."""

    def __init__(
        self, reactor: IReactorTime, bucket: Bucket, rows: CatalogueRows, landing: Landing
    ) -> None:
        self._reactor = reactor
        self._bucket = bucket
        self._rows = rows
        self._landing = landing

    async def send(self, recording_id: str, *, everything: bool) -> None:
        """Send what makes good packs, or ``everything``; what is closed is always sent.

        Raises :class:`BucketError`, other :class:`TeleError`, OSError and ``ValueError`` for a file
        that has changed.
        """
        await self._rows.acquire(recording_id)
        try:
            await self._finish_begun(recording_id)
            while pack := await self._next(recording_id, everything):
                await self._send(recording_id, pack)
        finally:
            with suppress(TeleError):  # it ends by itself
                await self._rows.release(recording_id)

    async def remove(self, recording_id: str) -> None:
        """Delete all objects of a recording, and forget them."""
        await self._rows.acquire(recording_id)
        packs = await self._rows.packs(recording_id)
        for pack in packs:
            await self._take_back(recording_id, pack)
        for generation in range(1, 1 + max((pack.generation for pack in packs), default=0)):
            await self._bucket.delete(catalogue_key(recording_id, generation))
        await self._rows.forget(recording_id, *packs)
        await self._rows.release(recording_id)

    async def _take_back(self, recording_id: str, pack: Pack) -> None:
        key = pack_key(recording_id, pack)
        if pack.upload:
            await self._bucket.abort(key, pack.upload)
        await self._bucket.delete(key)

    async def _finish_begun(self, recording_id: str) -> None:
        """Do what an auth that was stopped or killed did not finish."""
        packs = await self._rows.packs(recording_id)
        if not packs:
            return
        sizes = dict(await self._landing.waiting(recording_id))
        for pack in packs:
            names = [entry.name for entry in pack.entries]
            if not sizes.keys() & set(names):
                if not pack.stored:
                    await self._take_back(recording_id, pack)
                    await self._rows.forget(recording_id, pack)
                continue
            is_same = [sizes.get(entry.name) == entry.size for entry in pack.entries]
            if pack.stored:
                await self._discard_stored(recording_id, pack)
            elif all(is_same) and await self._is_same(recording_id, pack):
                await self._send(recording_id, pack)
            else:
                await self._take_back(recording_id, pack)
                await self._rows.forget(recording_id, pack)

    async def _is_same(self, recording_id: str, pack: Pack) -> bool:
        folder = self._landing.folder(recording_id)
        names = [entry.name for entry in pack.entries]
        again: Pack = await self._landing.in_thread(
            measure, folder, names, pack.generation, pack.number
        )
        return again.entries == pack.entries

    async def _discard_stored(self, recording_id: str, pack: Pack) -> None:
        """Remove files that are in the bucket, and stayed when auth was killed."""
        folder = self._landing.folder(recording_id)
        for entry in pack.entries:
            try:
                again: Pack = await self._landing.in_thread(measure, folder, [entry.name], 0, 0)
            except FileNotFoundError:
                continue
            if again.entries[0].sha256 == entry.sha256:
                await self._landing.discard(recording_id, [entry.name])

    async def _next(self, recording_id: str, everything: bool) -> Pack | None:
        """Return the next pack, written down; None if the rest waits for more."""
        blobs = await self._landing.waiting(recording_id)
        chosen = choose(blobs, CLOSING)
        closes = any(name == CLOSING for name, _ in blobs)
        if not chosen or not (closes or everything or sum(size for _, size in chosen) >= PACK_AT):
            return None
        packs = await self._rows.packs(recording_id)
        ended = [pack.generation for pack in packs if _ends(pack)]
        pack: Pack = await self._landing.in_thread(
            measure,
            self._landing.folder(recording_id),
            [name for name, _ in chosen],
            1 + max(ended, default=0),
            1 + max((pack.number for pack in packs), default=-1),
        )
        await self._rows.note(recording_id, pack)
        return pack

    async def _send(self, recording_id: str, pack: Pack) -> None:
        key = pack_key(recording_id, pack)
        if pack.size <= PART_SIZE:
            await self._bucket.put(key, await self._span(recording_id, pack, 0, pack.size))
        else:
            pack = await self._send_parts(recording_id, pack)
        if await self._bucket.size(key) != pack.size:
            raise BucketError("an object is not as large as what was sent", Trouble.RETRY)
        packs = [p for p in await self._rows.packs(recording_id) if p.generation == pack.generation]
        if _ends(pack) or pack.generation > 1:
            done = tuple(
                evolve(each, stored=True, upload="")
                for each in packs
                if each.stored or each.sha256 == pack.sha256
            )
            catalogue = Catalogue(recording_id, pack.generation, done)
            await self._bucket.put(catalogue_key(recording_id, pack.generation), encode(catalogue))
        await self._rows.acquire(recording_id)  # still
        await self._rows.note_stored(recording_id, pack)
        await self._landing.discard(recording_id, [entry.name for entry in pack.entries])

    async def _send_parts(self, recording_id: str, pack: Pack) -> Pack:
        key = pack_key(recording_id, pack)
        if pack.upload:
            await self._bucket.abort(key, pack.upload)
        upload = await self._bucket.begin(key)
        pack = evolve(pack, upload=upload)
        await self._rows.note(recording_id, pack)
        tags: list[str] = []
        renewed = self._reactor.seconds()
        for first in range(0, pack.size, PART_SIZE):
            if self._reactor.seconds() - renewed >= _RENEW:
                await self._rows.acquire(recording_id)
                renewed = self._reactor.seconds()
            size = min(PART_SIZE, pack.size - first)
            data = await self._span(recording_id, pack, first, size)
            tags.append(await self._bucket.put_part(key, upload, len(tags) + 1, data))
        try:
            await self._bucket.complete(key, upload, tags)
        except BucketError as error:
            # A repeated request finds that the first one was carried out.
            if error.trouble is not Trouble.MISSING or await self._bucket.size(key) != pack.size:
                raise
        return pack

    async def _span(self, recording_id: str, pack: Pack, first: int, size: int) -> bytes:
        folder = self._landing.folder(recording_id)
        data: bytes = await self._landing.in_thread(read_span, folder, pack, first, size)
        if len(data) != size:
            raise ValueError("a part of a recording has changed on the disk")
        return data


def _ends(pack: Pack) -> bool:
    """Whether a pack ends its generation."""
    return pack.entries[-1].name == CLOSING
