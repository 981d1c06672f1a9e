"""How is a recording read back: from auth, from a file, from a folder?

Laws of this file:

* Whatever is shown was checked: chain, manifest, signature, as far as they are there.
* Nothing here waits or writes: it gives frames, and says how long to wait between them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

from attrs import frozen

from tele.certs.certificate import parse_certificate
from tele.certs.check import check_host
from tele.certs.keys import parse_line
from tele.errors import BadCertificate, BadRecording, InvalidInput, NotFound
from tele.model.api import table
from tele.model.api.members import ById
from tele.model.api.records import GetChunk, RecordingDetails
from tele.model.codec import decode, encode
from tele.model.frame import Frame, FrameKind
from tele.model.session import Manifest, RecordingStart
from tele.tape.export import is_forward
from tele.tape.file import read_file
from tele.tape.layout import read_chunk
from tele.tape.verify import Verdict, moment_of, read_frames, to_sign, verify

Perform = Callable[[Any, Any], Any]


@frozen
class Source:
    """A recording to be read. ``chunks()`` may be called again and again."""

    id: str
    start: RecordingStart
    manifest: Manifest | None
    chunks: Callable[[], Iterator[bytes]]

    def frames(self) -> Iterator[Frame]:
        """Give its frames, checked. Raises :class:`BadRecording` where it is not what it was."""
        return read_frames(self.chunks(), self.manifest)

    def verify(self, host_authorities: Collection[bytes]) -> Verdict:
        """Check all of it against the cluster's host authorities (SSH key blobs)."""
        return verify(self.chunks(), self.manifest, lambda m: check_signature(m, host_authorities))

    def blobs(self) -> Iterator[tuple[str, bytes]]:
        """Give what a ``.tape`` file holds."""
        yield "start", encode(self.start)
        if self.manifest is not None:
            yield "manifest", encode(self.manifest)
        for number, data in enumerate(self.chunks()):
            yield f"{number:08d}.chunk", data


def check_signature(manifest: Manifest, host_authorities: Collection[bytes]) -> None:
    """Raise :class:`BadRecording` unless a host of the cluster signed ``manifest``."""
    try:
        certificate = parse_certificate(parse_line(manifest.host_certificate))
        host_id = manifest.start.node_id
        moment = moment_of(manifest, certificate.valid_after)
        check_host(certificate, host_authorities, [host_id], moment)
        certificate.key.verify(manifest.signature, to_sign(manifest), {certificate.key.type})
    except (BadCertificate, InvalidInput) as error:
        raise BadRecording(
            f"the manifest is not signed by a host of the cluster: {error}"
        ) from None


def from_authority(perform: Perform, recording_id: str) -> Source:
    """Read a recording from auth; ``perform`` is that of a blocking authority."""
    details: RecordingDetails = perform(table.GET_RECORDING, ById(recording_id))
    count = details.available if details.manifest is None else len(details.manifest.chunks)

    def chunks() -> Iterator[bytes]:
        for number in range(count):
            try:
                yield perform(table.GET_CHUNK, GetChunk(recording_id, number)).data
            except NotFound:
                raise BadRecording(f"chunk {number} is missing from the archive") from None

    start = details.manifest.start if details.manifest is not None else _start(chunks())
    return Source(recording_id, start, details.manifest, chunks)


def _start(chunks: Iterable[bytes]) -> RecordingStart:
    for data in chunks:
        for frame in read_chunk(data, 0).frames():
            if frame.kind is FrameKind.START:
                return decode(RecordingStart, frame.data)
        break
    raise NotFound("nothing of this recording has arrived yet; try again in a second")


def from_file(path: Path) -> Source:
    """Read a ``.tape`` file. Raises :class:`InvalidInput` or :class:`BadRecording`."""
    start: RecordingStart | None = None
    manifest: Manifest | None = None
    try:
        with path.open("rb") as file:
            for name, data in read_file(file):
                if name == "start":
                    start = decode(RecordingStart, data)
                elif name == "manifest":
                    manifest = decode(Manifest, data)
                else:
                    break
    except OSError as error:
        raise InvalidInput(f"cannot read {path}: {error.strerror}") from None
    if start is None:
        raise BadRecording(f"{path} does not say what it is a recording of")
    if manifest is not None and manifest.start != start:
        raise BadRecording("the file's beginning and its manifest are of different sessions")

    def chunks() -> Iterator[bytes]:
        with path.open("rb") as file:
            for name, data in read_file(file):
                if name.endswith(".chunk"):
                    yield data

    return Source(start.id, start, manifest, chunks)


@frozen
class Step:
    """One thing to show: wait ``wait`` seconds, then it is ``at`` seconds into the session."""

    wait: float
    at: float
    frame: Frame


def schedule(frames: Iterable[Frame], channel: int, idle_limit: float | None) -> Iterator[Step]:
    """Give what a terminal shows, with the times between; channel 0 is the first one."""
    shown = {FrameKind.OUTPUT, FrameKind.ERROR, FrameKind.RESIZE, FrameKind.OPEN}
    last: int | None = None
    for frame in frames:
        if channel == 0 and frame.kind is FrameKind.OPEN and not is_forward(frame):
            channel = frame.channel
        if frame.kind not in shown or frame.channel != channel:
            continue
        wait = 0.0 if last is None else (frame.time - last) / 1e9
        last = frame.time
        if idle_limit is not None:
            wait = min(wait, idle_limit)
        yield Step(wait, frame.time / 1e9, frame)
