"""What may one connection do? Decided once, then passed on as a value."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from enum import Enum
from typing import Final

from attrs import evolve, field, frozen
from attrs.validators import min_len

from tele.model.actions import (
    ANY_FILES,
    EVERY_PATH,
    EVERYWHERE,
    NO_RULES,
    ForwardRules,
    TransferRules,
)
from tele.model.host_user import HostUser
from tele.model.identity import UserIdentity
from tele.model.joining import WatchRule
from tele.model.resources import MAX_FORWARDS, RecordingMode, RecordingSettings
from tele.model.trace import TraceKind
from tele.spawner.scp_request import read_scp


class Reason(str, Enum):
    """Why permission was denied. Stable; part of audit events."""

    NO_ROLE = "no_role"  # no role of the user exists any more
    NODE = "node"  # no role allows this node
    LOGIN = "login"  # no role allows this login here
    DENIED = "denied"  # a deny rule matched
    LOCKED = "locked"
    STALE = "stale"  # the locks of now are not known here, and a role needs them
    EXPIRED = "expired"
    REVOKED = "revoked"  # the user or the host was removed, replaced or has expired
    CLUSTER = "cluster"  # the certificate is of another cluster
    ACCOUNT = "account"  # the OS account does not exist or is not served here
    RECORDING = "recording"  # the session cannot be recorded any more
    HANDOVER = "handover"  # it had something done by others, which a role forbids
    IDLE = "idle"  # the user was idle for longer than the roles allow
    MFA = "mfa"  # a role needs a second factor
    ADDRESS = "address"  # a role needs a certificate for the client's address
    CONNECTIONS = "connections"  # the user has as many connections as the roles allow
    TIME = "time"  # a role would allow it at other times
    JOIN = "join"  # no role allows to join this session
    MODERATED = "moderated"  # a moderator ended the session, or it has to be watched and is not
    RULE = "rule"  # no rule lets the caller do this through the API


def connections(count: int) -> str:
    """Return the subject and verb of a text about open connections."""
    return "1 connection is" if count == 1 else f"{count} connections are"


class GatewayPorts(str, Enum):
    """Whether ports that listen for clients are open to other machines (sshd_config)."""

    NO = "no"
    YES = "yes"
    CLIENT = "clientspecified"


#: The forced command for the node's own file server.
INTERNAL_SFTP: Final = "internal-sftp"


@frozen
class CertificateLimits:
    """What a certificate permits of whatever roles allow, and the command that it forces.

    ``pinned``: it is valid for some addresses of clients only. ``mfa_host`` is the id of the host
    for a session on which a second factor was shown; empty: for none.
    """

    permit_pty: bool = True
    port_forwarding: bool = True
    agent_forwarding: bool = True
    x11_forwarding: bool = True
    force_command: str | None = None
    pinned: bool = True
    mfa_host: str = ""


@frozen
class Denied:
    """A denial. ``message`` is for the user: it names roles, node and login."""

    reason: Reason
    message: str


@frozen
class RecordingPlan:
    """How one connection is recorded, from its login to its end.

    ``sync``: output reaches the user only after auth has it; a session that waits for auth longer
    than ``sync_end_after`` ends. ``capture_head`` and ``capture_tail`` are the bytes kept of each
    stream of a command without a terminal, at its begin and at its end. ``input``: what the user
    types is recorded, too. ``strict``: nothing runs that cannot be recorded.
    ``trace`` is what is recorded of what programs do: one that cannot be traced does not start.
    ``syscalls`` are recorded one by one. ``no_handovers``: the session ends when something is
    handed over. ``count_opens``: repeated opens are counted together.
    """

    mode: RecordingMode = RecordingMode.NODE
    sync: bool = False
    sync_end_after: timedelta = timedelta(minutes=5)
    capture_head: int = 1 << 20
    capture_tail: int = 64 << 10
    input: bool = False
    strict: bool = False
    trace: tuple[TraceKind, ...] = ()
    syscalls: tuple[str, ...] = ()
    no_handovers: bool = False
    count_opens: bool = False

    @classmethod
    def of(
        cls,
        settings: RecordingSettings,
        *,
        input: bool,  # noqa: A002
        strict: bool,
        trace: tuple[TraceKind, ...] = (),
        syscalls: tuple[str, ...] = (),
        no_handovers: bool = False,
        count_opens: bool = False,
    ) -> RecordingPlan:
        """Return what the cluster's ``settings`` and the roles ask for."""
        return cls(
            settings.mode,
            settings.mode in (RecordingMode.NODE_SYNC, RecordingMode.PROXY_SYNC),
            settings.sync_end_after,
            settings.capture_head.bytes,
            settings.capture_tail.bytes,
            input,
            strict,
            trace,
            syscalls,
            no_handovers,
            count_opens,
        )


