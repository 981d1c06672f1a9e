"""How do lines of sudoers get into force, and out of it?

Invariants:

* Standard library only: the spawner loads it.
* A file is in force whole, after visudo(8) has checked it, or not at all: it is written under a
  name that sudo leaves out, and renamed.
* Only files of this ledger are written and removed.
"""

from __future__ import annotations

import contextlib
import os
import re
from typing import Final

from tele.spawner.account_homes import check_folder
from tele.spawner.account_ledger import sync_folder, write_all
from tele.spawner.account_tools import find_tool, run_tool
from tele.spawner.accounts import Refused, read_file
from tele.spawner.host_account import sudoers_name, sudoers_text

FILE: Final = "/etc/sudoers"
FOLDER: Final = "/etc/sudoers.d"


def set_sudoers(ledger: str, login: str, lines: tuple[str, ...]) -> bool:
    """Have exactly ``lines`` in force for ``login``; whether others were before. Raises Refused,
    OSError.
    """
    name = sudoers_name(ledger, login)
    if not lines:
        return remove_sudoers(name)
    find_tool("visudo")
    folder = check_folder(FOLDER, "the folder of sudoers")
    path, new = os.path.join(folder, name), os.path.join(folder, f".{name}.new")
    text = sudoers_text(login, lines).encode()
    if read_file(path) == text:
        return False
    with contextlib.suppress(FileNotFoundError):
        os.unlink(new)
    try:
        fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o440)
        try:
            write_all(fd, text)
            os.fsync(fd)
        finally:
            os.close(fd)
        done = run_tool("visudo", "-c", "-f", new)
        if done.status != 0:
            raise Refused(
                "visudo does not accept the lines of sudoers that roles have for"
                f" {login}: {done.text.replace(new, name)}"
            )
        os.rename(new, path)
        sync_folder(folder)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(new)
        # What was in force before is not what is to be: less is safe.
        remove_sudoers(name)
        raise
    return True


def remove_sudoers(name: str) -> bool:
    """Have no lines in force of the file ``name``; whether there were some. Raises OSError."""
    try:
        os.unlink(os.path.join(FOLDER, name))
    except (FileNotFoundError, NotADirectoryError):
        return False
    sync_folder(FOLDER)
    return True


def names_group(name: str) -> bool:
    """Whether sudoers of this machine gives something to members of a group ``name``."""
    folder = os.listdir(FOLDER) if os.path.isdir(FOLDER) else []
    pattern = rf"(?m)^[^#\n]*%:?{re.escape(name)}(?![\w.-])"
    return any(
        re.search(pattern, (read_file(path) or b"").decode("utf-8", "replace")) is not None
        for path in (FILE, *(os.path.join(FOLDER, each) for each in folder))
    )


def remove_all_sudoers(ledger: str) -> None:
    """Remove every file of a ledger, also half-made ones. Raises OSError."""
    with contextlib.suppress(FileNotFoundError):
        for name in os.listdir(FOLDER):
            if name.lstrip(".").startswith(f"tele-{ledger}-"):
                remove_sudoers(name)
