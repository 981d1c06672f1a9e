"""What do hosts write of recordings, and what does auth accept of it?

Invariants:

* Only the host that started a recording writes to it.
* Node, node name and time of receipt of a recording are auth's own knowledge.
* The same chunk again is accepted, another chunk under its number refused: an acknowledged chunk
  never changes.
* What has to be sealed is, see :mod:`tele.auth.recording_sealing`.
* A chunk's number is at most :data:`~tele.auth.manifests.MISSING_LIMIT` after the last chunk before
  which none is missing: what is missing can be listed.
* The row of a sealed recording is stored in one commit with its data keys.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Final

from attrs import evolve

from tele.auth.manifests import (
    MANIFEST,
    MISSING_LIMIT,
    check_chunks,
    check_manifest,
    check_names,
    chunk_name,
    chunk_numbers,
    lost_chunks,
)
from tele.auth.members import Member
from tele.auth.recording_claims import check_claims, check_start_date, is_id
from tele.auth.recording_keys import KeysOfRecording
from tele.auth.recording_sealing import RecordingSealing
from tele.auth.recordings import Recordings, index_keys, open_key, there
from tele.auth.repository import Versioned
from tele.errors import (
    AccessDenied,
    BadRecording,
    Conflict,
    InvalidInput,
    NotFound,
    Unavailable,
)
from tele.https.callers import counted_as
from tele.https.large_json import ITEM
from tele.interfaces import Delete, IArchive, IBackend, Put
from tele.model.api.recordings import RecordingProgress, UpdateRecording
from tele.model.codec import encode, encode_large
from tele.model.identity import HostIdentity
from tele.model.session import Manifest, Recording, RecordingStart, Session, WrappedKey
from tele.recording.proof import check_start

#: The archive's name of the wrapped data keys.
WRAPPED: Final = "keys"


class RecordingUploads:
    """What hosts call. ``host_authorities`` returns key blobs of the cluster's host authorities."""

    def __init__(
        self,
        backend: IBackend,
        archive: IArchive,
        now: Callable[[], datetime],
        host_authorities: Callable[[], Collection[bytes]],
        recordings: Recordings,
        sealing: RecordingSealing,
    ) -> None:
        self._backend = backend
        self._archive = archive
        self._now = now
        self._host_authorities = host_authorities
        self._recordings = recordings
        self.sealing = sealing

    async def start(
        self,
        host: HostIdentity,
        recording_id: str,
        start: RecordingStart,
        member: Member,
        name: str,
        keys: Sequence[WrappedKey] = (),
    ) -> bool:
        """Register a recording of ``host`` on one called ``name``; returns whether it is new.

        ``member`` is the host, ``keys`` are the wrapped data keys of the recording.
        """
        check_claims(host, recording_id, start)
        recordings = self._recordings
        if await recordings.find(recording_id) is None:
            if await recordings.was_removed(host, recording_id):
                return False
            check_start_date(start.started, self._now())
            await self.sealing.check_start(member, start.started, keys, recording_id)
        row = Recording(
            id=recording_id,
            kind=start.kind,
            user=start.user,
            login=start.login,
            node=name,
            started=start.started,
            ended=None,
            interactive=False,
            size=0,
            node_id=start.node_id,
            received=self._now(),
            recorder=start.recorder,
            recorder_id=start.recorder_id,
            mode=start.mode,
            target=start.target,
        )
        session = Session(
            recording_id, start.user, start.login, name, start.node_id, start.remote_addr,
            start.started, start.login_session, received=row.received, recorder=start.recorder,
            recorder_id=start.recorder_id,
        )  # fmt: skip
        try:
            await self._backend.commit(
                recordings.rows.put(recording_id, row, if_revision=0),
                *recordings.keys.first(recording_id, keys),
                *recordings.sessions.start(session),
                Put(open_key(row), b""),
                *(Put(key, b"") for key in index_keys(row)),
            )
        except Conflict:
            known = await self._own(host, recording_id)
            try:
                check_start(known, start, start.node)
            except BadRecording as error:
                raise Conflict(f"the recording was started before: {error}") from None
            await self._add_keys(known, keys)
            if known.incomplete:
                await recordings.reopen(session)
            return False
        recordings.sessions.started(session)
        return True

    async def _add_keys(self, row: Recording, keys: Sequence[WrappedKey]) -> None:
        if not keys or await self._recordings.is_closed(row):
            return
        if not row.chunks or await self._recordings.keys.numbers(row.id):
            await self._recordings.keys.add(row.id, keys)
            return
        raise Conflict("the recording was started before without data keys")

    async def _own(self, host: HostIdentity, recording_id: str) -> Recording:
        row = await self._recordings.find(recording_id)
        if row is None:
            raise NotFound("no such recording")
        return _of_host(host, row)

    async def update(self, host: HostIdentity, request: UpdateRecording) -> None:
        """Note that a session has a terminal, or has ended."""
        await self._own(host, request.id)
        moment = self._now()

        def changed(present: Recording | None) -> Recording:
            row = there(present)
            ended = request.ended and max(row.started, min(request.ended, moment))
            return evolve(
                row,
                interactive=row.interactive or (request.interactive and not row.complete),
                ended=row.ended or ended,
            )

        await self._recordings.rows.change(request.id, changed)
        if request.ended is not None:
            await self._recordings.sessions.end(request.id)
        elif request.interactive:
            await self._recordings.sessions.mark_interactive(request.id)

    async def entries(self, recording_ids: Sequence[str]) -> dict[str, Versioned[Recording]]:
        """Return rows of recordings with one read, as :meth:`put_chunk` takes them.

        What is not there or cannot be read is left out: it is an error of its own chunks.
        """
        try:
            found = await self._recordings.rows.get_many([i for i in recording_ids if is_id(i)])
        except Unavailable:
            return {}
        return {entry.name: entry for entry in found}

    async def put_chunk(
        self,
        host: HostIdentity,
        recording_id: str,
        number: int,
        data: bytes,
        entry: Versioned[Recording] | None = None,
    ) -> Versioned[Recording]:
        """Store one chunk, durably, before it is acknowledged; returns its recording's row.

        ``entry`` is the row as it was read, or as the call for the chunk before returned it.
        """
        if entry is None and is_id(recording_id):
            entry = await self._recordings.rows.get(recording_id)
        if entry is None:
            raise NotFound("no such recording")
        row = _of_host(host, entry.value)
        if await self._recordings.is_closed(row):
            try:
                present = await self._archive.get(recording_id, chunk_name(number))
            except NotFound:
                present = None
            if present != data:
                raise Conflict("the recording is closed")
            return entry
        if number > row.chunks + MISSING_LIMIT:
            raise InvalidInput(f"chunk {number} is too far from chunk {row.chunks}, which is next")
        await self.sealing.check_chunk(recording_id, number, data)
        await self._archive.put(recording_id, chunk_name(number), data)

        def counted(present: Recording | None) -> Recording:
            row = there(present)
            if number != row.chunks:
                return row
            return evolve(row, chunks=number + 1, size=row.size + len(data))

        if number == row.chunks:  # chunks come in order; the manifest corrects other cases
            return await self._recordings.rows.change_known(entry, counted)
        return entry

    async def finish(
        self, host: HostIdentity, manifest: Manifest, missing: tuple[int, ...] = ()
    ) -> bool:
        """Close a recording with its manifest; returns whether it was open.

        ``missing`` chunks, which are lost, make it incomplete.
        """
        row = await self._own(host, manifest.id)
        large, key = self._recordings.large, counted_as(host)
        size = len(manifest.chunks) * ITEM
        data = await large.call(key, size, encode_large, manifest)
        if await self._recordings.is_closed(row):
            if await self._archive.get(manifest.id, MANIFEST) != data:
                raise Conflict("the recording is closed")
            if row.complete or row.incomplete:
                return False
        await large.call(
            key, size, check_manifest, manifest, row, host.cluster, self._host_authorities(),
            self._now(),
        )  # fmt: skip
        await self.sealing.check_manifest(manifest)
        names = [name for name, _ in await self._archive.names(manifest.id)]
        await large.call(key, size, check_names, names, manifest, missing)
        size = await check_chunks(self._archive, manifest, missing)
        if manifest.keys:
            # So that the archive has all that a recovery key needs. What is wrapped later is in
            # the store alone.
            keys = KeysOfRecording(await self._recordings.keys.wrapped(manifest.id))
            with suppress(Conflict):
                await self._archive.put(manifest.id, WRAPPED, encode(keys))
        await self._archive.put(manifest.id, MANIFEST, data)
        incomplete = lost_chunks(missing)

        def closed(present: Recording | None) -> Recording:
            return evolve(
                there(present),
                complete=not incomplete,
                incomplete=incomplete,
                ended=manifest.ended,
                interactive=manifest.interactive,
                chunks=len(manifest.chunks),
                size=size,
            )

        await self._recordings.rows.change(manifest.id, closed)
        await self._recordings.sessions.end(manifest.id)
        indexes = self._recordings.indexes
        waits = () if indexes is None else (indexes.wait(row),)
        await self._backend.commit(Delete(open_key(row)), *waits)
        if indexes is not None:
            indexes.check()
        return True

    async def progress(self, host: HostIdentity, recording_id: str) -> RecordingProgress:
        """Return which chunks are stored."""
        if await self._recordings.was_removed(host, recording_id):
            return RecordingProgress((), complete=False, closed=True)
        row = await self._own(host, recording_id)
        names = [name for name, _ in await self._archive.names(recording_id)]
        closed = bool(row.incomplete) and MANIFEST in names
        return RecordingProgress(tuple(chunk_numbers(names)), row.complete, closed)

    async def own_chunk(self, host: HostIdentity, recording_id: str, number: int) -> bytes:
        """Return a chunk of an open recording to the node that sent it, to resume after it.

        Closed recordings are refused: the node may be in other hands by now.
        """
        row = await self._own(host, recording_id)
        if await self._recordings.is_closed(row):
            raise AccessDenied("the recording is closed", "host")
        return await self._recordings.chunk(row, number)


def _of_host(host: HostIdentity, row: Recording) -> Recording:
    """Return a row that is of a recording of ``host``. Raises :class:`AccessDenied`."""
    if row.recorded_by != host.place:
        raise AccessDenied("this is another host's recording", "host")
    return row
