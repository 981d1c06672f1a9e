"""How is a home made from the skeleton, and removed, where others may have the same folder?

Homes are made beside their place, in ``.tele`` of the parent folder, which only root enters, and
moved into place when they are whole. That folder also tells which homes tele made, by inode, and
has a claim of each node whose account uses a home: file systems of homes are shared by machines,
and a home goes with its last claim.

Invariants:

* Standard library only: the spawner loads it.
* No link is followed, in the skeleton or in a home, and nothing but files, folders and links is
  copied. No home is anyone's who does not have its number.
* A home that tele did not make is not removed, and nothing outside of a home is.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import stat
from collections.abc import Iterator
from typing import Final

from tele.spawner.account_ledger import Entry, sync_folder, write_all
from tele.spawner.account_tools import run_tool
from tele.spawner.accounts import Refused, read_file

FOLDER: Final = ".tele"
#: What a file beside the homes is called after its login, in place of a ledger's id.
MADE: Final = "made"
DEFAULTS: Final = "/etc/default/useradd"
LOGIN_DEFAULTS: Final = "/etc/login.defs"


def settings_of(path: str) -> dict[str, str]:
    """Return the settings of a file of useradd: ``KEY=value`` or ``KEY value``."""
    found = {}
    for line in (read_file(path) or b"").decode("utf-8", "replace").splitlines():
        words = line.split("#")[0].replace("=", " ", 1).split()
        if len(words) == 2:
            found[words[0]] = words[1]
    return found


def check_folder(path: str, what: str) -> str:
    """Return the real path of a folder that only root changes. Raises Refused for another."""
    real = os.path.realpath(path)
    try:
        found = os.lstat(real)
    except OSError as error:
        raise Refused(f"{what} {path} cannot be used: {error.strerror}", "spawner") from None
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != 0 or found.st_mode & 0o022:
        raise Refused(f"{what} {path} is not a folder that only root may write", "spawner")
    return real


@contextlib.contextmanager
def _beside(parent: str) -> Iterator[str]:
    """Give the folder beside the homes in ``parent``, locked also against other machines."""
    path = os.path.join(parent, FOLDER)
    while True:
        with contextlib.suppress(FileExistsError):
            os.mkdir(path, 0o700)
        try:
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        try:
            found = os.fstat(fd)
            if found.st_uid != 0 or found.st_mode & 0o077:
                raise Refused(f"{path} is not root's own folder", "spawner")
            fcntl.flock(fd, fcntl.LOCK_EX)
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(found, os.lstat(path)):  # else it was removed meanwhile
                    yield path
                    return
        finally:
            os.close(fd)


def make_home(entry: Entry, login: str, ledger: str, skeleton: str) -> None:
    """See that ``login`` has the home ``entry.home``, and note what was made.

    Raises Refused, or OSError as on a full disk: nothing is left then.
    """
    parent = check_folder(os.path.dirname(entry.home), "the folder of homes")
    home = os.path.join(parent, os.path.basename(entry.home))
    with _beside(parent) as beside:
        claim = os.path.join(beside, f"{login}.{ledger}")
        os.close(os.open(claim, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
        if _exists(home, entry):
            return
        new = claim + ".new"
        remove_tree(new)
        try:
            os.mkdir(new, 0o700)
            _copy(check_folder(skeleton, "the skeleton of homes"), new, entry)
            os.chown(new, entry.uid, entry.gid)
            os.chmod(new, _mode())
            _write_made(os.path.join(beside, f"{login}.{MADE}"), os.lstat(new).st_ino)
            os.rename(new, home)
            sync_folder(parent)
        except BaseException:
            remove_tree(new)
            raise


def _mode() -> int:
    """Return the mode of homes (login.defs(5))."""
    text = settings_of(LOGIN_DEFAULTS).get("HOME_MODE", "")
    return int(text, 8) & 0o755 if re.fullmatch("[0-7]{3,5}", text) else 0o700


def _exists(home: str, entry: Entry) -> bool:
    try:
        found = os.lstat(home)
    except FileNotFoundError:
        return False
    if not stat.S_ISDIR(found.st_mode):
        raise Refused(f"{home} is no folder: it is not taken for a home")
    if found.st_uid != entry.uid:
        raise Refused(
            f"{home} belongs to the number {found.st_uid}, and the account would have {entry.uid}:"
            " give the user the trait host_user_uid, or move the folder away"
        )
    return True


def remove_home(entry: Entry, login: str, ledger: str) -> None:
    """Remove a home that tele made, unless another node uses it. Raises OSError, Refused."""
    if not entry.home:
        return
    parent = os.path.realpath(os.path.dirname(entry.home))
    if not os.path.isdir(os.path.join(parent, FOLDER)):
        return
    home = os.path.join(parent, os.path.basename(entry.home))
    with _beside(parent) as beside:
        claim = os.path.join(beside, f"{login}.{ledger}")
        old = claim + ".old"
        with contextlib.suppress(FileNotFoundError):
            os.unlink(claim)
        remove_tree(claim + ".new")
        claims = [
            name
            for name in os.listdir(beside)
            if name.rpartition(".")[0] == login and not os.path.isdir(os.path.join(beside, name))
        ]
        made = os.path.join(beside, f"{login}.{MADE}")
        if claims == [f"{login}.{MADE}"]:
            with contextlib.suppress(FileNotFoundError):
                is_made = read_file(made) == b"%d" % os.lstat(home).st_ino
                if is_made and not os.path.lexists(old):
                    os.rename(home, old)  # a place of mounts stays, with an error
            os.unlink(made)
    remove_tree(old)
    with _beside(parent) as beside, contextlib.suppress(OSError):  # others have claims
        os.rmdir(beside)


def _write_made(path: str, inode: int) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        write_all(fd, b"%d" % inode)
        os.fsync(fd)
    finally:
        os.close(fd)


def remove_tree(path: str) -> None:
    """Remove a folder in one that only root enters; no link in it is followed. Raises Refused."""
    if os.path.lexists(path):
        done = run_tool("rm", "-rf", "--one-file-system", "--", path)
        if os.path.lexists(path):
            raise Refused(f"{path} cannot be removed: {done.text}", "spawner")


def _copy(source: str, target: str, entry: Entry) -> None:
    """Copy what is in the folder ``source`` into ``target``, which only root enters."""
    for each in os.scandir(source):
        to = os.path.join(target, each.name)
        mode = each.stat(follow_symlinks=False).st_mode
        if stat.S_ISLNK(mode):
            os.symlink(os.readlink(each.path), to)
        elif stat.S_ISDIR(mode):
            os.mkdir(to, 0o700)
            _copy(each.path, to, entry)
        elif stat.S_ISREG(mode):
            _copy_file(each.path, to)
        else:
            continue
        os.chown(to, entry.uid, entry.gid, follow_symlinks=False)
        if not stat.S_ISLNK(mode):
            os.chmod(to, mode & 0o777)  # no set-id


def _copy_file(source: str, target: str) -> None:
    reading = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        writing = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            while data := os.read(reading, 1 << 16):
                write_all(writing, data)
        finally:
            os.close(writing)
    finally:
        os.close(reading)
