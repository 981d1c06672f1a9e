"""How does a child of the spawner make a socket as its account, and give it away?

Invariants:

* Standard library only. It runs after the privileges are gone for good: what the account
  may not connect to or create, it does not.
* Nothing that exists is removed but the socket that was made here, when the other end of
  descriptor 0 is closed: so also when the node dies.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from typing import Final, NoReturn

from tele.spawner.accounts import Refused

CONNECT_TIMEOUT: Final = 20.0
BACKLOG: Final = 128
#: Where folders for agents are made, as sshd does it.
AGENT_FOLDERS: Final = "/tmp"  # noqa: S108 - a folder of an unpredictable name, 0700


def pass_socket(kind: str, words: list[bytes], report: int) -> NoReturn:
    """Do what ``kind`` says, send the socket through descriptor 0, and end. Raises Refused."""
    control = socket.socket(fileno=0)
    if kind == "connect":
        made = _connect(words[0])
        socket.send_fds(control, [words[0]], [made.fileno()])
        os._exit(0)
    # The node closes its end when it hangs up, too; that is what to wait for.
    for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGINT, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    folder = _make_folder() if kind == "agent" else None
    path = os.path.join(folder, b"agent") if folder is not None else words[0]
    try:
        _listen(path, control, report)
    finally:
        if folder is not None:
            with contextlib.suppress(OSError):  # the account put something else there
                os.rmdir(folder)
    os._exit(0)


def _connect(path: bytes) -> socket.socket:
    made = socket.socket(socket.AF_UNIX)
    made.settimeout(CONNECT_TIMEOUT)
    try:
        made.connect(path)
    except OSError as error:
        raise _refused(path, error) from None
    return made


def _listen(path: bytes, control: socket.socket, report: int) -> None:
    """Listen at ``path`` until the other end of ``control`` is closed."""
    made = socket.socket(socket.AF_UNIX)
    before = os.umask(0o177)
    try:
        made.bind(path)
    except OSError as error:
        raise _refused(path, error) from None
    finally:
        os.umask(before)
    whose = _identity(path)
    try:
        made.listen(BACKLOG)
        socket.send_fds(control, [path], [made.fileno()])
        made.close()
        os.close(report)
        while control.recv(1):
            continue
    finally:
        if whose is not None and _identity(path) == whose:
            os.unlink(path)


def _identity(path: bytes) -> tuple[int, int] | None:
    try:
        found = os.lstat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _make_folder() -> bytes:
    path = os.path.join(AGENT_FOLDERS, f"tele-{os.urandom(8).hex()}").encode()
    try:
        os.mkdir(path, 0o700)
    except OSError as error:
        raise _refused(path, error) from None
    return path


def _refused(path: bytes, error: OSError) -> Refused:
    shown = path.decode("utf-8", "backslashreplace")
    return Refused(f"{shown!r}: {error.strerror or error}", "socket")
