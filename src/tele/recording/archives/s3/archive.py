"""How does auth keep recordings in a bucket? On its own disk first, then in the bucket.

Invariants:

* A blob is acknowledged when it is synced on the disk, or known to be in the bucket; it stays on
  the disk until it is there.
* What is read from the bucket is compared with the digest of what was stored; but a part of an
  index, which proves nothing.
* Blobs are found by rows of the store; no bucket is listed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

from attrs import frozen
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from zope.interface import implementer

from tele.errors import Conflict, NotFound, Unavailable
from tele.interfaces import IBackend, IOnDisk, IRangeArchive, IUploadingArchive
from tele.measures.metric import Sample
from tele.model.disk import DiskSpace
from tele.model.stuck import StuckUpload
from tele.recording.archives.s3.bucket import Bucket
from tele.recording.archives.s3.catalogue import CatalogueRows, Place
from tele.recording.archives.s3.credentials import CredentialChain
from tele.recording.archives.s3.errors import BucketError, Trouble
from tele.recording.archives.s3.landing import Landing
from tele.recording.archives.s3.location import Location
from tele.recording.archives.s3.packs import pack_key
from tele.recording.archives.s3.sender import Sender
from tele.recording.archives.s3.transport import HttpTransport
from tele.recording.archives.s3.uploads import Uploads

#: Blobs that may be written again; the last one counts.
REPLACED: Final = frozenset(("index", "keys"))


@frozen
class _Running:
    """What exists between start and stop."""

    bucket: Bucket
    rows: CatalogueRows
    sender: Sender
    uploads: Uploads


@implementer(IUploadingArchive, IRangeArchive, IOnDisk)
class S3Archive:
    """Keeps recordings in ``location``, and until they are there below ``folder``."""

    def __init__(
        self,
        reactor: IReactorTime,
        location: Location,
        folder: Path,
        transport: HttpTransport | None = None,
    ) -> None:
        self._reactor = reactor
        self._location = location
        self._landing = Landing(folder, reactor)
        self._transport = transport or HttpTransport(reactor, location)
        self._parts: _Running | None = None

    def start(
        self, backend: IBackend, owner: str, report: Callable[[StuckUpload], Deferred[None]]
    ) -> Deferred[None]:
        """See :class:`IUploadingArchive`."""
        bucket = Bucket(
            self._reactor,
            self._location,
            self._transport,
            CredentialChain(self._reactor, self._location.region),
        )
        rows = CatalogueRows(backend, owner)
        sender = Sender(self._reactor, bucket, rows, self._landing)
        uploads = Uploads(self._reactor, sender, rows, self._landing, report)
        self._parts = _Running(bucket, rows, sender, uploads)
        return Deferred.fromCoroutine(uploads.start())

    def stop(self) -> Deferred[None]:
        """See :class:`IUploadingArchive`. May be called twice, and before :meth:`start`."""

        async def stop() -> None:
            parts, self._parts = self._parts, None
            if parts is not None:
                await parts.uploads.stop()
                await parts.bucket.close()

        return Deferred.fromCoroutine(stop())

    def stuck(self) -> Deferred[Sequence[StuckUpload]]:
        """See :class:`IUploadingArchive`."""
        return Deferred.fromCoroutine(self._now().rows.stuck())

    def retry(self, recording_id: str) -> Deferred[None]:
        """See :class:`IUploadingArchive`."""
        return Deferred.fromCoroutine(self._now().uploads.retry(recording_id))

    def samples(self) -> Iterator[Sample]:
        """See :class:`tele.measures.metric.Measured`."""
        if self._parts is not None:
            yield from self._parts.uploads.samples()

    def space(self) -> DiskSpace:
        """See :class:`IOnDisk`: of the disk on which blobs wait."""
        return self._landing.space()

    def _now(self) -> _Running:
        if self._parts is None:
            raise Unavailable("the archive is not running")
        return self._parts

    # -- blobs ------------------------------------------------------------------------
    def put(self, recording_id: str, name: str, data: bytes) -> Deferred[None]:
        """See :class:`IArchive`."""

        async def put() -> None:
            parts = self._now()
            place = (await parts.rows.places(recording_id)).get(name)
            if place is not None:
                if place.entry.sha256 == hashlib.sha256(data).hexdigest():
                    return
                if name not in REPLACED:
                    raise Conflict("this part of the recording is there already, and differs")
            await self._landing.put(recording_id, name, data)
            parts.uploads.added(recording_id, name, len(data))

        return Deferred.fromCoroutine(put())

    def get(self, recording_id: str, name: str) -> Deferred[bytes]:
        """See :class:`IArchive`."""

        async def get() -> bytes:
            parts = self._now()
            for _ in range(2):  # it may leave the disk between the two questions
                here = await self._landing.get(recording_id, name)
                if here is not None:
                    return here
                place = (await parts.rows.places(recording_id)).get(name)
                if place is not None:
                    return await _read(parts.bucket, recording_id, place)
            raise NotFound("the archive has no such recording or part of it")

        return Deferred.fromCoroutine(get())

    def get_range(self, recording_id: str, name: str, start: int, end: int) -> Deferred[bytes]:
        """See :class:`IRangeArchive`: of what is in the bucket no more is read than that."""

        async def get() -> bytes:
            parts = self._now()
            here = await self._landing.get(recording_id, name)
            if here is None and name in REPLACED:
                place = (await parts.rows.places(recording_id)).get(name)
                if place is not None:
                    return await _read_part(parts.bucket, recording_id, place, start, end)
            whole: bytes = await self.get(recording_id, name) if here is None else here
            return whole[start : max(start, end)]

        return Deferred.fromCoroutine(get())

    def names(self, recording_id: str) -> Deferred[Sequence[tuple[str, int]]]:
        """See :class:`IArchive`."""

        async def names() -> Sequence[tuple[str, int]]:
            # In this order: what leaves the disk meanwhile is in both.
            here = await self._landing.names(recording_id)
            places = await self._now().rows.places(recording_id)
            found = {name: place.entry.size for name, place in places.items()}
            return sorted({**found, **dict(here)}.items())

        return Deferred.fromCoroutine(names())

    def remove(self, recording_id: str) -> Deferred[None]:
        """See :class:`IArchive`."""

        async def remove() -> None:
            parts = self._now()
            await parts.uploads.halt(recording_id)
            await parts.sender.remove(recording_id)
            await self._landing.remove(recording_id)
            await parts.rows.clear_stuck(recording_id)

        return Deferred.fromCoroutine(remove())


async def _read_part(
    bucket: Bucket, recording_id: str, place: Place, start: int, end: int
) -> bytes:
    entry = place.entry
    size = min(end, entry.size) - start
    if size <= 0:
        return b""
    try:
        return await bucket.get(pack_key(recording_id, place.pack), entry.offset + start, size)
    except BucketError as error:
        if error.trouble is Trouble.MISSING:
            raise NotFound(f"{entry.name} is not in the bucket any more") from None
        raise


async def _read(bucket: Bucket, recording_id: str, place: Place) -> bytes:
    entry = place.entry
    if not entry.size:
        return b""
    try:
        data = await bucket.get(pack_key(recording_id, place.pack), entry.offset, entry.size)
    except BucketError as error:
        if error.trouble is Trouble.MISSING:
            raise NotFound(f"{entry.name} is not in the bucket any more") from None
        raise
    if hashlib.sha256(data).hexdigest() != entry.sha256:
        raise Unavailable(f"{entry.name} in the bucket is not what was stored there")
    return data
