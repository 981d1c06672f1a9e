"""How is a backup restored into an empty folder?

Invariants:

* The folder has nothing of the backup before all of it was verified: it is unpacked beside,
  checked, and only then moved, the store last.
* A folder that has files of a cluster is not touched.
* Names, kinds and sizes are checked: a forged backup writes nothing elsewhere.
"""

from __future__ import annotations

import io
import os
import shutil
import sqlite3
import tarfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import IO, Any, Final, cast

import zstandard

from tele.backups.contents import INFO, INFO_LIMIT, STORE, BackupInfo, check_owner, is_name
from tele.backups.sealed_stream import OpenedBy, SealedReader
from tele.durable_files import make_folder, sync_folder
from tele.errors import Conflict, InvalidInput, TeleError
from tele.model.codec import decode

_BESIDE: Final = ".restore-"
_EMPTY: Final = frozenset(("lost+found",))
_STEP: Final = 1 << 20


def restore(
    backup: Path, folder: Path, by: OpenedBy, check: Callable[[BackupInfo, Path], None]
) -> BackupInfo:
    """Restore ``backup`` into ``folder``, which is empty or not there; return whose it is.

    ``check(info, store)`` is called with the unpacked store before anything is in its place; what
    it raises ends the restoration. Raises :class:`TeleError`; then ``folder`` is as it was.
    """
    try:
        make_folder(folder)
        check_owner(folder)
        for left in folder.glob(f"{_BESIDE}*"):
            shutil.rmtree(left)  # of a restoration that was killed
        present = sorted(set(os.listdir(folder)) - _EMPTY)
    except OSError as error:
        raise TeleError(f"the folder {folder} cannot be used: {error.strerror}") from None
    if present:
        raise Conflict(
            f"{folder} has files, such as {present[0]!r}: restore into an empty folder, and move"
            " what is there away first"
        )
    beside = folder / f"{_BESIDE}{os.urandom(8).hex()}"
    try:
        beside.mkdir(mode=0o700)
        info = unpack(backup, beside, by)
        check(info, beside / STORE)
        os.sync()
        names = sorted(os.listdir(beside), key=lambda name: name == STORE)
        for name in names:
            os.rename(beside / name, folder / name)
        sync_folder(folder)
    except OSError as error:
        raise TeleError(f"cannot restore into {folder}: {error.strerror or error}") from None
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return info


def unpack(backup: Path, folder: Path, by: OpenedBy) -> BackupInfo:
    """Unpack ``backup`` into ``folder``, and check that its store is whole.

    Raises :class:`InvalidInput`, or OSError.
    """
    with backup.open("rb") as file:
        unpacking = zstandard.ZstdDecompressor().stream_reader(
            cast("IO[bytes]", SealedReader(file, by)), closefd=False
        )
        try:
            with tarfile.open(fileobj=cast("Any", unpacking), mode="r|") as tar:
                info = _info(tar)
                while (member := tar.next()) is not None:
                    _unpack(tar, member, folder)
            while unpacking.read(_STEP):  # to its end, which is verified, too
                pass
        except (tarfile.TarError, zstandard.ZstdError, EOFError) as error:
            raise InvalidInput(f"what is in the backup is damaged: {error}") from None
    store = folder / STORE
    if not store.exists():
        raise InvalidInput("the backup has no store")
    _check_store(store)
    return info


def _info(tar: tarfile.TarFile) -> BackupInfo:
    first = tar.next()
    file = None if first is None or not first.isreg() else tar.extractfile(first)
    if first is None or file is None or first.name != INFO or first.size > INFO_LIMIT:
        raise InvalidInput(f"the backup does not begin with {INFO}")
    return decode(BackupInfo, file.read())


def _unpack(tar: tarfile.TarFile, member: tarfile.TarInfo, folder: Path) -> None:
    if not member.isreg() or not is_name(member.name):
        raise InvalidInput(f"the backup has {member.name!r}, which is no file of a backup")
    source = tar.extractfile(member)
    if source is None:
        raise InvalidInput(f"the backup lacks what is in {member.name!r}")
    path = folder / member.name
    make_folder(path.parent)
    if member.size > shutil.disk_usage(folder).free:
        raise TeleError(f"the disk of {folder} has no space for {member.name}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        descriptor = os.open(path, flags, 0o600)
    except FileExistsError:
        raise InvalidInput(f"the backup has {member.name!r} twice") from None
    with open(descriptor, "wb") as target:
        shutil.copyfileobj(cast("io.BufferedReader", source), target, _STEP)


def _check_store(path: Path) -> None:
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as store:
            (answer,) = store.execute("PRAGMA integrity_check").fetchone()
    except sqlite3.Error as error:
        answer = str(error)
    if answer != "ok":
        raise InvalidInput(f"the store in the backup is damaged: {answer}")
