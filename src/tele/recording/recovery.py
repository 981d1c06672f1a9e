"""How is a recording closed whose recorder was killed, or lost power?

Its end is written after the chunks in the spool and at auth. Cases after a power cut:

* A chunk is missing or torn in the spool, and auth has it: nothing is lost. It is read from auth,
  for its entry in the manifest.
* Neither has it, and no later chunk was acknowledged: it was never acknowledged either. The
  recording ends before it; later chunks in the spool follow a gap frame.
* Neither has it, and auth has a later one, or had acknowledged it: it is lost. The manifest names
  it, and auth closes the recording as incomplete.
* ``start.json`` is missing or unreadable: the first frame has the same data. If that is missing,
  too, there is nothing to sign, and the recording is reported to auth as given up.
* There is no folder: auth lists the sessions that it believes to run here; they are closed alike.
* Its frames have no numbers: it is of an earlier version, and is finished in that version.
* A manifest that is unreadable, or that names a chunk differently, is written again. Other
  unreadable files are ignored.

Invariants:

* Nothing is written before auth was asked: two recoveries never make two ends of a recording.
* A chunk that auth acknowledged is always in the manifest.
"""

from __future__ import annotations

from datetime import timedelta
from functools import partial
from typing import Final

from attrs import frozen

from tele.errors import BadRecording, InvalidInput, NotFound
from tele.interfaces import IAuthority
from tele.log import make_logger
from tele.loop import now
from tele.model.api.operation import Octets
from tele.model.api.paging import ById
from tele.model.api.recordings import (
    GET_CHUNK,
    RECORDING_PROGRESS,
    START_RECORDING,
    UPDATE_RECORDING,
    GetChunk,
    RecordingProgress,
    StartRecording,
    UpdateRecording,
)
from tele.model.session import Manifest, RecordingStart
from tele.recording.leftovers import Chain, Left, follow, rest, survey
from tele.recording.recorder import TapeRecorder
from tele.recording.spool import SpoolFolder
from tele.tape.layout import NO_CHUNK, Chunk
from tele.tape.verify import VERSION, WITHOUT_NUMBERS, read_start
from tele.tape.writer import TapeWriter
from tele.workers import SerialWorker

log = make_logger(__name__)

GIVEN_UP: Final = "its node stopped before anything of it was on the disk"


@frozen
class Recovery:
    """Closes recordings that an earlier process of ``recorder`` left."""

    recorder: TapeRecorder
    authority: IAuthority
    worker: SerialWorker

    async def close(self, folder: SpoolFolder) -> bool:
        """Close one; return whether there is something to upload. Raises TeleError or OSError.

        If there is nothing to upload, the folder is removed.
        """
        perform = self.authority.perform
        call = self.worker.call
        start = await call(_start, folder)
        try:
            if start is not None:
                keys = await call(lambda: folder.keys)
                await perform(START_RECORDING, StartRecording(folder.id, start, keys.wrapped))
            known: RecordingProgress = await perform(RECORDING_PROGRESS, ById(folder.id))
        except NotFound:  # a session that never began
            await call(_remove, folder)
            return False
        if known.complete or known.closed:
            await call(_remove, folder)
            return False

        async def fetch(number: int) -> bytes:
            octets: Octets = await perform(GET_CHUNK, GetChunk(folder.id, number))
            return octets.data

        if start is None and 0 in known.chunks:
            start = _first(await call(folder.open_chunk, await fetch(0), 0))
        if start is None:
            ended = now(self.recorder.clock)
            given_up = UpdateRecording(folder.id, ended=ended, incomplete=GIVEN_UP)
            await perform(UPDATE_RECORDING, given_up)
            await call(_remove, folder)
            log.error("recording given up", recording_id=folder.id, error=GIVEN_UP)
            return False
        # The file may be missing; on a full disk it is written in the reserved space.
        await call(self.recorder.spool.reserve.spend, partial(folder.write_start, start))
        left = await call(survey, folder)
        there = frozenset(known.chunks)
        if left.manifest is not None and _is_whole(left.manifest, left, there):
            return True
        chain = await follow(left, there, fetch, folder.open_chunk)
        await call(self._put_end, folder, start, left, chain)
        self.recorder.commit.soon()
        log.info("recording closed after a crash", recording_id=folder.id)
        return True

    def _put_end(
        self, folder: SpoolFolder, start: RecordingStart, left: Left, chain: Chain
    ) -> None:
        """In a thread: write what is missing, and sign. May raise OSError or TeleError."""
        spend = self.recorder.spool.reserve.spend
        for number in _useless(left, chain):
            folder.discard_chunk(number)
        frames = chain.frames
        keys = folder.keys
        numbered = chain.is_numbered
        if numbered is None:
            numbered = left.is_numbered is not False
        if not chain.finished:
            previous = chain.previous or NO_CHUNK
            writer = TapeWriter(
                chain.next, previous, chain.sequence, numbered=numbered, seal=keys.seal
            )
            for named, data in rest(writer, start, folder, left, chain):
                spend(partial(folder.write_chunk, named.number, data))
                chain.digests.append(named)
            frames += writer.frames
            chain.sequence = writer.sequence
        for number in left.chunks:
            if number >= chain.next:
                folder.discard_chunk(number)  # its frames were copied to those before
        manifest = Manifest(
            id=start.id,
            version=VERSION if numbered else WITHOUT_NUMBERS,
            start=start,
            ended=max(
                now(self.recorder.clock), start.started + timedelta(microseconds=chain.time // 1000)
            ),
            chunks=tuple(chain.digests),
            frames=frames,
            interactive=left.interactive or chain.interactive,
            recovered=True,
            host_certificate="",
            sequence=chain.sequence if numbered else 0,
            keys=len(keys.keys),
        )
        signed = self.recorder.signed(manifest)
        spend(lambda: folder.write_manifest(signed))


def _is_whole(manifest: Manifest, left: Left, there: frozenset[int]) -> bool:
    """Whether each chunk that a manifest names is in the spool, or at auth, or was there."""
    if left.torn:
        return False
    for named in manifest.chunks:
        here, before = left.chunks.get(named.number), left.acknowledged.get(named.number)
        if here is not None and here.known.digest != named:
            return False
        if here is None and before is None and named.number not in there:
            return False
    return True


def _useless(left: Left, chain: Chain) -> list[int]:
    """Return the chunks of the spool that are torn, or not part of the sequence."""
    others = [
        number
        for number, here in left.chunks.items()
        if number < chain.next and here.known.digest != chain.digests[number]
    ]
    return [*left.torn, *others]


def _start(folder: SpoolFolder) -> RecordingStart | None:
    """In a thread: return its session; None if the spool does not have it any more."""
    try:
        return folder.start
    except (FileNotFoundError, InvalidInput):
        frame = folder.first_frame()
        try:
            return None if frame is None else read_start(frame)
        except BadRecording:
            return None


def _first(chunk: Chunk) -> RecordingStart:
    for frame in chunk.frames():
        return read_start(frame)
    raise BadRecording("its first chunk is empty")


def _remove(folder: SpoolFolder) -> None:
    if folder.path.exists():
        folder.remove()
