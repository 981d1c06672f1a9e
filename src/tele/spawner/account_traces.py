"""What do other programs keep of an account, which would serve the next user of its name or number?

Invariants:

* Standard library only: the spawner loads it.
* Jobs of a dropped account are removed before the account is: nothing new begins as it, and the
  next user of the login does not run them.
* Only files in folders of the system are removed, by the account's name or owned by its number;
  no link is followed.
"""

from __future__ import annotations

import contextlib
import os
import stat
from typing import Final

#: Jobs by name of account: crontabs of Debian, Red Hat and SUSE, and who has a service manager.
JOBS_BY_NAME: Final = (
    "/var/spool/cron/crontabs",
    "/var/spool/cron",
    "/var/spool/cron/tabs",
    "/var/lib/systemd/linger",
)
#: Jobs of at(1), by owner.
JOBS_BY_OWNER: Final = ("/var/spool/cron/atjobs", "/var/spool/at", "/var/spool/atjobs")
MAILS: Final = ("/var/mail", "/var/spool/mail")
#: What sudo remembers of an account.
SUDO_FILES: Final = ("/run/sudo/ts", "/var/lib/sudo/ts", "/var/lib/sudo/lectured")


def remove_jobs(login: str, uid: int) -> None:
    """Remove what would be run as the account later."""
    for folder in JOBS_BY_NAME:
        _unlink(os.path.join(folder, login))
    for folder in JOBS_BY_OWNER:
        with contextlib.suppress(OSError):
            for name in os.listdir(folder):
                _unlink(os.path.join(folder, name), uid)


def remove_traces(login: str, uid: int) -> None:
    """Remove what is kept of an account that is gone: mail, and what sudo knows."""
    for folder in MAILS:
        _unlink(os.path.join(folder, login), uid)
    for folder in SUDO_FILES:
        _unlink(os.path.join(folder, login))


def _unlink(path: str, owner: int | None = None) -> None:
    """Remove a file, if it is there and is the owner's."""
    with contextlib.suppress(OSError):
        found = os.lstat(path)
        if not stat.S_ISDIR(found.st_mode) and owner in (None, found.st_uid):
            os.unlink(path)
