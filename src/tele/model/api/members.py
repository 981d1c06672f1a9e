"""Requests and responses of hosts: join, renew, announce, follow the cluster's state."""

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

#: The values of ``limit`` of a list.
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
    """Public facts of the cluster; a client checks its pin against them before it trusts them."""

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
    """``token`` is the secret. Auth makes the host id; it is in the certificates.

    ``addresses`` (``host:port``) are those at which others reach the host.
    """

    token: str = field(repr=False)
    name: str = field(validator=HOST_NAME)
    role: HostRole
    keys: PublicKeys
    addresses: tuple[str, ...] = field(default=(), validator=AtMost(ADDRESSES_LIMIT))


@frozen
class RejoinRequest:
    """A member whose certificate has expired requests new ones for ``keys``.

    ``signature`` is by the SSH host key that is registered for it, see :mod:`tele.certs.rejoin`.
    """

    host_id: str
    role: HostRole
    keys: PublicKeys
    signature: bytes


@frozen
class RenewRequest:
    """New certificates for the calling host; the name may change, the id may not."""

    name: str = field(validator=NAME)
    keys: PublicKeys
    addresses: tuple[str, ...] = field(default=(), validator=AtMost(ADDRESSES_LIMIT))


@frozen
class Announced:
    """The response to an announcement. ``rotation`` is the phase that the host should have reached.

    ``labels`` are those that the cluster bound to the host; they override its own. ``time`` is the
    time of auth.
    """

    rotation: str = ""
    labels: Mapping[str, str] = Factory(dict)
    time: datetime | None = None


@frozen
class Proxy:
    """A proxy that is online. ``addresses`` are for clients and nodes, ``peer`` for other proxies.

    ``peer_header``: connections to ``peer`` have to begin with a header of the PROXY protocol.
    """

    id: str
    name: str
    addresses: tuple[str, ...]
    peer: str = ""
    peer_header: bool = False


@frozen
class ClusterState:
    """All that nodes and proxies need to decide without auth. ``revision`` grows.

    ``client_keepalive`` is the default of :class:`tele.model.resources.RoleOptions`.
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
    """``items`` are new or changed hosts, ``gone`` the ids of removed ones.

    ``first``: a new list begins; ``last``: the list is complete, and hosts that were known before
    and are not in it are gone.
    """

    items: tuple[Host, ...]
    gone: tuple[str, ...] = ()
    first: bool = False
    last: bool = False


@frozen
class HostList:
    """``next`` is empty at the end, otherwise the ``after`` of the next page."""

    items: tuple[Host, ...]
    next: str = ""


@frozen
class ListHosts:
    """Hosts of a role, by labels; users see the nodes that their roles allow.

    ``labels`` are ``key=value``, where the value may have ``*`` and ``?``: any value of one key,
    and all keys. A page may have fewer than ``limit`` hosts, or none, and still have a ``next``.
    """

    role: HostRole = HostRole.NODE
    labels: tuple[str, ...] = field(default=(), validator=AtMost(SELECTORS_LIMIT))
    limit: int = field(default=200, validator=PAGE)
    after: str = ""


@frozen
class ById:
    """Names one resource by its id."""

    id: str


@frozen
class ByName:
    """Names one resource by its name."""

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
