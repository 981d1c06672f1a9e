"""Do the auths of one store keep recordings in one archive?

The first one leaves an id in its archive and in the store; the others find it in theirs. Not asked
of a store on a disk of this machine, and of archives that upload: a bucket has a name.

Invariant: an auth whose archive is another one than that of the others does not serve. It would
refuse what they have, and keep what they cannot find.
"""

from __future__ import annotations

from typing import Final
from uuid import uuid4

from tele.errors import Conflict, InvalidInput, NotFound
from tele.interfaces import IArchive, IBackend, IOnDisk, IUploadingArchive, Put

KEY: Final = "/archive-id"
#: Where it is in the archive, beside the folders of recordings.
FOLDER: Final = "archive"
NAME: Final = "id"


async def check_shared(backend: IBackend, archive: IArchive) -> None:
    """Raise :class:`InvalidInput` if the archive is not that of the other auths."""
    if IOnDisk.providedBy(backend) or IUploadingArchive.providedBy(archive):
        return
    found = await _read(archive)
    item = await backend.get(KEY)
    if item is None:
        if not found:
            found = str(uuid4())
            try:
                await archive.put(FOLDER, NAME, found.encode("ascii"))
            except Conflict:  # another auth was first, in the same archive
                found = await _read(archive)
        try:
            await backend.commit(Put(KEY, found.encode("ascii"), if_revision=0))
            return
        except Conflict:  # another auth was first
            item = await backend.get(KEY)
    known = "" if item is None else item.value.decode("ascii", "replace")
    if found != known:
        raise InvalidInput(
            "auth.recordings: this archive is not that of the other auths on the store: give all of"
            " them one directory that they share, or a bucket. If the archive was replaced, write"
            f" {known} into its file {FOLDER}/{NAME}"
        )


async def _read(archive: IArchive) -> str:
    try:
        return str((await archive.get(FOLDER, NAME)).decode("ascii", "replace").strip())
    except NotFound:
        return ""
