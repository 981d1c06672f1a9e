"""How is a recording read back: from auth, from a file, from a folder?

Invariants:

* Every frame that is shown was checked: the chain, the manifest, and that it belongs to the
  session that was requested. The signature is checked by :meth:`Source.verify`.
* A file has the parts that docs/protocols/tape names, in that order, and no others.
* Nothing here waits or writes: it yields frames, and the time to wait between them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any, BinaryIO, Final

from attrs import frozen

from tele.errors import BadRecording, InvalidInput, NotFound, quoted
from tele.model.api.paging import ById
from tele.model.api.recordings import (
    GET_CHUNK,
    GET_RECORDING,
    GET_RECORDING_KEYS,
    GetChunk,
    RecordingDetails,
)
from tele.model.codec import decode, encode
from tele.model.frame import Frame, FrameKind
from tele.model.session import Manifest, RecordingStart, RecordingState, WrappedKey
from tele.recording.proof import check_end, check_signer, check_start, claimed_name
from tele.tape.details import is_forward
from tele.tape.exports.summary import opens_terminal
from tele.tape.file import read_file
from tele.tape.layout import Chunk, read_chunk
from tele.tape.sealing import opener, unwrap
from tele.tape.verify import OpenChunk, Verdict, read_frames, read_start, verify

#: Forms of :meth:`Source.rendered`: text, JSON lines, asciicast (``cast`` is version 2).
FORMS: Final = ("text", "json", "cast", "cast2", "cast3")
#: How the reason of a recording begins that was closed with lost chunks.
LOST: Final = "chunks are lost: "

Perform = Callable[[Any, Any], Any]
#: Returns data keys by their numbers.
Secrets = Callable[[], Mapping[int, bytes]]


@frozen
class FileKeys:
    """The part ``keys`` of a file: the data keys of a sealed recording, wrapped."""

    wrapped: tuple[WrappedKey, ...]


@frozen
class Source:
    """A recording to be read. ``chunks()`` may be called again and again.

    ``details`` come from auth; a file has none. ``missing`` are the numbers of the chunks that are
    known to be lost: no others may be missing. ``keys`` are the wrapped data keys of a sealed
    recording, whose chunks ``open_chunk`` reads; ``secrets()`` are those that are open here.
    """

    id: str
    start: RecordingStart
    manifest: Manifest | None
    chunks: Callable[[], Iterator[bytes]]
    details: RecordingDetails | None = None
    missing: tuple[int, ...] = ()
    keys: tuple[WrappedKey, ...] = ()
    open_chunk: OpenChunk = read_chunk
    secrets: Secrets = dict

    @property
    def state(self) -> RecordingState:
        """The state of the recording; a file without a manifest is unfinished."""
        if self.details is not None:
            return self.details.state
        if self.manifest is None:
            return RecordingState.UNFINISHED
        return RecordingState.INCOMPLETE if self.missing else RecordingState.COMPLETE

    @property
    def lost(self) -> str:
        """The chunks that are lost, as text; empty if none are."""
        return lost_text(self.details, self.missing)

    @property
    def length(self) -> float | None:
        """How long the session was, in seconds; None while it is not closed."""
        if self.manifest is None:
            return None
        return max((self.manifest.ended - self.start.started).total_seconds(), 0.0)

    def frames(self) -> Iterator[Frame]:
        """Yield its frames, checked. Raises :class:`BadRecording` where it was changed."""
        return read_frames(self.chunks(), self.manifest, self.start, self.missing, self.open_chunk)

    def verify(self, host_authorities: Collection[bytes], cluster: str) -> Verdict:
        """Check all of it, for ``cluster`` with these host authorities (SSH key blobs).

        Raises :class:`BadRecording` saying what is wrong with it.
        """

        def check_manifest(manifest: Manifest) -> None:
            signer = check_signer(manifest, host_authorities, cluster)
            if self.details is None:
                return
            check_start(self.details.recording, manifest.start, signer.name)
            check_end(self.details.recording, manifest, self.missing)
            if self.details.available != len(manifest.chunks) - len(self.missing):
                raise BadRecording(
                    f"{self.details.available} chunks are in the archive, its manifest names"
                    f" {len(manifest.chunks)}"
                )

        if self.start.cluster != cluster:
            raise BadRecording(f"it is of cluster {quoted(self.start.cluster)}, not {cluster}")
        return verify(
            self.chunks(), self.manifest, self.start, check_manifest, self.missing, self.open_chunk
        )

    def rendered(
        self, form: str, channel: int, *, times: bool = False, at: float = 0.0
    ) -> Iterator[str]:
        """Yield the recording as one of :data:`FORMS`; channel 0 is any.

        ``times``: lines of text begin with the time in the session; ``at``: text begins there.
        """
        from tele.tape.exports.cast import asciicast
        from tele.tape.exports.json_lines import json_lines
        from tele.tape.exports.text import text

        if form in ("cast", "cast2", "cast3"):
            return asciicast(
                self.start, self.frames(), channel, version=3 if form == "cast3" else 2
            )
        if form == "json":
            return json_lines(f for f in self.frames() if channel in (0, f.channel))
        return text(self.frames(), channel, times=times, at=at)

    def blobs(self) -> Iterator[tuple[str, bytes]]:
        """Yield the blobs of a ``.tape`` file."""
        yield "start", encode(self.start)
        if self.manifest is not None:
            yield "manifest", encode(self.manifest)
        if self.missing:
            yield "missing", json.dumps(self.missing).encode("ascii")
        if self.keys:
            yield "keys", encode(FileKeys(self.keys))
        for number, data in zip(_numbers(self.missing), self.chunks(), strict=False):
            yield _chunk_name(number), data


def lost_text(details: RecordingDetails | None, missing: Sequence[int]) -> str:
    """Return which chunks are lost, and why, as text; empty if none are."""
    why = "" if details is None else details.recording.incomplete
    if not missing:
        return why
    shown = ", ".join(str(number) for number in missing[:8])
    more = f" and {len(missing) - 8} more" if len(missing) > 8 else ""
    named = f"{LOST}{shown}{more}"
    return named if why in ("", named) else f"{why}; {named}"


def _numbers(missing: Collection[int]) -> Iterator[int]:
    """Yield the numbers of the chunks that exist, without end."""
    known = frozenset(missing)  # it may be a long list, of a file or of a node
    return (number for number in count() if number not in known)


def _chunk_name(number: int) -> str:
    return f"{number:08d}.chunk"


def from_authority(perform: Perform, recording_id: str, identity: bytes | None = None) -> Source:
    """Read a recording from auth; ``perform`` is that of a blocking authority.

    If it is sealed ``identity``, a private key, opens it; without one auth does. Raises
    :class:`BadRecording` when what auth has under this id is of another session.
    """
    details: RecordingDetails = perform(GET_RECORDING, ById(recording_id))
    row = details.recording
    if row.id != recording_id:
        raise BadRecording(f"auth has recording {quoted(row.id)} under the id {recording_id}")
    if details.manifest_error:
        raise BadRecording(f"its manifest cannot be read: {details.manifest_error}")
    if row.complete and details.manifest is None:
        raise BadRecording("it is complete, but its manifest is missing from the archive")
    missing = () if row.complete else details.missing
    total = details.available + len(missing)
    if details.manifest is not None:
        total = len(details.manifest.chunks)

    lost = frozenset(missing)

    def chunks() -> Iterator[bytes]:
        for number in range(total):
            if number in lost:
                continue
            try:
                yield perform(GET_CHUNK, GetChunk(recording_id, number)).data
            except NotFound:
                raise BadRecording(f"chunk {number} is missing from the archive") from None

    secrets = _secrets(perform, details, identity)
    open_chunk = _opening(secrets) if details.keys else read_chunk
    if details.manifest is None and 0 in missing:
        raise NotFound("its first chunk is lost, which names the session; it cannot be read")
    start = details.manifest.start if details.manifest is not None else _start(chunks(), open_chunk)
    # The name in the certificate counts where the others differ.
    renamed = start.node != row.node
    check_start(row, start, claimed_name(details.manifest) if renamed else row.node)
    return Source(
        recording_id, start, details.manifest, chunks, details, missing, details.keys, open_chunk,
        secrets,
    )  # fmt: skip


def _secrets(perform: Perform, details: RecordingDetails, identity: bytes | None) -> Secrets:
    """Return what opens the data keys of a recording at auth, once, when they are needed."""
    recording_id, wrapped = details.recording.id, details.keys
    if identity is not None:
        opened = _unwrapped(wrapped, identity, recording_id, "the recording")
        return lambda: opened

    @cache
    def ask() -> Mapping[int, bytes]:
        found = perform(GET_RECORDING_KEYS, ById(recording_id)) if wrapped else None
        return {key.number: key.secret for key in found.keys} if found is not None else {}

    return ask


def _unwrapped(
    keys: Collection[WrappedKey], identity: bytes, recording_id: str, what: str
) -> Mapping[int, bytes]:
    opened = unwrap(keys, identity, recording_id)
    if not opened:
        raise InvalidInput(f"{what} is not sealed for this key")
    return opened


def _opening(secrets: Secrets) -> OpenChunk:
    """Return what reads sealed chunks."""
    found: list[OpenChunk] = []

    def open_chunk(data: bytes, number: int, previous: bytes | None) -> Chunk:
        if not found:
            found.append(opener(secrets()))
        return found[0](data, number, previous)

    return open_chunk


def _start(chunks: Iterable[bytes], open_chunk: OpenChunk) -> RecordingStart:
    for data in chunks:
        for frame in open_chunk(data, 0, None).frames():
            return read_start(frame)
        break
    raise NotFound("nothing of this recording has arrived yet; try again in a second")


def from_file(path: Path, identity: bytes | None = None) -> Source:
    """Read a ``.tape`` file; ``identity`` is a private key that opens it if it is sealed.

    Raises :class:`InvalidInput` or :class:`BadRecording`.
    """
    try:
        start, manifest, missing, keys = _beginning(path)
    except OSError as error:
        raise InvalidInput(f"cannot read {path}: {error.strerror}") from None

    def chunks() -> Iterator[bytes]:
        with path.open("rb") as file:
            numbers = _numbers(missing)
            before = ["start", *["manifest"] * (manifest is not None), *["missing"] * bool(missing)]
            before += ["keys"] * bool(keys)
            for at, (name, data) in enumerate(_parts(path, file)):
                if before[at : at + 1] == [name]:
                    continue
                expected = _chunk_name(next(numbers))
                if name != expected:
                    raise BadRecording(f"{quoted(name)} stands where {expected} has to be")
                yield data

    secrets: Mapping[int, bytes] = {}
    if identity is not None:
        secrets = _unwrapped(keys, identity, start.id, str(path))
    return Source(
        start.id, start, manifest, chunks, missing=missing, keys=keys,
        open_chunk=opener(secrets) if secrets else read_chunk, secrets=lambda: secrets,
    )  # fmt: skip


def _parts(path: Path, file: BinaryIO) -> Iterator[tuple[str, bytes]]:
    """Yield the parts of a file; what is wrong with it is said with its name."""
    try:
        yield from read_file(file)
    except (InvalidInput, BadRecording) as error:
        raise type(error)(f"{path}: {error}") from None


_Beginning = tuple[RecordingStart, Manifest | None, tuple[int, ...], tuple[WrappedKey, ...]]


def _beginning(path: Path) -> _Beginning:
    manifest: Manifest | None = None
    missing: tuple[int, ...] = ()
    keys: tuple[WrappedKey, ...] = ()
    with path.open("rb") as file:
        parts = _parts(path, file)
        name, data = next(parts, ("", b""))
        if name != "start":
            raise BadRecording(f"{path} has no start: the session is not known")
        start = decode(RecordingStart, data)
        name, data = next(parts, ("", b""))
        if name == "manifest":
            manifest = decode(Manifest, data)
            name, data = next(parts, ("", b""))
        if name == "missing":
            missing = missing_numbers(data)
            name, data = next(parts, ("", b""))
        if name == "keys":
            keys = decode(FileKeys, data).wrapped
    if manifest is not None and (manifest.start != start or manifest.id != start.id):
        raise BadRecording("the file's beginning and its manifest are of different sessions")
    return start, manifest, missing, keys


def missing_numbers(data: bytes) -> tuple[int, ...]:
    """Return the numbers of the chunks that a file lists as missing.

    Raises :class:`BadRecording`.
    """
    try:
        numbers = json.loads(data)
    except (ValueError, RecursionError):
        numbers = None
    if (
        not isinstance(numbers, list)
        or not numbers
        or any(type(number) is not int for number in numbers)
    ):
        raise BadRecording("the file's list of missing chunks is not a list of numbers")
    if numbers != sorted(set(numbers)) or numbers[0] < 0:
        raise BadRecording("the file's list of missing chunks is not in ascending order")
    return tuple(numbers)


@frozen
class Step:
    """One thing to show: wait ``wait`` seconds, then it is ``at`` seconds into the session.

    At the ``edge`` of a session that runs there is nothing to show yet.
    """

    wait: float
    at: float
    frame: Frame
    edge: bool = False


#: What a replay of a terminal shows, and what one of programs without a terminal shows, too.
_OF_TERMINALS: Final = frozenset(
    (FrameKind.OUTPUT, FrameKind.ERROR, FrameKind.RESIZE, FrameKind.OPEN)
)
_OF_PROGRAMS: Final = _OF_TERMINALS | {
    FrameKind.TRANSFER, FrameKind.CAPTURE, FrameKind.EXIT, FrameKind.GAP, FrameKind.PAUSE,
    FrameKind.HOST,
}  # fmt: skip


#: The length of a step at the edge, in seconds.
EDGE_STEP: Final = 0.25
_NOTHING: Final = Frame(0, 0, FrameKind.PAUSE, b"{}")


def schedule(
    frames: Iterable[Frame | None], channel: int, idle_limit: float | None, after: int | None = None
) -> Iterator[Step]:
    """Yield what a replay shows, with the times between.

    Channel 0 is the first one if that has a terminal; otherwise all channels of programs are shown,
    with what their frames say. ``after`` is the time of what was shown before, in nanoseconds.
    None among the frames is the edge of a session that runs; what comes then is not waited for
    twice.
    """
    idled = 0.0
    last = after
    shown = _OF_TERMINALS
    forwards: set[int] = set()
    for frame in frames:
        if frame is None:
            idled += EDGE_STEP
            yield Step(EDGE_STEP, (last or 0) / 1e9 + idled, _NOTHING, edge=True)
            continue
        if frame.kind is FrameKind.OPEN and is_forward(frame):
            forwards.add(frame.channel)
        elif frame.kind is FrameKind.OPEN and shown is _OF_TERMINALS:
            if channel == 0 and opens_terminal(frame):
                channel = frame.channel
            elif channel in (0, frame.channel) and not opens_terminal(frame):
                shown = _OF_PROGRAMS
        if frame.kind not in shown or frame.channel in forwards:
            continue
        if channel not in (0, frame.channel) and not (frame.channel == 0 and shown is _OF_PROGRAMS):
            continue
        wait = 0.0 if last is None else (frame.time - last) / 1e9
        last = frame.time
        if idle_limit is not None:
            wait = min(wait, idle_limit)
        wait, idled = max(0.0, wait - idled), max(0.0, idled - wait)
        yield Step(wait, frame.time / 1e9, frame)
