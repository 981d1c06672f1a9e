"""Which accounts of this machine may be served, and by which user?

Invariants:

* Standard library only: the spawner loads it, beside the node.
* An account is served under its exact name; as an ordinary user, only one's own.
* A lookup may wait for name services of the machine: never on the thread of the reactor.
"""

from __future__ import annotations

import os
import pwd
import time
from collections.abc import Sequence
from typing import Final

from tele.spawner.shells import SHELLS, is_unrestricted

NO_LOGIN_SHELLS: Final = frozenset({"nologin", "false"})
#: nologin(5): the administrator's, and the one that systemd makes while it starts or stops.
NOLOGIN_FILES: Final = ("/etc/nologin", "/run/nologin")


class Refused(Exception):
    """A session that does not start. ``reason`` is a stable code, the text is for the user."""

    def __init__(self, message: str, reason: str = "account") -> None:
        super().__init__(message)
        self.reason = reason


def find_account(login: str) -> pwd.struct_passwd:
    """Return the account that is named exactly ``login``.

    Raises Refused if there is none, or if this process cannot become it. May ask name
    services of the machine, so it may wait.
    """
    if not 0 < len(login) <= 256 or not login.isprintable() or set(login) & set("/:\0"):
        raise Refused("that is no name of an account")
    try:
        account = pwd.getpwnam(login)
    except (KeyError, ValueError):
        raise Refused(f"there is no account {login!r} on this machine") from None
    if account.pw_name != login:
        # A name service that folds names would let "Root" pass where "root" is denied.
        raise Refused(f"the account {login!r} is called {account.pw_name!r}; log in as that")
    if os.geteuid() != 0 and account.pw_uid != os.getuid():
        raise Refused(
            f"this node runs as {own_login()!r} and serves only that account, not {login!r}"
        )
    return account


def own_login() -> str:
    """Return the name of the account that this process runs as, or its number."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def read_file(path: str, limit: int = -1) -> bytes | None:
    """Return the first ``limit`` bytes of a file; None if it cannot be read."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        size = os.fstat(fd).st_size + 1 if limit < 0 else limit
        data = b""
        while more := os.read(fd, size - len(data)):
            data += more
        return data
    except OSError:
        return None
    finally:
        os.close(fd)


def check_open(account: pwd.struct_passwd, shadow: str = "/etc/shadow") -> None:
    """Raise Refused if ``account`` has expired (shadow(5); days since 1970)."""
    # An ordinary user cannot read it, and serves only themself.
    text = b"\n" + (read_file(shadow) or b"")
    start = text.find(b"\n%s:" % os.fsencode(account.pw_name)) + 1
    if start:
        fields = text[start:].partition(b"\n")[0].split(b":")
        if len(fields) > 7 and fields[7].isdigit() and int(fields[7]) < time.time() // 86400:
            raise Refused(f"the account {account.pw_name!r} has expired", "expired")


def check_sessions(account: pwd.struct_passwd, nologin: Sequence[str] = NOLOGIN_FILES) -> None:
    """Raise Refused if ``account`` may run nothing now: nologin(5), or no login shell."""
    if account.pw_uid != 0:
        for path in nologin:
            text = read_file(path, 1024)
            if text is not None:
                message = text.decode("utf-8", "replace").strip()
                raise Refused(message or "this machine accepts no logins now (nologin)", "nologin")
    if os.path.basename(account.pw_shell) in NO_LOGIN_SHELLS:
        raise Refused(
            f"the account {account.pw_name!r} is not for logging in: its shell is "
            f"{account.pw_shell}"
        )


def check_files(account: pwd.struct_passwd, shells: str = SHELLS) -> None:
    """Raise Refused if the shell of ``account`` restricts it.

    The file server is started without that shell, so the shell could not refuse; and a user who
    writes files can write start-up files of such a shell.
    """
    shell = account.pw_shell or "/bin/sh"
    if not is_unrestricted(shell, shells):
        raise Refused(
            f"the shell of {account.pw_name!r}, {shell}, restricts it or is not in {shells}:"
            " there is no sftp for it"
        )
