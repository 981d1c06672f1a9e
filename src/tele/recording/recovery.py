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
* A manifest that is unreadable, or that names a chunk differently, is written again. Other
  unreadable files are ignored.

Invariants:

* Nothing is written before auth was asked: two recoveries never make two ends of a recording.
* A chunk that auth acknowledged is always in the manifest.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterator, Mapping
from datetime import timedelta
from functools import partial
from typing import Final

from attrs import define, field, frozen

from tele.errors import BadRecording, InvalidInput, NotFound
from tele.interfaces import IAuthority
from tele.log import make_logger
from tele.loop import now
from tele.model.api.paging import ById
from tele.model.api.recordings import (
    GET_CHUNK,
    RECORDING_PROGRESS,
    START_RECORDING,
    UPDATE_RECORDING,
    GetChunk,
    Octets,
    RecordingProgress,
    StartRecording,
    UpdateRecording,
)
from tele.model.codec import encode
from tele.model.frame import Frame, FrameKind
from tele.model.session import ChunkDigest, Manifest, RecordingStart
from tele.recording.recorder import TapeRecorder
from tele.recording.spool import SpoolFolder, Stored, stored
from tele.tape.layout import NO_CHUNK, Chunk, read_chunk
from tele.tape.verify import VERSION, read_start
from tele.tape.writer import Packed, TapeWriter
from tele.workers import SerialWorker

log = make_logger(__name__)

STOPPED: Final = "the recorder ended before the session"
NOT_WRITTEN: Final = "the machine stopped before it was on the disk"
GIVEN_UP: Final = "its node stopped before anything of it was on the disk"


@frozen
class Here:
    """A chunk that is in the spool and can be read."""

    known: Stored
    previous: bytes
    terminal: bool


@frozen
class Left:
    """What the spool has of a recording: readable chunks, numbers of torn ones, and summaries of
    those that auth acknowledged.
    """

    chunks: Mapping[int, Here]
    torn: tuple[int, ...]
    acknowledged: Mapping[int, Stored]
    interactive: bool
    manifest: Manifest | None


def survey(folder: SpoolFolder) -> Left:
    """In a thread: read the spool, one chunk at a time. May raise OSError."""
    folder.repair()
    chunks: dict[int, Here] = {}
    torn: list[int] = []
    for number in folder.numbers():
        chunk = folder.read(number)
        if chunk is None:
            torn.append(number)
        else:
            chunks[number] = _here(*chunk)
    return Left(chunks, tuple(torn), folder.acknowledged(), folder.interactive, folder.manifest)


def _here(chunk: Chunk, known: Stored) -> Here:
    return Here(known, chunk.previous, any(_is_terminal(frame) for frame in chunk.frames()))


@define
class Chain:
    """The chunks of a recording in sequence. ``previous`` is None after a chunk whose digest is not
    known.
    """

    digests: list[ChunkDigest] = field(factory=list)
    previous: bytes | None = NO_CHUNK
    frames: int = 0
    time: int = 0
    finished: bool = False
    interactive: bool = False

    @property
    def next(self) -> int:
        """The number of the next chunk."""
        return len(self.digests)

    def read(self, here: Here) -> None:
        """Append a chunk from the spool or from auth; it has the digest of the one before."""
        if self.previous is None:
            before = self.digests[-1]
            self.digests[-1] = ChunkDigest(before.number, before.size, here.previous.hex())
        self.interactive = self.interactive or here.terminal
        self.known(here.known)

    def known(self, known: Stored, *, there: bool = True) -> None:
        """Append a chunk that auth has, or had."""
        self.digests.append(known.digest)
        self.previous = bytes.fromhex(known.digest.sha256)
        self.frames += known.frames if there else 0
        self.time = max(self.time, known.time)
        self.finished = known.last

    def lost(self) -> None:
        """Append a chunk of which nothing is known."""
        self.digests.append(ChunkDigest(self.next, 0, ""))
        self.previous = None


async def follow(
    left: Left, there: frozenset[int], fetch: Callable[[int], Awaitable[bytes]]
) -> Chain:
    """Return the sequence of chunks; auth has those in ``there``, and ``fetch`` reads one.

    Raises :class:`BadRecording` if a chunk at auth cannot be read.
    """
    chain = Chain()
    top = max((*there, *left.acknowledged), default=-1)
    while not chain.finished:
        number = chain.next
        here = left.chunks.get(number)
        if here is not None and chain.previous in (None, here.previous):
            chain.read(here)
        elif number in left.acknowledged:
            chain.known(left.acknowledged[number], there=number in there)
        elif number in there:
            data = await fetch(number)
            chunk = read_chunk(data, number, chain.previous)
            chain.read(_here(chunk, stored(chunk, len(data))))
        elif number < top:
            chain.lost()
        else:
            break
    return chain


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
                await perform(START_RECORDING, StartRecording(folder.id, start))
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
            start = _first(read_chunk(await fetch(0), 0))
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
        chain = await follow(left, there, fetch)
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
        if not chain.finished:
            writer = TapeWriter(chain.next, chain.previous or NO_CHUNK)
            for named, data in _rest(writer, start, folder, left, chain):
                spend(partial(folder.write_chunk, named.number, data))
                chain.digests.append(named)
            frames += writer.frames
        for number in left.chunks:
            if number >= chain.next:
                folder.discard_chunk(number)  # its frames were copied to those before
        manifest = Manifest(
            id=start.id,
            version=VERSION,
            start=start,
            ended=max(
                now(self.recorder.clock), start.started + timedelta(microseconds=chain.time // 1000)
            ),
            chunks=tuple(chain.digests),
            frames=frames,
            interactive=left.interactive or chain.interactive,
            recovered=True,
            host_certificate="",
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


def _rest(
    writer: TapeWriter, start: RecordingStart, folder: SpoolFolder, left: Left, chain: Chain
) -> Iterator[Packed]:
    """Yield the chunks that end a recording: frames of later chunks, after a gap, and END.

    Each is written before the next is made. It never overwrites a chunk that is not read yet, since
    it holds the frames of at least one later chunk.
    """
    first = chain.next
    if first == 0:  # the first frame is missing, too
        writer.add(Frame(0, 0, FrameKind.START, encode(start)))
    later = sorted(number for number in left.chunks if number >= first)
    if later or any(number >= first for number in left.torn):
        body = json.dumps({"lost": {}, "reason": NOT_WRITTEN}).encode()
        writer.add(Frame(chain.time, 0, FrameKind.GAP, body))
    for number in later:
        found = folder.read(number)
        for frame in () if found is None else found[0].frames():
            if frame.time > chain.time and frame.kind not in (FrameKind.START, FrameKind.END):
                writer.add(frame)
        here = left.chunks[number]
        chain.time = max(chain.time, here.known.time)
        chain.interactive = chain.interactive or here.terminal
        if writer.is_full and (cut := writer.cut()) is not None:
            yield cut
    writer.add(Frame(chain.time, 0, FrameKind.END, json.dumps({"reason": STOPPED}).encode()))
    end = writer.cut(last=True)
    if end is not None:
        yield end


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


def _is_terminal(frame: Frame) -> bool:
    """Whether a frame opens a channel that has a terminal."""
    if frame.kind is not FrameKind.OPEN:
        return False
    try:
        opened = json.loads(frame.data)
    except ValueError:
        return False
    return isinstance(opened, dict) and bool(opened.get("pty"))
