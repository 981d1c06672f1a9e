"""How is a backup of auth taken while it runs?

The store is copied by SQLite, as it is at one moment; all that it lists exists when the other files
are copied after it.

Invariants:

* Auth's files are read only. Auth waits for nothing.
* The copy of the store is in auth's own folder until it is sealed, and is removed then.
* The backup has its name when it is whole and on disk, and replaces no file.
"""

from __future__ import annotations

import io
import os
import shutil
import sqlite3
import stat
import tarfile
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import IO, Final, cast

import zstandard
from attrs import frozen

from tele.backups.contents import (
    FILES,
    IDENTITIES,
    IDENTITY,
    INFO,
    LANDING,
    RECORDINGS,
    STORE,
    BackupInfo,
    check_owner,
    is_name,
)
from tele.backups.sealed_stream import SealedFor, SealedWriter
from tele.durable_files import name_new, sync_folder
from tele.errors import Conflict, InvalidInput, NotFound, TeleError
from tele.model.codec import encode

#: How the copy of the store begins, in data_dir.
_COPY: Final = ".backup-"
_LEVEL: Final = 3


@frozen
class AuthFiles:
    """Where auth's files are. ``recordings`` is None if they are not to be in the backup."""

    folder: Path
    store: Path
    recordings: Path | None = None


def copy_store(files: AuthFiles) -> Path:
    """Return a copy of the store, in a new folder of data_dir that the caller removes.

    Raises :class:`TeleError`.
    """
    if not files.store.is_file():
        raise NotFound(f"there is no store {files.store}: is this the configuration of auth?")
    check_owner(files.folder)
    for left in files.folder.glob(f"{_COPY}*"):
        shutil.rmtree(left, ignore_errors=True)  # of a backup that was killed
    beside = files.folder / f"{_COPY}{os.urandom(8).hex()}"
    try:
        beside.mkdir(mode=0o700)
        uri = f"{files.store.absolute().as_uri()}?mode=ro"
        with closing(sqlite3.connect(uri, uri=True, timeout=60)) as store:
            store.execute("VACUUM INTO ?", (str(beside / STORE),))
        os.chmod(beside / STORE, 0o600)
    except (OSError, sqlite3.Error) as error:
        shutil.rmtree(beside, ignore_errors=True)
        why = error.strerror if isinstance(error, OSError) else error
        raise TeleError(f"the store {files.store} cannot be copied: {why}") from None
    return beside / STORE


def write_backup(
    target: Path,
    files: AuthFiles,
    store: Path,
    info: BackupInfo,
    for_whom: SealedFor,
    entropy: Callable[[int], bytes],
) -> int:
    """Write ``target`` (0600), and return its size in bytes. ``store`` is the copy of the store.

    Raises :class:`TeleError`; then there is no such file.
    """
    beside = target.with_name(f".{target.name}.{os.urandom(8).hex()}")
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        with open(os.open(beside, flags, 0o600), "wb") as file:
            sealed = SealedWriter(file, for_whom, entropy)
            packing = zstandard.ZstdCompressor(_LEVEL).stream_writer(
                cast("IO[bytes]", sealed), closefd=False
            )
            with tarfile.open(fileobj=packing, mode="w|", format=tarfile.PAX_FORMAT) as tar:
                _add_bytes(tar, INFO, encode(info))
                _add(tar, STORE, store)
                for name, path in _others(files):
                    _add(tar, name, path)
            packing.flush(zstandard.FLUSH_FRAME)
            sealed.finish()
            file.flush()
            os.fsync(file.fileno())
        name_new(beside, target)
        sync_folder(target.absolute().parent)
    except FileExistsError:
        raise Conflict(f"{target} exists already; a backup replaces no file") from None
    except OSError as error:
        raise TeleError(f"cannot write {target}: {error.strerror or error}") from None
    finally:
        with suppress(FileNotFoundError):
            beside.unlink()
    return target.stat().st_size


def _others(files: AuthFiles) -> Iterator[tuple[str, Path]]:
    """Yield (name, path) of what is beside the store."""
    for name in FILES:
        yield name, files.folder / name
    for role in ("node", "proxy"):
        place = f"{IDENTITIES}/{role}/{IDENTITY}"
        yield place, files.folder / place
    trees = [(LANDING, files.folder / LANDING)]
    if files.recordings is not None:
        trees.append((RECORDINGS, files.recordings))
    for begin, root in trees:
        for folder, _, names in os.walk(root):
            inside = Path(folder).relative_to(root)
            for name in sorted(names):
                full = (begin / inside / name).as_posix()
                if is_name(full):  # not what is being written
                    yield full, Path(folder) / name


def _add(tar: tarfile.TarFile, name: str, path: Path) -> None:
    """Add a regular file; one that is not there, or was removed meanwhile, is left out."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return
    with open(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise InvalidInput(f"{path} is no regular file")
        member = tarfile.TarInfo(name)
        member.size, member.mode, member.mtime = found.st_size, 0o600, int(found.st_mtime)
        tar.addfile(member, file)


def _add_bytes(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(data), 0o600
    tar.addfile(member, io.BytesIO(data))
