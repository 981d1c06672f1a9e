"""What is a person told as their shell begins?

As sshd does: when and from where they came last, and the message of the day; nothing with
``~/.hushlogin``, and nothing to what is no interactive shell.

Invariants:

* Standard library only: the spawner loads it.
* Called as the person: nothing is read that they could not read themselves.
* All of it fits into a terminal that nobody reads yet.
"""

from __future__ import annotations

import contextlib
import os
import time
from typing import Final

MOTD_FILES: Final = ("/run/motd.dynamic", "/etc/motd")
LIMIT: Final = 16 * 1024


def greeting(
    home: str, last: tuple[float, str] | None, files: tuple[str, ...] = MOTD_FILES
) -> bytes:
    """Return what to show to somebody whose home is ``home``."""
    if os.path.exists(os.path.join(home, ".hushlogin")):
        return b""
    text = b""
    if last is not None:
        when = f"Last login: {time.ctime(last[0])}"
        # Whoever wrote the record may have asked for the name of a stranger's address.
        host = last[1] if last[1].isprintable() else ascii(last[1])
        text += os.fsencode(f"{when} from {host}\n" if host else f"{when}\n")
    for path in files:
        with contextlib.suppress(OSError), open(path, "rb") as file:
            text += file.read(LIMIT)
    return text[:LIMIT]
