"""Which sessions were recorded, and where are their bytes?

Rows are in the store, written when a session starts; chunks and the manifest are in the
archive. A row is found by id (``/recordings/rows/<id>``) and by time
(``/recordings/index/<milliseconds>-<id>``).

Laws of this file:

* Only the host that started a recording writes to it.
* The same chunk again is accepted, another one under its number refused: what was
  acknowledged never changes.
* A recording is complete when a manifest is there that its host signed and that names
  exactly the chunks that are there.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Collection
from datetime import UTC, datetime

from attrs import evolve

from tele.auth.shelf import Kept, Shelf
from tele.certs.certificate import Certificate, parse_certificate
from tele.certs.check import LATEST, check_host
from tele.certs.keys import parse_line
from tele.errors import AccessDenied, BadCertificate, Conflict, InvalidInput, NotFound
from tele.interfaces import Delete, IArchive, IBackend, Put
from tele.model.api.records import RecordingDetails, RecordingProgress, UpdateRecording
from tele.model.codec import decode, encode
from tele.model.identity import HostIdentity, HostRole
from tele.model.session import Manifest, Recording, RecordingStart

MANIFEST = "manifest"
CHUNK_LIMIT = 10_000_000
_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


def chunk_name(number: int) -> str:
    """Return the archive's name of a chunk."""
    return f"{number:08d}.chunk"


