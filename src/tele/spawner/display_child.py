"""How does a session get the cookie of a forwarded display? Through ``xauth``, as under sshd.

Invariants:

* Standard library only; it runs after the privileges are gone for good.
* The cookie goes through standard input, never in arguments or the environment.
* Without the cookie the session starts; its programs report that they have no display.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
from typing import Final

XAUTH: Final = ("/usr/bin/xauth", "/usr/X11R6/bin/xauth", "/usr/local/bin/xauth")
#: Seconds; xauth itself waits for a lock for up to 20.
XAUTH_TIMEOUT: Final = 15


def find_xauth() -> str | None:
    """Return where ``xauth`` is."""
    return next((path for path in XAUTH if os.access(path, os.X_OK)), None)


def add_cookie(cookie: str, environment: dict[bytes, bytes]) -> None:
    """Put ``cookie`` (display, protocol, value) in place of what the account has of it."""
    program = find_xauth()
    if program is None or not _run(program, cookie, environment):
        os.write(2, b"the cookie of the display could not be stored: xauth failed\n")


def _run(program: str, cookie: str, environment: dict[bytes, bytes]) -> bool:
    reading, writing = os.pipe2(os.O_CLOEXEC)
    quiet = [(os.POSIX_SPAWN_OPEN, number, os.devnull, os.O_WRONLY, 0) for number in (1, 2)]
    try:
        process = os.posix_spawn(
            program,
            [program, "-q", "-"],
            environment,
            file_actions=[(os.POSIX_SPAWN_DUP2, reading, 0), *quiet],
        )
    except OSError:
        os.close(writing)
        return False
    finally:
        os.close(reading)
    display = cookie.partition(" ")[0]
    # Less than a pipe holds: this cannot wait, and SIGPIPE would be xauth's early end.
    before = signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    with contextlib.suppress(BrokenPipeError):  # its status is checked
        os.write(writing, f"remove {display}\nadd {cookie}\n".encode("ascii"))
    signal.signal(signal.SIGPIPE, before)
    os.close(writing)
    watch = os.pidfd_open(process)
    ended, _, _ = select.select([watch], [], [], XAUTH_TIMEOUT)
    os.close(watch)
    if not ended:
        os.kill(process, signal.SIGKILL)
    _, status = os.waitpid(process, 0)
    return status == 0
