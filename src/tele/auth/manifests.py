"""Does the manifest of a recording fit its session, its signer and the chunks that are stored?

Invariants:

* A manifest is signed by the host that started the recording, with a certificate that was valid
  when the recording ended, and is of the session that started.
* It names exactly the chunks that are stored, and those that are lost.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Final

from tele.auth.recording_claims import check_end_date
from tele.errors import BadRecording, InvalidInput, NotFound
from tele.interfaces import IArchive
from tele.model.session import Manifest, Recording
from tele.recording.playback import lost_text
from tele.recording.proof import check_signer, check_start
from tele.tape.verify import check_version

MANIFEST: Final = "manifest"
CHUNK_SUFFIX: Final = ".chunk"
#: Lost chunks that a recording can be closed with.
MISSING_LIMIT: Final = 100_000


def chunk_name(number: int) -> str:
    """Return the archive's name of a chunk."""
    return f"{number:08d}{CHUNK_SUFFIX}"


def chunk_numbers(names: Sequence[str]) -> list[int]:
    """Return the numbers of the chunks among the names of an archive, in order."""
    return sorted(int(n.partition(".")[0]) for n in names if n.endswith(CHUNK_SUFFIX))


def lost_chunks(missing: tuple[int, ...]) -> str:
    """Return why a recording with these lost chunks is incomplete, or nothing."""
    return lost_text(None, missing)


def check_manifest(
    manifest: Manifest, row: Recording, cluster: str, authorities: Collection[bytes], now: datetime
) -> None:
    """Raise :class:`InvalidInput` for a manifest that cannot close the recording ``row``.

    ``authorities`` are key blobs of the cluster's host authorities.
    """
    if manifest.ended < manifest.start.started:
        raise InvalidInput("the recording ends before it starts")
    check_end_date(manifest.ended, row.received or row.started, now)
    if [c.number for c in manifest.chunks] != list(range(len(manifest.chunks))):
        raise InvalidInput("the manifest does not number its chunks from 0 without gaps")
    try:
        check_version(manifest)
        # It may arrive long after it was made: the certificate has to have been valid when the
        # recording ended.
        signer = check_signer(manifest, authorities, cluster)
        check_start(row, manifest.start, signer.name)
    except BadRecording as error:
        raise InvalidInput(str(error)) from None


def check_names(names: Sequence[str], manifest: Manifest, missing: tuple[int, ...]) -> None:
    """Check the names of a recording's blobs against the manifest, and those that are lost."""
    if len(missing) > MISSING_LIMIT:
        raise InvalidInput(f"more than {MISSING_LIMIT} chunks are missing")
    stored = {name for name in names if name.endswith(CHUNK_SUFFIX)}
    named = {chunk_name(chunk.number): chunk for chunk in manifest.chunks}
    lost = {chunk_name(number) for number in missing}
    if len(lost) != len(missing) or lost - set(named):
        raise InvalidInput("a missing chunk is named twice, or is not in the manifest")
    if present := sorted(lost & stored):
        # An acknowledged chunk cannot be given up by a host that was taken over later.
        raise InvalidInput(f"{present[0]} is named as missing, but is stored")
    if absent := sorted(set(named) - stored - lost):
        raise NotFound(f"{absent[0]} is named by the manifest, but is not stored")
    if extra := sorted(stored - set(named)):
        raise InvalidInput(f"{extra[0]} is stored, but is not named by the manifest")


async def check_chunks(archive: IArchive, manifest: Manifest, missing: tuple[int, ...]) -> int:
    """Check all stored chunks against the manifest; returns their size in bytes.

    Their names were checked by :func:`check_names`.
    """
    lost, size = frozenset(missing), 0
    for chunk in manifest.chunks:
        if chunk.number in lost:
            continue
        data = await archive.get(manifest.id, chunk_name(chunk.number))
        if len(data) != chunk.size or hashlib.sha256(data).hexdigest() != chunk.sha256:
            raise InvalidInput(f"chunk {chunk.number} is not the one that the manifest names")
        size += chunk.size
    return size
