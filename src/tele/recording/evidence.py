"""What is stored of a recording, at auth or in a file, whatever it is worth?

:mod:`tele.recording.playback` refuses what is wrong; this reads as much as can be read, so that
:mod:`tele.recording.diagnosis` can state what is wrong.

Invariant: what cannot be read is a fault of the recording. Only a recording that does not exist, an
auth that cannot be reached and a file that is none are errors.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, TypeVar

from attrs import define, field

from tele.errors import BadRecording, InvalidInput, NotFound, quoted
from tele.model.api.paging import ById
from tele.model.api.recordings import GET_CHUNK, GET_RECORDING, GetChunk, RecordingDetails
from tele.model.codec import decode
from tele.model.session import Manifest, RecordingStart
from tele.recording.playback import Perform, missing_numbers
from tele.tape.examine import session_text
from tele.tape.faults import FaultKind, Faults
from tele.tape.file import read_file
from tele.tape.layout import read_chunk
from tele.tape.verify import read_start

#: Numbers after the manifest's last chunk that are tried if the archive has more chunks.
_TRIED_BEYOND: Final = 16
#: The parts of a file before its chunks, in their order.
_BEFORE: Final = ("start", "manifest", "missing", "keys")
_CHUNK: Final = re.compile(r"([0-9]{8,10})\.chunk", re.ASCII)

T = TypeVar("T")


@define
class Evidence:
    """What is stored. ``id`` is the requested id; of a file the one that it states.

    ``chunks()`` yields the number and the bytes of each chunk, and adds to ``faults``: it is called
    once.
    """

    id: str
    start: RecordingStart | None
    manifest: Manifest | None
    chunks: Callable[[], Iterator[tuple[int, bytes]]]
    details: RecordingDetails | None = None
    missing: tuple[int, ...] = ()
    faults: Faults = field(factory=Faults)


def evidence_at_authority(perform: Perform, recording_id: str) -> Evidence:
    """Return what auth has of a recording; ``perform`` is that of a blocking authority.

    Raises :class:`NotFound` if there is no such recording, or nothing of it has arrived.
    """
    details: RecordingDetails = perform(GET_RECORDING, ById(recording_id))
    row, manifest = details.recording, details.manifest
    end = details.available + len(details.missing)
    if manifest is not None:
        extra = details.available > len(manifest.chunks) - len(details.missing)
        end = len(manifest.chunks) + (_TRIED_BEYOND if extra else 0)

    def chunks() -> Iterator[tuple[int, bytes]]:
        for number in range(end):
            if number in details.missing:
                continue
            try:
                data = perform(GET_CHUNK, GetChunk(recording_id, number)).data
            except NotFound:
                continue  # the examination finds it missing
            yield number, data

    if manifest is None and not details.available and not row.complete and not row.incomplete:
        raise NotFound("nothing of this recording has arrived yet; try again in a second")
    start = manifest.start if manifest is not None else _first_start(chunks())
    # Of a complete recording nothing may be missing.
    missing = () if row.complete else details.missing
    return Evidence(recording_id, start, manifest, chunks, details, missing)


def _first_start(chunks: Iterator[tuple[int, bytes]]) -> RecordingStart | None:
    """Return the session that the first chunk names, if that can be read."""
    number, data = next(chunks, (-1, b""))
    try:
        frames = read_chunk(data, 0).frames() if number == 0 else iter(())
        return next((read_start(frame) for frame in frames), None)
    except BadRecording:
        return None  # the examination states what is wrong with it


def evidence_in_file(path: Path) -> Evidence:
    """Return what a ``.tape`` file has. Raises :class:`InvalidInput` if it is none."""
    faults = Faults()
    before: dict[str, bytes] = {}
    for name, data in _parts(path, Faults()):
        if name not in _BEFORE:
            break
        before.setdefault(name, data)
    start = _decoded(RecordingStart, before, "start", faults)
    manifest = _decoded(Manifest, before, "manifest", faults)
    missing: tuple[int, ...] = ()
    try:
        missing = missing_numbers(before["missing"]) if "missing" in before else ()
    except BadRecording as error:
        faults.add(FaultKind.PLACE, str(error))
    if "start" not in before:
        faults.add(FaultKind.PLACE, "the file does not begin with the session that it is of")
    if manifest is not None:
        if start is not None and manifest.start != start:
            faults.add(
                FaultKind.SESSION,
                f"the file's beginning is of {session_text(start)}, its manifest of"
                f" {session_text(manifest.start)}",
            )
        start = manifest.start
    if start is None:
        start = _first_start(_chunks(path, Faults()))
    return Evidence(
        "" if start is None else start.id,
        start,
        manifest,
        lambda: _chunks(path, faults),
        missing=missing,
        faults=faults,
    )


def _decoded(cls: type[T], parts: dict[str, bytes], name: str, faults: Faults) -> T | None:
    if name not in parts:
        return None
    try:
        return decode(cls, parts[name])
    except InvalidInput as error:
        faults.add(FaultKind.MANIFEST, f"the file's part {name} cannot be read: {error}")
        return None


def _parts(path: Path, faults: Faults) -> Iterator[tuple[str, bytes]]:
    """Yield the parts of a file up to its end, or to where it is cut off."""
    before = "its beginning"
    try:
        with path.open("rb") as file:
            for name, data in read_file(file):
                yield name, data
                before = quoted(name)
    except BadRecording as error:
        faults.add(FaultKind.PLACE, f"{error} after {before}")
    except OSError as error:
        raise InvalidInput(f"cannot read {path}: {error.strerror}") from None


def _chunks(path: Path, faults: Faults) -> Iterator[tuple[int, bytes]]:
    """Yield the chunks of a file as they stand, and add what is wrong with its parts."""
    allowed = list(_BEFORE)
    for name, data in _parts(path, faults):
        if found := _CHUNK.fullmatch(name):
            allowed = []
            yield int(found[1]), data
        elif name in allowed:
            del allowed[: allowed.index(name) + 1]
        else:
            what = "is there twice or not in its place" if name in _BEFORE else "is no part"
            faults.add(FaultKind.PLACE, f"{quoted(name)} in the file {what} of a recording")
