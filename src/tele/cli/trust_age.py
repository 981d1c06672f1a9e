"""Are the authorities that a user trusts to be asked for again?

Each command that uses the cluster has them asked for in the background if they are old, so that
they follow a rotation of the CAs without a login, and no command waits: see :mod:`tele.cli.trust`.

Invariants:

* At most once in :data:`REFRESH_SECONDS`, whatever comes of it; a failure is no error of a command.
* Few imports: ``tele proxy ssh`` uses this.
"""

from __future__ import annotations

import os
import sys
import time

from tele.cli.home import Files, Home, Profile

REFRESH_SECONDS = 600.0
#: What was inherited has numbers below this one; our own files are closed by exec(2).
DESCRIPTORS = 1024


def is_due(files: Files) -> bool:
    """Whether the authorities are old; the caller that is told so is to refresh them."""
    try:
        age = time.time() - files.authorities.stat().st_mtime
        if 0 <= age < REFRESH_SECONDS:
            return False
        os.utime(files.authorities)
    except OSError:
        return False  # there are none, or they are another account's: a login repairs that
    return True


def refresh_soon(home: Home, profile: Profile) -> None:
    """Refresh them in the background if they are old."""
    if not is_due(home.files(profile)):
        return
    words = ["-m", "tele.cli.trust", str(home.path), profile.cluster, profile.user]
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        return
    # Not our child, since we may become ssh, which waits for none; and of no terminal and pipe.
    try:
        os.setsid()
        if os.fork() == 0:
            os.chdir(home.path)  # the first folder from which Python imports: not just any
            null = os.open(os.devnull, os.O_RDWR)
            for number in range(3):
                os.dup2(null, number)
            os.closerange(3, DESCRIPTORS)
            os.execv(sys.executable, [sys.executable, *words])  # noqa: S606  (no shell)
    finally:
        os._exit(0)