@frozen
class RoleGrant:
    """What one role that allows the login gives, without what the certificate withholds.

    An action is allowed if one of these gives all of it: what two roles give does not combine.
    ``force_command`` is the role's, or the certificate's. ``forward`` is which destinations of
    what ``port_forwarding`` permits; None is every one. ``files`` are the only ones that may be
    transferred, and all that may be done; None is anything.
    """

    role: str
    permit_pty: bool = True
    port_forwarding: bool = False
    agent_forwarding: bool = False
    x11_forwarding: bool = False
    forward: ForwardRules = NO_RULES
    files: TransferRules | None = None
    force_command: str | None = None
    break_glass: bool = False

    def covers(self, other: RoleGrant) -> bool:
        """Whether it gives all that ``other`` gives."""
        if self.force_command not in (None, other.force_command):
            return False
        if self.files not in (None, other.files):
            return False
        permits = ("permit_pty", "port_forwarding", "agent_forwarding", "x11_forwarding")
        if any(getattr(other, name) and not getattr(self, name) for name in permits):
            return False
        mine, others = self.forward, other.forward
        return not other.port_forwarding or all(
            own is None or (wanted is not None and set(wanted) <= set(own))
            for own, wanted in (
                (mine.local, others.local),
                (mine.remote, others.remote),
                (mine.streamlocal, others.streamlocal),
            )
        )

    def gives(self, kind: str, command: bytes) -> bool:
        """Whether its forced command is what is requested: a command line, or files by sftp."""
        if self.force_command == INTERNAL_SFTP:
            return kind == "subsystem" and command == b"sftp"
        return (
            self.force_command is not None
            and kind == "exec"
            and command == self.force_command.encode()
        )


def has_break_glass(given: Iterable[RoleGrant]) -> bool:
    """Whether one role with ``break_glass`` gives all that is ``given``: then the others add
    nothing that would have to be recorded.
    """
    several = tuple(given)
    return any(
        each.break_glass and all(each.covers(other) for other in several) for each in several
    )


