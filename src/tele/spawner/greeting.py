"""What does a login shell print before its prompt?

As sshd: time and address of the last login, the message of the day of the cluster and that of the
machine; nothing with
``~/.hushlogin``, and nothing in what is no interactive shell.

Invariants:

* Standard library only: the spawner loads it.
* Called as the user: nothing is read that the user could not read.
* All of it fits into the buffer of a terminal that is not read yet.
"""

from __future__ import annotations

import contextlib
import os
import time
from typing import Final

MOTD_FILES: Final = ("/run/motd.dynamic", "/etc/motd")
LIMIT: Final = 16 * 1024


def greeting(
    home: str,
    last: tuple[float, str] | None,
    files: tuple[str, ...] = MOTD_FILES,
    message: str = "",
) -> bytes:
    """Return the text for a user whose home directory is ``home``.

    ``message`` is the cluster's, lines without control characters; it comes first after the last
    login, so that a long file does not push it out.
    """
    if os.path.exists(os.path.join(home, ".hushlogin")):
        return b""
    text = b""
    if last is not None:
        when = f"Last login: {time.ctime(last[0])}"
        # Another program may have written the name that a client chose for its address.
        host = last[1] if last[1].isprintable() else ascii(last[1])
        text += os.fsencode(f"{when} from {host}\n" if host else f"{when}\n")
    if message:
        text += message.encode("utf-8", "replace") + b"\n"
    for path in files:
        with contextlib.suppress(OSError), open(path, "rb") as file:
            text += file.read(LIMIT)
    return text[:LIMIT]
