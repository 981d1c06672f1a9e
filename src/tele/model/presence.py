"""What does a host announce, what is listed of it, when is it offline, and when forgotten?"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from enum import Enum

from attrs import field, frozen

from tele.model.bounds import OMITTED, AtMost
from tele.model.identity import HostRole
from tele.model.names import NAME
from tele.model.trace import TraceKind

#: The last announcement of a host that was never reached.
NEVER = datetime(1970, 1, 1, tzinfo=UTC)
ANNOUNCE_PERIOD = timedelta(seconds=30)
OFFLINE_AFTER = timedelta(seconds=90)
FORGET_AFTER = timedelta(days=7)

#: The feature of a host that tells auth how far its clock is off, once auth asks for it.
CLOCK = "clock"
#: The clock of a host is shown as off by at most so many seconds.
CLOCK_LIMIT = 10 * 366 * 86_400

#: How many of each a host may have.
ADDRESSES_LIMIT = 32
TUNNELS_LIMIT = 64
FEATURES_LIMIT = 64
#: Characters of why a host cannot be reached.
PROBLEM_LIMIT = 256
LABELS_LIMIT = 128
#: Characters of the key or the value of a label.
LABEL_LIMIT = 1024


class Mode(str, Enum):
    """How a node is reached."""

    DIRECT = "direct"
    TUNNEL = "tunnel"
    BOTH = "both"


class Status(str, Enum):
    """``offline`` 90 seconds after the last announcement."""

    ONLINE = "online"
    OFFLINE = "offline"


@frozen
class Presence:
    """The announcement of a host, every 30 seconds. ``addresses`` are ``host:port``.

    ``tunnels`` are the host ids of the proxies that a node has a tunnel to; ``peer`` is the address
    of a proxy for other proxies, ``peer_header`` whether connections to it begin with a header of
    the PROXY protocol. ``features``: see :mod:`tele.model.recording_modes`. ``tracing`` is what a
    node can trace of sessions, ``untraced`` why not the rest, if it is to trace any.
    ``sshd``, ``names`` and ``problem`` are of :class:`Host`, and announced by no host.
    ``clock_ahead`` is by how many seconds its clock is ahead of auth's, 0 if they agree.
    """

    name: str = field(validator=NAME)
    role: HostRole
    addresses: tuple[str, ...] = field(default=(), validator=AtMost(ADDRESSES_LIMIT))
    labels: Mapping[str, str] = field(factory=dict, validator=AtMost(LABELS_LIMIT))
    mode: Mode = Mode.DIRECT
    version: str = ""
    rotation: str = ""
    tunnels: tuple[str, ...] = field(default=(), validator=AtMost(TUNNELS_LIMIT))
    peer: str = ""
    peer_header: bool = False
    features: tuple[str, ...] = field(
        default=(), validator=AtMost(FEATURES_LIMIT), metadata=OMITTED
    )
    sshd: bool = field(default=False, metadata=OMITTED)
    names: tuple[str, ...] = field(default=(), validator=AtMost(ADDRESSES_LIMIT), metadata=OMITTED)
    problem: str = field(default="", validator=AtMost(PROBLEM_LIMIT), metadata=OMITTED)
    tracing: tuple[TraceKind, ...] = field(
        default=(), validator=AtMost(len(TraceKind)), metadata=OMITTED
    )
    untraced: str = field(default="", validator=AtMost(PROBLEM_LIMIT), metadata=OMITTED)
    clock_ahead: int | None = field(default=None, metadata=OMITTED)


@frozen
class Host:
    """A listed host; ``tele ls`` prints nodes in this form.

    ``sshd``: it is no member but a machine that runs OpenSSH's sshd, which proxies reach and record
    (``tele nodes add``). ``names`` are further names in its host certificate, ``problem`` is why a
    proxy cannot reach it. ``tracing`` and ``untraced``: see :class:`Presence`.
    """

    id: str
    name: str
    role: HostRole
    addresses: tuple[str, ...]
    labels: Mapping[str, str]
    mode: Mode
    status: Status
    last_seen: datetime
    version: str = ""
    rotation: str = ""
    tunnels: tuple[str, ...] = ()
    peer: str = ""
    peer_header: bool = False
    sshd: bool = field(default=False, metadata=OMITTED)
    names: tuple[str, ...] = field(default=(), metadata=OMITTED)
    problem: str = field(default="", metadata=OMITTED)
    tracing: tuple[TraceKind, ...] = field(default=(), metadata=OMITTED)
    untraced: str = field(default="", metadata=OMITTED)