@frozen
class Grant:
    """All that one SSH connection may do; no later step decides again.

    ``host_user`` is the account that a node makes for the login, ``emergency_user`` the one that
    roles with ``break_glass`` have made.

    ``given`` is what each role gives that allows it, in order of their names; there is one at
    least. Everything else is of the connection, and the strictest of these roles. ``expires`` is
    the end of the certificate. ``client_keepalive``, ``max_forwards``, ``client_idle_timeout``,
    ``disconnect_expired_cert`` and ``max_connections``: see
    :class:`tele.model.resources.RoleOptions`. ``denied_forwards`` are destinations that no role
    gives, because one denies them; with ``denied_files`` no role gives a program that could get
    around that, unless it forces it. ``emergency``: see :meth:`in_emergency`.
    """

    identity: UserIdentity
    login: str
    expires: datetime
    given: tuple[RoleGrant, ...] = field(validator=min_len(1))
    max_sessions: int = 10
    host_user: HostUser | None = None
    emergency_user: HostUser | None = None
    recording: RecordingPlan = RecordingPlan()
    client_keepalive: timedelta | None = None
    max_forwards: int = MAX_FORWARDS
    #: It begins only where the locks of now are known.
    strict_locks: bool = False
    client_idle_timeout: timedelta | None = None
    disconnect_expired_cert: bool | None = None
    max_connections: int | None = None
    denied_forwards: ForwardRules = NO_RULES
    denied_files: TransferRules = ANY_FILES
    emergency: bool = False
    #: How it has to be watched: by one rule of each of these.
    require_session_join: tuple[tuple[WatchRule, ...], ...] = ()

    @property
    def roles(self) -> tuple[str, ...]:
        """The roles that allowed it."""
        return tuple(each.role for each in self.given)

    @property
    def permit_pty(self) -> bool:
        """Whether some program may have a terminal; see :meth:`program`."""
        return any(each.permit_pty for each in self.given)

    @property
    def port_forwarding(self) -> bool:
        """Whether ports and sockets may be forwarded."""
        return any(each.port_forwarding for each in self.given)

    @property
    def local_forwards(self) -> tuple[str, ...]:
        """Destinations that may be connected to."""
        return _union((each.forward.local, EVERYWHERE) for each in self._forwarding)

    @property
    def remote_forwards(self) -> tuple[str, ...]:
        """What may be listened on."""
        return _union((each.forward.remote, EVERYWHERE) for each in self._forwarding)

    @property
    def streamlocal_forwards(self) -> tuple[str, ...]:
        """Paths of UNIX sockets, for both."""
        return _union((each.forward.streamlocal, EVERY_PATH) for each in self._forwarding)

    @property
    def _forwarding(self) -> Iterator[RoleGrant]:
        return (each for each in self.given if each.port_forwarding)

    @property
    def agent_forwarding(self) -> bool:
        """Whether the client's agent may be forwarded."""
        return any(each.agent_forwarding for each in self.given)

    @property
    def x11_forwarding(self) -> bool:
        """Whether the client's display may be forwarded."""
        return any(each.x11_forwarding for each in self.given)

    @property
    def break_glass(self) -> bool:
        """Whether all that it gives runs, also if the audit cannot be stored."""
        whole = has_break_glass(self.given) and self.host_user == self.emergency_user
        return self.emergency or whole

    def in_emergency(self) -> Grant | None:
        """Return what roles with ``break_glass`` give without the others; None if there is none.

        What another role gives has to be recorded as the cluster says.
        """
        given = tuple(each for each in self.given if each.break_glass)
        if not given:
            return None
        recording = evolve(self.recording, strict=False)
        return evolve(
            self,
            given=given,
            emergency=True,
            host_user=self.emergency_user,
            recording=recording,
        )

    def program(self, kind: str, command: bytes, *, pty: bool) -> tuple[RoleGrant, ...]:
        """Return what gives a requested program (``kind``: see
        :class:`tele.model.session.Launched`), with a terminal or without; empty if nothing does.

        All of them force the same command, or none. A role that forces nothing goes first; of
        several commands the one that is requested, otherwise that of the first role by name. Roles
        for some files only give the file server and scp, without a terminal.
        """
        fitting = [each for each in self.given if each.permit_pty or not pty]

        def free_for(role: RoleGrant) -> bool:
            return not self.restricts(role) or (not pty and is_transfer(kind, command))

        free = tuple(each for each in fitting if each.force_command is None and free_for(each))
        forcing = [each for each in fitting if each.force_command is not None]
        if free or not forcing:
            return free
        requested = [each for each in forcing if each.gives(kind, command)]
        forced = (requested or forcing)[0].force_command
        return tuple(each for each in forcing if each.force_command == forced)

    def restricts(self, role: RoleGrant) -> bool:
        """Whether only some files may be transferred with what ``role`` gives."""
        return role.files is not None or self.denied_files != ANY_FILES

    @property
    def certified_command(self) -> str | None:
        """The command that a certificate for this connection forces, for servers that know no
        roles: a certificate has one.
        """
        commands = [each.force_command for each in self.given]
        return None if None in commands else commands[0]


def _union(lists: Iterable[tuple[tuple[str, ...] | None, tuple[str, ...]]]) -> tuple[str, ...]:
    """Return each pattern once; None stands for the other list of its pair."""
    found = (every if said is None else said for said, every in lists)
    return tuple(dict.fromkeys(pattern for each in found for pattern in each))


def is_transfer(kind: str, command: bytes) -> bool:
    """Whether a request is one of those that copy files by paths that can be seen."""
    if kind == "subsystem":
        return command == b"sftp"
    return kind == "exec" and read_scp(command) is not None
