"""What may one connection do? Decided once, then passed on as a value."""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import Enum
from typing import Final

from attrs import frozen

from tele.model.identity import UserIdentity
from tele.model.resources import MAX_FORWARDS, RecordingMode, RecordingSettings


class Reason(str, Enum):
    """Why permission was denied. Stable; part of audit events."""

    NO_ROLE = "no_role"  # no role of the user exists any more
    NODE = "node"  # no role allows this node
    LOGIN = "login"  # no role allows this login here
    DENIED = "denied"  # a deny rule matched
    LOCKED = "locked"
    EXPIRED = "expired"
    REVOKED = "revoked"  # the user or the host was removed, replaced or has expired
    CLUSTER = "cluster"  # the certificate is of another cluster
    ACCOUNT = "account"  # the OS account does not exist or is not served here
    RECORDING = "recording"  # the session cannot be recorded any more
    RULE = "rule"  # no rule lets the caller do this through the API


class GatewayPorts(str, Enum):
    """Whether ports that listen for clients are open to other machines (sshd_config)."""

    NO = "no"
    YES = "yes"
    CLIENT = "clientspecified"


#: The forced command for the node's own file server.
INTERNAL_SFTP: Final = "internal-sftp"


@frozen
class CertificateLimits:
    """What a certificate permits of whatever roles allow, and the command that it forces."""

    permit_pty: bool = True
    port_forwarding: bool = True
    agent_forwarding: bool = True
    x11_forwarding: bool = True
    force_command: str | None = None


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
    """

    mode: RecordingMode = RecordingMode.NODE
    sync: bool = False
    sync_end_after: timedelta = timedelta(minutes=5)
    capture_head: int = 1 << 20
    capture_tail: int = 64 << 10
    input: bool = False
    strict: bool = False

    @classmethod
    def of(cls, settings: RecordingSettings, *, input: bool, strict: bool) -> RecordingPlan:  # noqa: A002
        """Return what the cluster's ``settings`` and the roles ask for."""
        return cls(
            settings.mode,
            settings.mode in (RecordingMode.NODE_SYNC, RecordingMode.PROXY_SYNC),
            settings.sync_end_after,
            settings.capture_head.bytes,
            settings.capture_tail.bytes,
            input,
            strict,
        )


@frozen
class Grant:
    """All that one SSH connection may do; no later step decides again.

    ``roles`` are those that allowed it. ``expires`` is the end of the certificate.
    ``client_keepalive`` and ``max_forwards``: see :class:`tele.model.resources.RoleOptions`. With
    ``break_glass`` everything runs, also if the audit cannot be stored.
    """

    identity: UserIdentity
    login: str
    roles: tuple[str, ...]
    expires: datetime
    permit_pty: bool = True
    port_forwarding: bool = False
    agent_forwarding: bool = False
    x11_forwarding: bool = False
    max_sessions: int = 10
    recording: RecordingPlan = RecordingPlan()
    force_command: str | None = None
    client_keepalive: timedelta | None = None
    max_forwards: int = MAX_FORWARDS
    break_glass: bool = False
