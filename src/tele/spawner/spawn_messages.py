"""Which messages do the node and its spawner exchange?

Invariants:

* Standard library only: both ends load it.
* A message is ``JSON header NUL string NUL string ...``: strings are arguments and
  ``NAME=value``, which cannot hold NUL.
* What comes in is checked to the last key that is used; anything else is ValueError.

Requests: ``{"op": "start", "id", "kind", "login", "pty", "words", "cookie",
"message", "trace"}`` with descriptors
0, 1 and 2 (or a terminal's slave, or what a socket is passed through) beside it; ``{"op":
"signal", "id", "signal"}``; ``hangup`` (with ``"expelled": true`` all of its control group ends)
and ``kill`` with an ``id``; ``account`` with an ``id`` and what
:mod:`tele.spawner.host_accounts` is to do. Reports: ``{"event":
"started", "id", "pid", "cgroup"}`` (the id of its control group, or 0), ``failed`` (reason,
message), ``exited`` (status or signal, core), ``refused`` (message), ``account`` (ok, and the
answer).
"""

from __future__ import annotations

import array
import json
import re
import socket
from typing import Any, Final, NamedTuple

from tele.spawner.accounts import Refused
from tele.spawner.scp_request import PATHS_LIMIT

#: Bytes of one message: a command and variables as long as execve takes them. The kernel takes it
#: in one piece where the socket's buffer is as large.
MAX_MESSAGE: Final = 300_000
MAX_DESCRIPTORS: Final = 3
#: Characters of a message of the day.
MESSAGE_LIMIT: Final = 16 * 1024
#: Arguments of each kind: ``exec`` has one command line for the account's shell;
#: ``forced`` too, but that shell reads no start-up file; ``sftp`` is the file server, with
#: rules of paths (:func:`tele.spawner.restricted_files.read_files`) or without, ``scp`` is ours,
#: with rules, options and paths (:class:`tele.spawner.scp_request.ScpRequest`), and
#: ``program`` is executed as it is, both without a shell. The others execute nothing: they
#: connect to a path, listen at one, or at one of their own, and pass the socket through
#: descriptor 0. Rules of paths may follow a path (:func:`tele.spawner.path_patterns.read_rules`).
KINDS: Final = {
    "shell": range(1),
    "exec": range(1, 2),
    "forced": range(1, 2),
    "sftp": range(2),
    "scp": range(3, PATHS_LIMIT + 3),
    "program": range(1, 256),
    "connect": range(1, 3),
    "listen": range(1, 3),
    "agent": range(1),
}
SESSION_KINDS: Final = frozenset({"shell", "exec", "forced", "sftp", "scp"})
#: Kinds of restricted users: nothing of theirs runs or counts before.
RESTRICTED_KINDS: Final = frozenset({"forced", "sftp", "scp"})
SOCKET_KINDS: Final = frozenset({"connect", "listen", "agent"})

#: What a request may set; everything else the spawner makes. Nothing that a dynamic linker,
#: an interpreter or a shell would take for an order (LD_*, PYTHON*, BASH_ENV, IFS ...).
CLIENT_ENVIRONMENT: Final = re.compile(
    r"LANG|LC_[A-Z]{1,32}|COLORTERM|NO_COLOR|GIT_PROTOCOL", re.ASCII
)
NODE_ENVIRONMENT: Final = re.compile(
    r"TERM|DISPLAY|SSH_(?:CONNECTION|CLIENT|ORIGINAL_COMMAND|AUTH_SOCK)|TELE_[A-Z_]{1,32}",
    re.ASCII,
)
#: Arguments of ``xauth add``: the name of the display, the protocol, and the cookie.
_COOKIE: Final = re.compile(
    r"unix:\d{1,5}\.\d{1,3} [A-Za-z0-9-]{1,64} [0-9a-fA-F]{2,512}", re.ASCII
)
#: Those of RFC 4254, section 6.9, without SIG.
SIGNALS: Final = frozenset(
    {"ABRT", "ALRM", "FPE", "HUP", "ILL", "INT", "KILL", "PIPE", "QUIT", "SEGV", "TERM"}
    | {"USR1", "USR2"}
)


