"""Accounts that tele makes in tests: names that no machine has, removed whatever fails."""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
import shutil
import signal
import subprocess
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

needs_sudo = [
    pytest.mark.root,
    *(
        pytest.mark.skipif(shutil.which(each, path="/usr/sbin:/usr/bin") is None, reason=each)
        for each in ("useradd", "sudo", "visudo")
    ),
]
SUDOERS = Path("/etc/sudoers.d")
BESIDE_HOMES = Path("/home/.tele")


class Names:
    """Names of one test, all with its own random word."""

    def __init__(self) -> None:
        self.word = f"q{uuid.uuid4().hex[:12]}"

    def __call__(self, kind: str) -> str:
        """Return a name of this test."""
        return f"{kind}{self.word}"

    def accounts(self) -> list[pwd.struct_passwd]:
        """The accounts with its names that there are."""
        return [each for each in pwd.getpwall() if self.word in each.pw_name]

    def groups(self) -> list[str]:
        """The groups with its names that there are."""
        return [each.gr_name for each in grp.getgrall() if self.word in each.gr_name]

    def files(self) -> list[Path]:
        """The files with its names in the folders that tele writes."""
        folders = (SUDOERS, Path("/home"), BESIDE_HOMES, Path("/run/sudo/ts"), Path("/var/mail"))
        return [
            path
            for folder in folders
            if folder.is_dir()
            for path in folder.iterdir()
            if self.word in path.name
        ]

    def left(self) -> list[str]:
        """All that there is of this test on the machine."""
        accounts = [each.pw_name for each in self.accounts()]
        return [*accounts, *self.groups(), *map(str, self.files())]

    def remove(self) -> None:
        """Remove it all."""
        for account in self.accounts():
            kill_all(account.pw_uid)
            _run("userdel", "-f", account.pw_name)
        for name in self.groups():
            _run("groupdel", name)
        for path in self.files():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
        with contextlib.suppress(OSError):
            BESIDE_HOMES.rmdir()


@contextmanager
def made_accounts() -> Iterator[Names]:
    """Give names; whatever is left of them on this machine is removed."""
    names = Names()
    try:
        yield names
    finally:
        names.remove()


def kill_all(uid: int) -> None:
    """End the processes of an account of a test, and wait for that."""
    for _ in range(500):
        mine = [
            int(p.name) for p in Path("/proc").iterdir() if p.name.isdecimal() and _is_of(p, uid)
        ]
        if not mine:
            return
        for pid in mine:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)


def _is_of(process: Path, uid: int) -> bool:
    try:
        return process.stat().st_uid == uid
    except FileNotFoundError:
        return False


def _run(*words: str) -> None:
    subprocess.run(words, capture_output=True, check=False)
