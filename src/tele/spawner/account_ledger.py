"""What did tele make on this machine: which accounts, groups and homes are its own?

A file beside the node's state, one for each node. An account is written down before it is made, and
forgotten after all of it is gone, so that a crash at any time leaves nothing that is not known.

Invariants:

* Standard library only: the spawner loads it.
* An account is tele's only if it carries the random mark that the ledger has for it: one that an
  administrator made anew under the same name is not.
* A number of an account that was removed is given to no other login: files that it left would be
  theirs.
* One process changes the machine for a ledger at a time. Programs that it runs inherit the lock:
  who comes after one that was killed waits for what that had begun.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pwd
from collections.abc import Iterator
from typing import Final

from tele.spawner.accounts import Refused, read_file

FILE: Final = "accounts.json"
MARK: Final = "tele-"


class Entry:
    """One account: its mark in passwd(5), its numbers, and what else was made for it.

    ``home`` is its folder.
    """

    def __init__(
        self,
        mark: str,
        uid: int,
        gid: int,
        drop: bool,
        groups: list[str] | None = None,
        home: str = "",
    ) -> None:
        self.mark = mark
        self.uid = uid
        self.gid = gid
        self.drop = drop
        self.groups = groups or []
        self.home = home

    def is_of(self, account: pwd.struct_passwd) -> bool:
        """Whether ``account`` is the one that was made."""
        return account.pw_gecos.split(",")[0] == self.mark and account.pw_uid == self.uid


class Ledger:
    """``uids`` are numbers of logins that had an account, ``groups`` those that were made.

    ``owner`` is the spawner that serves the node whose ledger it is.
    """

    def __init__(
        self,
        id: str,  # noqa: A002
        accounts: dict[str, Entry] | None = None,
        groups: dict[str, int] | None = None,
        uids: dict[str, int] | None = None,
        owner: str = "",
    ) -> None:
        self.id = id
        self.owner = owner
        self.accounts = accounts or {}
        self.groups = groups or {}
        self.uids = uids or {}


def new_mark() -> str:
    """Return a random mark."""
    return MARK + os.urandom(8).hex()


class LedgerFile:
    """The file, in a folder of root's."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._path = os.path.join(folder, FILE)

    @property
    def exists(self) -> bool:
        """Whether anything was ever made."""
        return os.path.exists(self._path)

    @contextlib.contextmanager
    def locked(self) -> Iterator[Ledger]:
        """Give the ledger, which no other process changes meanwhile. Raises OSError, Refused."""
        with contextlib.suppress(FileExistsError):
            os.mkdir(self._folder, 0o700)
        lock = os.open(self._path + ".lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            os.set_inheritable(lock, True)
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield self._read()
        finally:
            os.close(lock)

    def _read(self) -> Ledger:
        text = read_file(self._path)
        if text is None and not os.path.lexists(self._path):
            return Ledger(os.urandom(4).hex())
        try:
            made = json.loads(text or b"")
            entries = {name: Entry(**each) for name, each in made.pop("accounts").items()}
            return Ledger(accounts=entries, **made)
        except (ValueError, TypeError, KeyError, AttributeError):
            raise Refused(
                f"{self._path} cannot be read: move it away, and remove the accounts that begin"
                f" with {MARK!r} in the fifth field of /etc/passwd by hand",
                "spawner",
            ) from None

    def write(self, ledger: Ledger) -> None:
        """Have ``ledger`` on disk, whole or as it was. Raises OSError."""
        new = self._path + ".new"
        fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            write_all(fd, json.dumps(vars(ledger), default=vars).encode("ascii"))
            os.fsync(fd)
        finally:
            os.close(fd)
        os.rename(new, self._path)
        sync_folder(self._folder)


def write_all(fd: int, data: bytes) -> None:
    """Write all of ``data``. Raises OSError."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def sync_folder(path: str) -> None:
    """Sync the names in a folder. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
