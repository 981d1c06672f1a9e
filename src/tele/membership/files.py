"""How is a private file written so that only its owner reads it and a crash leaves it whole?

Invariants:

* Files are 0600 in folders 0700, made so from the start and never loosened first.
* What is written is on disk, whole, when the call returns (:mod:`tele.durable_files`).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from tele.capacity.descriptors import spare_descriptor
from tele.durable_files import make_folder, sync_folder, write_file
from tele.errors import InvalidInput, TeleError
from tele.private_files import own_folder

#: One of these is in each folder that a part has used, and in each folder in it.
OURS: Final = (
    *("tele.yaml", ".lock", "host_id", "identity", "node", "proxy", "auth.sqlite", "auth.sock"),
    *("lock", "identity.json", "state.json", "labels.json", "events", "recordings", "spool"),
)


def private_folder(path: Path) -> Path:
    """Make ``path`` with its parents, readable by its owner alone; return it.

    Raises :class:`TeleError` if it cannot be made, or is no folder of tele's own: see
    :func:`tele.private_files.own_folder`.
    """
    try:
        is_new = not path.is_dir()
        make_folder(path.parent, 0o777)
        own_folder(path, OURS)
        if is_new:
            sync_folder(path.parent)
    except InvalidInput as error:
        raise InvalidInput(f"the folder {error}; choose another one as data_dir") from None
    except OSError as error:
        raise TeleError(f"the folder {path} cannot be used: {error.strerror}") from None
    return path


def read_private(path: Path) -> bytes | None:
    """Return what is in ``path``, or None if it is not there.

    Raises :class:`TeleError` if it cannot be read, or if others can read it.
    """
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_mode & 0o077:
                raise TeleError(
                    f"{path} can be read by others: what it holds is no secret any more;"
                    f" remove it and join again, or if it was never exposed: chmod 600 {path}"
                )
            return file.read()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise TeleError(f"{path} cannot be read: {error.strerror}") from None


def write_private(path: Path, data: bytes, *, replace: bool = True) -> bool:
    """Write ``path`` durably and whole; its folder must be there.

    Returns False if it was there already and ``replace`` is false. Raises
    :class:`TeleError`.
    """
    try:
        with spare_descriptor():
            return write_file(path, data, replace=replace)
    except OSError as error:
        raise TeleError(f"{path} cannot be written: {error.strerror}") from None