class Recordings:
    """The recordings of a cluster."""

    def __init__(
        self,
        backend: IBackend,
        archive: IArchive,
        now: Callable[[], datetime],
        host_authorities: Callable[[], Collection[bytes]],
    ) -> None:
        self._backend = backend
        self._archive = archive
        self._now = now
        self._host_authorities = host_authorities
        self._rows = Shelf(backend, "/recordings/rows/", Recording)

    # -- hosts ------------------------------------------------------------------------
    async def start(self, host: HostIdentity, recording_id: str, start: RecordingStart) -> bool:
        """A session starts; returns whether this is news."""
        if not _ID.fullmatch(recording_id) or start.id != recording_id:
            raise InvalidInput("a recording's id has to be a UUID, the same in both places")
        if host.role is HostRole.NODE and start.node_id != host.host_id:
            raise AccessDenied("a node records its own sessions only", "host")
        row = Recording(
            id=recording_id,
            kind=start.kind,
            user=start.user,
            login=start.login,
            node=start.node,
            started=start.started,
            ended=None,
            interactive=False,
            size=0,
            node_id=host.host_id,
        )
        stamp = f"{int(start.started.timestamp() * 1000):015d}"
        try:
            await self._backend.commit(
                self._rows.put(recording_id, row, if_revision=0),
                Put(f"/recordings/index/{stamp}-{recording_id}", b""),
            )
        except Conflict:
            await self._own(host, recording_id)
            return False
        return True

    async def _own(self, host: HostIdentity, recording_id: str) -> Recording:
        kept = await self._rows.get(recording_id) if _ID.fullmatch(recording_id) else None
        if kept is None:
            raise NotFound("no such recording")
        if kept.value.node_id != host.host_id:
            raise AccessDenied("this is another host's recording", "host")
        return kept.value

    async def update(self, host: HostIdentity, request: UpdateRecording) -> None:
        """A session got a terminal, or ended."""
        await self._own(host, request.id)

        def changed(row: Recording | None) -> Recording:
            if row is None:
                raise NotFound("no such recording")
            return evolve(
                row,
                interactive=row.interactive or request.interactive,
                ended=row.ended or request.ended,
            )

        await self._rows.change(request.id, changed)

    async def put_chunk(
        self, host: HostIdentity, recording_id: str, number: int, data: bytes
    ) -> None:
        """Store one chunk, durably, before it is acknowledged."""
        row = await self._own(host, recording_id)
        if not 0 <= number < CHUNK_LIMIT:
            raise InvalidInput(f"a chunk's number is from 0 to {CHUNK_LIMIT - 1}")
        if row.complete:
            present = await self._archive.get(recording_id, chunk_name(number))
            if present != data:
                raise Conflict("the recording is complete")
            return
        await self._archive.put(recording_id, chunk_name(number), data)

        def counted(present: Recording | None) -> Recording:
            if present is None:
                raise NotFound("no such recording")
            if number < present.chunks:
                return present
            return evolve(present, chunks=number + 1, size=present.size + len(data))

        if number >= row.chunks:
            await self._rows.change(recording_id, counted)

    async def finish(self, host: HostIdentity, manifest: Manifest) -> bool:
        """Close a recording; returns whether this is news."""
        row = await self._own(host, manifest.id)
        data = encode(manifest)
        if row.complete:
            if await self._archive.get(manifest.id, MANIFEST) != data:
                raise Conflict("the recording is complete")
            return False
        self._check_manifest(host, manifest)
        for chunk in manifest.chunks:
            stored = await self._archive.get(manifest.id, chunk_name(chunk.number))
            if hashlib.sha256(stored).hexdigest() != chunk.sha256:
                raise InvalidInput(f"chunk {chunk.number} is not the one that the manifest names")
        await self._archive.put(manifest.id, MANIFEST, data)

        def completed(present: Recording | None) -> Recording:
            if present is None:
                raise NotFound("no such recording")
            return evolve(
                present,
                complete=True,
                ended=manifest.ended,
                interactive=manifest.interactive,
                chunks=len(manifest.chunks),
                size=sum(chunk.size for chunk in manifest.chunks),
            )

        await self._rows.change(manifest.id, completed)
        return True

    def _check_manifest(self, host: HostIdentity, manifest: Manifest) -> None:
        if [c.number for c in manifest.chunks] != list(range(len(manifest.chunks))):
            raise InvalidInput("the manifest does not number its chunks from 0 without gaps")
        try:
            certificate = parse_certificate(parse_line(manifest.host_certificate))
            # A recording may be closed long after it was made: what counts is that the
            # certificate was good when the recording ended, and whose key signed.
            checked = check_host(
                certificate,
                self._host_authorities(),
                [host.host_id],
                _within(certificate, manifest),
            )
            if checked.identity is None or checked.identity.host_id != host.host_id:
                raise BadCertificate("it is another host's certificate", "host")
            kind = certificate.key.type
            certificate.key.verify(
                manifest.signature, encode(evolve(manifest, signature=b"")), {kind}
            )
        except (BadCertificate, InvalidInput) as error:
            raise InvalidInput(f"the manifest is not signed by its host: {error}") from None

    async def progress(self, host: HostIdentity, recording_id: str) -> RecordingProgress:
        """Which chunks are stored already."""
        row = await self._own(host, recording_id)
        names = [name for name, _ in await self._archive.names(recording_id)]
        numbers = tuple(int(n.partition(".")[0]) for n in names if n.endswith(".chunk"))
        return RecordingProgress(numbers, row.complete)

    # -- people -----------------------------------------------------------------------
    async def get(self, recording_id: str) -> Recording:
        """Return a row. Raises :class:`NotFound`."""
        kept = await self._rows.get(recording_id) if _ID.fullmatch(recording_id) else None
        if kept is None:
            raise NotFound("no such recording; tele recordings ls shows them")
        return kept.value

    async def list(
        self, limit: int, after: str, wanted: Callable[[Recording], bool]
    ) -> tuple[tuple[Recording, ...], str]:
        """Return a page, newest first, of those that are ``wanted``, and how to go on."""
        prefix = "/recordings/index/"
        end = prefix + after if after else prefix[:-1] + "0"
        found: list[Recording] = []
        last = ""
        while True:
            items = await self._backend.range(prefix, end, max(limit, 50), reverse=True)
            for item in items:
                last = item.key.removeprefix(prefix)
                kept = await self._rows.get(last.partition("-")[2])
                if kept is not None and wanted(kept.value):
                    found.append(kept.value)
                    if len(found) == limit:
                        return tuple(found), last
            if len(items) < max(limit, 50):
                return tuple(found), ""
            end = prefix + last

    async def running(self) -> tuple[Recording, ...]:
        """Return the rows of sessions that have not ended, oldest first."""
        rows: list[Kept[Recording]] = list(await self._rows.list())
        open_rows = [kept.value for kept in rows if kept.value.ended is None]
        return tuple(sorted(open_rows, key=lambda row: row.started))

    async def details(self, row: Recording) -> RecordingDetails:
        """Return all that is known of a recording."""
        names = [name for name, _ in await self._archive.names(row.id)]
        manifest = None
        if MANIFEST in names:
            manifest = decode(Manifest, await self._archive.get(row.id, MANIFEST))
        return RecordingDetails(row, sum(n.endswith(".chunk") for n in names), manifest)

    async def chunk(self, row: Recording, number: int) -> bytes:
        """Return one chunk's bytes."""
        if not 0 <= number < CHUNK_LIMIT:
            raise NotFound("no such chunk")
        return await self._archive.get(row.id, chunk_name(number))

    async def delete(self, row: Recording) -> None:
        """Remove a recording that is complete, or that nobody will complete."""
        await self._archive.remove(row.id)
        stamp = f"{int(row.started.timestamp() * 1000):015d}"
        await self._backend.commit(
            self._rows.delete(row.id), Delete(f"/recordings/index/{stamp}-{row.id}")
        )


def _within(certificate: Certificate, manifest: Manifest) -> datetime:
    """The recording's end, moved into the certificate's validity if it was renewed since."""
    earliest = datetime.fromtimestamp(min(certificate.valid_after, _LATEST), UTC)
    return max(manifest.ended, earliest)


_LATEST = int(LATEST.timestamp())