def pack(header: dict[str, Any], strings: list[bytes] | tuple[bytes, ...] = ()) -> bytes:
    """Return one message. Raises Refused if a string holds NUL or all is too much."""
    if any(b"\0" in string for string in strings):
        raise Refused("a command or a variable holds a NUL byte", "invalid")
    data = b"\0".join((json.dumps(header).encode("ascii"), *strings))
    if len(data) > MAX_MESSAGE:
        raise Refused(
            f"a command line and its environment of {len(data)} bytes are more than {MAX_MESSAGE}:"
            " send what is longer on standard input, or in a file",
            "invalid",
        )
    return data


def unpack(data: bytes) -> tuple[dict[str, Any], list[bytes]]:
    """Return header and strings. Raises ValueError on anything malformed."""
    head, *strings = data.split(b"\0")
    if head[:1] != b"{":
        raise ValueError("no header")
    try:
        header = json.loads(head)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(header, dict):
        raise ValueError("the header is not an object")
    return header, strings


def receive(channel: socket.socket, descriptors: int) -> tuple[bytes, list[int], int]:
    """Return one message of up to MAX_MESSAGE + 1 bytes, its descriptors, which no program
    inherits, and flags (recvmsg(2)).
    """
    # Not socket.recv_fds: CPython's ignores the flags that it is given.
    found = array.array("i")
    data, control, flags, _ = channel.recvmsg(
        MAX_MESSAGE + 1,
        socket.CMSG_LEN(descriptors * found.itemsize),
        socket.MSG_CMSG_CLOEXEC,
    )
    for level, kind, content in control:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            found.frombytes(content[: len(content) - len(content) % found.itemsize])
    return data, list(found), flags


class Options(NamedTuple):
    """Settings of a spawner, given as it is started."""

    #: The PAM service of every session; empty for none.
    pam: str = ""
    #: Whether what a session leaves running ends with it.
    kill_leftovers: bool = False
    #: The soft limit of open files that a session begins with; None is the spawner's own.
    open_files: int | None = None
    #: The folder with what was made of accounts; empty: none is made. Then what roles may set.
    accounts: str = ""
    homes: bool = True
    shells: bool = True
    sudoers: bool = True
    #: The descriptor of the tracer's socket for sessions (:mod:`tele.spawner.traced`), if any.
    tracer: int | None = None


NO_OPTIONS: Final = Options()


class Start:
    """A checked request for a session."""

    __slots__ = ("cookie", "environment", "kind", "login", "message", "pty", "trace", "words")

    def __init__(self, header: dict[str, Any], strings: list[bytes]) -> None:
        kind, login, pty, words = (header.get(k) for k in ("kind", "login", "pty", "words"))
        if type(kind) is not str or type(login) is not str or type(pty) is not bool:
            raise ValueError("kind, login or pty is not what it should be")
        if type(words) is not int or not 0 <= words <= len(strings):
            raise ValueError("words is not a number of words")
        if words not in KINDS.get(kind, ()):
            raise ValueError("no such kind, or not the words that it needs")
        cookie = header.get("cookie", "")
        if type(cookie) is not str or (cookie and not _COOKIE.fullmatch(cookie)):
            raise ValueError("that is no cookie of a display")
        message = header.get("message", "")
        if type(message) is not str or len(message) > MESSAGE_LIMIT:
            raise ValueError("that is no message of the day")
        trace = header.get("trace", 0)
        if type(trace) is not int or not 0 <= trace < 1 << 53:
            raise ValueError("that is no number of a traced session")
        if trace and kind not in SESSION_KINDS:
            raise ValueError("only what a session executes can be traced")
        #: The session of the tracer that it joins; 0 for none.
        self.trace: int = trace
        self.cookie: str = cookie
        self.message: str = message
        self.kind = kind
        self.login: str = login
        self.pty = pty
        self.words = strings[:words]
        self.environment: dict[str, bytes] = {}
        for string in strings[words:]:
            name, separator, value = string.partition(b"=")
            text = name.decode("ascii", "replace")
            if not separator or not (
                CLIENT_ENVIRONMENT.fullmatch(text) or NODE_ENVIRONMENT.fullmatch(text)
            ):
                raise ValueError("a variable that sessions are not given")
            self.environment[text] = value
