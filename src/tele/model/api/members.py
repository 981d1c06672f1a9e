"""Requests of machines: join, renew, say that they live, learn the cluster's state."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Final

from attrs import Factory, field, frozen

from tele.model.authority import TrustedAuthority
from tele.model.bounds import AtMost, Between
from tele.model.disk import DiskLevel
from tele.model.identity import HostRole
from tele.model.presence import ADDRESSES_LIMIT, Host, Presence
from tele.model.resources import HOST_NAME, NAME, OMITTED, Lock, RecordingSettings, Role
from tele.model.revocation import HostRevocation, UserRevocation

#: How long a page of a list may be.
PAGE: Final = Between(1, 1000)
#: Labels to select hosts by.
SELECTORS_LIMIT: Final = 32


@frozen
class Health:
    """``status`` is ``ok`` or ``starting``; ``disk`` is how full auth's disk is."""

    status: str
    version: str
    disk: DiskLevel = DiskLevel.OK


@frozen
class ClusterInfo:
    """What anybody may know before trusting: check a pin against it."""

    cluster: str
    version: str
    time: datetime
    authorities: tuple[TrustedAuthority, ...]
    proxies: tuple[str, ...] = ()


@frozen
class PublicKeys:
    """``ssh`` is a line ``type base64``, ``tls`` a PEM SubjectPublicKeyInfo."""

    ssh: str
    tls: str


@frozen
class JoinRequest:
    """``token`` is the secret. Auth makes the host id; the certificates say it.

    ``addresses`` (``host:port``) are those at which the host says it is reached.
    """

    token: str = field(repr=False)
    name: str = field(validator=HOST_NAME)
    role: HostRole
    keys: PublicKeys
    addresses: tuple[str, ...] = field(default=(), validator=AtMost(ADDRESSES_LIMIT))


@frozen
class RejoinRequest:
    """A member whose certificate has expired asks for new ones for ``keys``.

    ``signature`` is made with the SSH host key that auth has registered for it, see
    :mod:`tele.certs.rejoin`.
    """

    host_id: str
    role: HostRole
    keys: PublicKeys
    signature: bytes


@frozen
class RenewRequest:
    """New certificates for the caller's own identity; the name may change, the id not."""

    name: str = field(validator=NAME)
    keys: PublicKeys
    addresses: tuple[str, ...] = field(default=(), validator=AtMost(ADDRESSES_LIMIT))


@frozen
class Announced:
    """Auth heard it. ``rotation`` is what the host should have reached.

    ``labels`` are those that the cluster bound to the host; they win over its own. ``time`` is
    auth's date.
    """

    rotation: str = ""
    labels: Mapping[str, str] = Factory(dict)
    time: datetime | None = None


@frozen
class Proxy:
    """A proxy that lives. ``addresses`` are for everybody, ``peer`` for other proxies.

    ``peer_header``: what comes to ``peer`` has to begin with a header of the PROXY protocol.
    """

    id: str
    name: str
    addresses: tuple[str, ...]
    peer: str = ""
    peer_header: bool = False


@frozen
class ClusterState:
    """All that nodes and proxies need to decide without asking. ``revision`` grows.

    ``client_keepalive`` holds where no role says another: see
    :class:`tele.model.resources.RoleOptions`.
    """

    cluster: str
    revision: int
    issued: datetime
    authorities: tuple[TrustedAuthority, ...]
    roles: tuple[Role, ...]
    locks: tuple[Lock, ...]
    recording: RecordingSettings
    proxies: tuple[Proxy, ...] = ()
    revoked_hosts: tuple[HostRevocation, ...] = ()
    revoked_users: tuple[UserRevocation, ...] = ()
    client_keepalive: timedelta | None = field(default=None, metadata=OMITTED)


@frozen
class WatchState:
    """The present state at once, then each change."""


@frozen
class WatchHosts:
    """All hosts of ``role``, some hundred at a time, then each change."""

    role: HostRole = HostRole.NODE


@frozen
class HostChanges:
    """``items`` are as they are now, ``gone`` are ids of hosts that are forgotten.

    ``first``: it begins anew with all that there are; ``last``: now all of them were told,
    and whoever was known before and was not among them is gone.
    """

    items: tuple[Host, ...]
    gone: tuple[str, ...] = ()
    first: bool = False
    last: bool = False


@frozen
class HostList:
    """``next`` is empty at the end, otherwise what to send as ``after``."""

    items: tuple[Host, ...]
    next: str = ""


@frozen
class ListHosts:
    """Hosts of a role, by labels; users see those that their roles let them log in to.

    ``labels`` are ``key=value``, the value with ``*`` and ``?`` if need be: of one key any of its
    values, of several keys all. A page may have fewer than ``limit`` hosts, or none, and still
    name a ``next`` one.
    """

    role: HostRole = HostRole.NODE
    labels: tuple[str, ...] = field(default=(), validator=AtMost(SELECTORS_LIMIT))
    limit: int = field(default=200, validator=PAGE)
    after: str = ""


@frozen
class ById:
    """Names one thing by its id."""

    id: str


@frozen
class ByName:
    """Names one thing by its name."""

    name: str


__all__ = [
    "Announced",
    "ById",
    "ByName",
    "ClusterInfo",
    "ClusterState",
    "Health",
    "HostChanges",
    "HostList",
    "JoinRequest",
    "ListHosts",
    "Presence",
    "Proxy",
    "PublicKeys",
    "RejoinRequest",
    "RenewRequest",
    "WatchHosts",
    "WatchState",
]
