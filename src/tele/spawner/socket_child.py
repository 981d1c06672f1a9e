"""How does a child of the spawner make a socket as its account, and give it away?

Invariants:

* Standard library only. It runs after the privileges are gone for good: what the account
  may not connect to or create, it does not.
* Nothing that exists is removed but the socket that was made here, when the other end of
  descriptor 0 is closed: so also when the node dies.
* With rules, what is used is what they were asked about: a link that is put there meanwhile leads
  nowhere else.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import Callable
from typing import Final, NoReturn

from tele.spawner.accounts import Refused
from tele.spawner.path_patterns import PathRules, read_rules
from tele.spawner.pinned_paths import Pinned, Unpinned, home_path, pin, pin_entry

CONNECT_TIMEOUT: Final = 20.0
BACKLOG: Final = 128
#: Where folders for agents are made, as sshd does it.
AGENT_FOLDERS: Final = "/tmp"  # noqa: S108 - a folder of an unpredictable name, 0700


def pass_socket(kind: str, words: list[bytes], report: int, home: bytes) -> NoReturn:
    """Do what ``kind`` says, send the socket through descriptor 0, and end. Raises Refused.

    ``home`` is the home directory of the account, for rules.
    """
    control = socket.socket(fileno=0)
    rules = read_rules(words[1], home_path(home)) if len(words) > 1 else None
    if kind == "connect":
        made = _connect(words[0], rules)
        socket.send_fds(control, [words[0]], [made.fileno()])
        os._exit(0)
    # The node closes its end when it hangs up, too; that is what to wait for.
    for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGINT, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    folder = _make_folder() if kind == "agent" else None
    path = os.path.join(folder, b"agent") if folder is not None else words[0]
    try:
        _listen(path, control, report, rules)
    finally:
        if folder is not None:
            with contextlib.suppress(OSError):  # the account put something else there
                os.rmdir(folder)
    os._exit(0)


def _connect(path: bytes, rules: PathRules | None) -> socket.socket:
    made = socket.socket(socket.AF_UNIX)
    made.settimeout(CONNECT_TIMEOUT)
    try:
        with _allowed(path, pin, rules) as used:
            made.connect(used.path)
    except OSError as error:
        raise _refused(path, error) from None
    return made


def _allowed(
    path: bytes, hold: Callable[[bytes], Pinned], rules: PathRules | None
) -> Pinned | Unpinned:
    """Return what ``path`` leads to, if ``rules`` allow that. Raises Refused, or OSError.

    What is not allowed is told in the same words whether there is something or not.
    """
    if rules is None:
        return Unpinned(path)
    try:
        held = hold(path)
    except OSError:
        if rules.allows(os.path.normpath(path)):
            raise
        raise _forbidden(path) from None
    if not rules.allows(held.real):
        held.close()
        raise _forbidden(path)
    return held


def _listen(path: bytes, control: socket.socket, report: int, rules: PathRules | None) -> None:
    """Listen at ``path`` until the other end of ``control`` is closed."""
    try:
        held = _allowed(path, pin_entry, rules)
    except OSError as error:
        raise _refused(path, error) from None
    with held:
        _listen_at(held.path, path, control, report)


def _listen_at(path: bytes, asked: bytes, control: socket.socket, report: int) -> None:
    made = socket.socket(socket.AF_UNIX)
    before = os.umask(0o177)
    try:
        made.bind(path)
    except OSError as error:
        raise _refused(asked, error) from None
    finally:
        os.umask(before)
    whose = _identity(path)
    try:
        made.listen(BACKLOG)
        socket.send_fds(control, [asked], [made.fileno()])
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


def _forbidden(path: bytes) -> Refused:
    shown = path.decode("utf-8", "backslashreplace")
    return Refused(f"forwarding of the socket {shown!r} is not allowed", "forwarding")
