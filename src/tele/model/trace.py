"""What did a process of a session do, as the kernel of its machine reported it?"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import Enum
from typing import Any, Final

from attrs import Factory, fields, frozen

#: System calls that a role names, and that one program is traced for.
SYSCALLS_LIMIT: Final = 64
#: What the name of a system call is.
SYSCALL: Final = re.compile(r"[a-z_][a-z0-9_]{1,63}", re.ASCII)


class TraceKind(str, Enum):
    """What is traced of a session (the option ``enhanced_recording`` of roles).

    ``command``: programs that are executed, and their ends. ``disk``: files that are opened, made,
    changed and removed. ``network``: connections, and what is listened on. ``syscalls``: how often
    each process made each system call.
    """

    COMMAND = "command"
    DISK = "disk"
    NETWORK = "network"
    SYSCALLS = "syscalls"


class Handovers(str, Enum):
    """Whether a session may have something done by processes that are not its own.

    ``allow``: it is an event. ``deny``: the session ends.
    """

    ALLOW = "allow"
    DENY = "deny"


class TraceEvent(str, Enum):
    """The event that reports it; the value is its name in the audit, after ``session.``."""

    COMMAND = "command"
    DISK = "disk"
    NETWORK = "network"
    SYSCALLS = "syscalls"
    HANDOVER = "handover"


@frozen
class TracedProgram:
    """A program of a session that is to be traced, on ``channel``, as the account ``login``.

    ``syscalls`` are to be recorded one by one. ``may_end``: it may have to be killed, since a role
    forbids hand-overs.
    """

    session_id: str
    channel: int
    user: str
    login: str
    kinds: tuple[TraceKind, ...]
    syscalls: tuple[str, ...] = ()
    may_end: bool = False


@frozen
class TraceLost:
    """Records of one program that were lost, by their number, both included.

    ``last`` is 0 if it is not traced any more: everything from ``first`` on is lost. ``missed`` is
    how often the tracer was not asked at all, on the whole machine: then both are 0.
    """

    first: int
    last: int
    missed: int = 0


#: Fields of a record that its frame and event have in another form.
OWN: Final = frozenset(("event", "details", "time"))


@frozen
class Traced:
    r"""One action of one process.

    ``number`` counts the records of a program from 1, those that are lost included. ``time`` is
    in nanoseconds since 1970, by the clock of the machine. ``action`` is such as ``exec``,
    ``exit``, ``open``, ``unlink`` or ``connect``; of a hand-over it is to what. ``pid`` and
    ``parent`` are process ids, ``uid`` the real user id, ``program`` the name that the kernel has
    of the process. ``result`` is 0 or more, or a negative errno.

    ``details`` are of this action: ``path``, ``argv``, ``address`` and so on, in JSON. Texts of
    the process are as it gave them, undecodable bytes as ``\xff``.
    """

    event: TraceEvent
    number: int
    time: int
    action: str
    pid: int
    parent: int
    uid: int
    program: str
    result: int = 0
    details: Mapping[str, Any] = Factory(dict)

    @property
    def fields(self) -> dict[str, Any]:
        """Its fields in a frame and in an event."""
        own = {each.name: getattr(self, each.name) for each in fields(Traced)}
        return {k: v for k, v in own.items() if k not in OWN} | dict(self.details)
