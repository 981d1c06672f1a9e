"""Is this the recording of that session, and what exactly is wrong with it?

All faults are found, each to its chunk; :meth:`tele.recording.playback.Source.verify` stops at the
first one.

Invariants:

* A recording without faults is one that verification accepts.
* What cannot be read is a fault of the recording; only a recording that does not exist, and an auth
  that cannot be reached, are errors.
* A session is said to run only if auth says so and nothing in the recording says that it ended.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TypeVar

from attrs import frozen

from tele.errors import BadRecording, quoted
from tele.model.api.recordings import RecordingDetails
from tele.model.session import Manifest, RecordingStart, RecordingState
from tele.recording.evidence import Evidence
from tele.recording.playback import LOST, lost_text
from tele.recording.proof import (
    check_signer,
    claimed_name,
    end_differences,
    start_differences,
)
from tele.tape.examine import ChunkExaminer, OpenChunk, session_text
from tele.tape.faults import Fault, FaultKind, Faults
from tele.tape.verify import check_version

T = TypeVar("T")


@frozen
class Diagnosis:
    """The result. ``faults`` are all that were found, but for ``more`` that were not kept.

    ``complete``: it has a manifest, and no chunk is missing. ``sealed`` chunks were not opened.
    ``signer`` is the name of the host that signed, if the signature is good.
    """

    id: str
    start: RecordingStart | None
    state: RecordingState
    faults: Sequence[Fault]
    more: int
    chunks: int
    frames: int
    sealed: int
    complete: bool
    recovered: bool
    missing: tuple[int, ...]
    lost: str
    signer: str


def diagnose(
    evidence: Evidence,
    host_authorities: Collection[bytes],
    cluster: str,
    open_chunk: OpenChunk | None = None,
) -> Diagnosis:
    """Examine all of it, for ``cluster`` with these host authorities (SSH key blobs)."""
    faults, manifest, start = evidence.faults, evidence.manifest, evidence.start
    signer = ""
    if start is not None and start.cluster != cluster:
        faults.add(FaultKind.SESSION, f"it is of cluster {quoted(start.cluster)}, not {cluster}")
    if manifest is not None:
        signer = _check_manifest(evidence, manifest, host_authorities, cluster)
    if evidence.details is not None:
        _check_record(evidence, evidence.details, signer)
    examiner = ChunkExaminer(start, manifest, evidence.missing, faults, open_chunk)
    for number, data in evidence.chunks():
        examiner.take(number, data)
    examiner.end()
    return Diagnosis(
        evidence.id,
        start,
        _state(evidence, ended=examiner.ended),
        faults.kept,
        faults.more,
        examiner.chunks,
        examiner.frames,
        examiner.sealed,
        manifest is not None and not evidence.missing,
        manifest is not None and manifest.recovered,
        evidence.missing,
        lost_text(evidence.details, evidence.missing),
        signer,
    )


def _state(evidence: Evidence, *, ended: bool) -> RecordingState:
    if evidence.details is None:
        if evidence.manifest is None:
            return RecordingState.UNFINISHED
        return RecordingState.INCOMPLETE if evidence.missing else RecordingState.COMPLETE
    state = evidence.details.state
    # Its last chunk arrives before the report of its end.
    over = ended or evidence.manifest is not None
    return RecordingState.ENDED if over and state is RecordingState.RUNNING else state


def _check_manifest(
    evidence: Evidence, manifest: Manifest, authorities: Collection[bytes], cluster: str
) -> str:
    """Check what a manifest says without its chunks; return the name of its signer."""
    faults, start = evidence.faults, manifest.start
    for check in (lambda: check_version(manifest), lambda: _check_numbers(manifest)):
        _attempt(check, faults, FaultKind.MANIFEST)
    if not manifest.id == start.id == evidence.id:
        faults.add(
            FaultKind.SESSION,
            f"its manifest has the id {quoted(manifest.id)} and is of {session_text(start)}",
        )
    if manifest.ended < start.started:
        faults.add(FaultKind.TIME, "its manifest says that it ended before it started")
    # Another cluster was stated as a fault; who signed for that one is another question.
    of = start.cluster if start.cluster != cluster else cluster
    signer = _attempt(lambda: check_signer(manifest, authorities, of), faults, FaultKind.SIGNATURE)
    return "" if signer is None else signer.name


def _check_numbers(manifest: Manifest) -> None:
    if [c.number for c in manifest.chunks] != list(range(len(manifest.chunks))):
        raise BadRecording("its manifest does not number its chunks from 0 without gaps")


def _attempt(check: Callable[[], T], faults: Faults, kind: FaultKind) -> T | None:
    try:
        return check()
    except BadRecording as error:
        faults.add(kind, str(error))
        return None


def _check_record(evidence: Evidence, details: RecordingDetails, signer: str) -> None:
    """Compare with what auth noted."""
    faults, row, manifest = evidence.faults, details.recording, evidence.manifest
    if row.id != evidence.id:
        faults.add(
            FaultKind.PLACE, f"auth has recording {quoted(row.id)} under the id {evidence.id}"
        )
    if evidence.start is not None:
        name = signer or claimed_name(manifest)
        for what, (noted, claimed) in start_differences(row, evidence.start, name).items():
            faults.add(
                FaultKind.RECORD,
                f"its {what} is {quoted(claimed)}, auth noted {quoted(noted)} when the session"
                " began",
            )
    if details.manifest_error:
        faults.add(FaultKind.MANIFEST, f"its manifest cannot be read: {details.manifest_error}")
    elif manifest is None and row.complete:
        faults.add(
            FaultKind.MANIFEST, "it is complete, but its manifest is missing from the archive"
        )
    if manifest is None:
        return
    if not (row.complete or row.incomplete):
        faults.add(FaultKind.RECORD, "it has a manifest, but auth has not accepted one")
        return
    for what, (noted, claimed) in end_differences(row, manifest, evidence.missing).items():
        faults.add(
            FaultKind.RECORD,
            f"its manifest states as {what} {quoted(claimed)}, auth noted {quoted(noted)} when it"
            " was closed",
        )
    noted, now = row.incomplete, lost_text(None, evidence.missing)
    if noted != now and noted.startswith(LOST):
        faults.add(FaultKind.MISSING, f"auth closed it with {quoted(noted)}, now {quoted(now)}")
    total = len(manifest.chunks) - len(details.missing)
    if details.available > total:
        faults.add(
            FaultKind.EXTRA,
            f"{details.available} chunks are in the archive, and {total} of those that its"
            " manifest names",
        )
