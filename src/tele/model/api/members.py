"""Operations of members: join, renew, announce, learn the state of the cluster."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta

from attrs import Factory, field, frozen

from tele.model.api.operation import Anyone, Hosts, Nothing, Operation
from tele.model.audit_head import SignedHead
from tele.model.authority import Certificates, TrustedAuthority
from tele.model.bounds import OMITTED, AtMost
from tele.model.cluster_settings import HostSettings
from tele.model.disk import DiskLevel
from tele.model.identity import HostRole
from tele.model.names import HOST_NAME, NAME
from tele.model.presence import ADDRESSES_LIMIT, Presence
from tele.model.resources import Lock, RecordingSettings, Role
from tele.model.revocation import HostRevocation, UserRevocation


@frozen
class Health:
    """``status`` is ``ok`` or ``starting``; ``disk`` is how full auth's disk is."""

    status: str
    version: str
    disk: DiskLevel = DiskLevel.OK


@frozen
class ClusterInfo:
    """What an unauthenticated client may know: it checks a pin against it.

    ``former`` are certificates (PEM) of TLS keys of the host CA that were replaced lately, and that
    have signed, directly or not, the one that signs now.
    """

    cluster: str
    version: str
    time: datetime
    authorities: tuple[TrustedAuthority, ...]
    proxies: tuple[str, ...] = ()
    former: tuple[str, ...] = field(default=(), metadata=OMITTED)


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
    """Auth received it. ``rotation`` is what the host should have reached.

    ``labels`` are those that the cluster bound to the host; they win over its own. ``time`` is
    auth's date, ``head`` the last head of the audit that it signed, for the host to keep.
    ``wants_clock``: the host may announce how far its clock is off.
    """

    rotation: str = ""
    labels: Mapping[str, str] = Factory(dict)
    time: datetime | None = None
    head: SignedHead | None = field(default=None, metadata=OMITTED)
    wants_clock: bool = field(default=False, metadata=OMITTED)


@frozen
class Proxy:
    """An online proxy. ``addresses`` are for all clients, ``peer`` for other proxies.

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
    :class:`tele.model.resources.RoleOptions`. ``recording_keys`` are the X25519 public keys that
    recordings are sealed for; none: they are not sealed. ``replaced_plain_keys`` is how often one
    of the plain host keys of proxies was replaced.
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
    recording_keys: tuple[bytes, ...] = field(default=(), metadata=OMITTED)
    settings: HostSettings = field(default=HostSettings(), metadata=OMITTED)
    replaced_plain_keys: int = field(default=0, metadata=OMITTED)


@frozen
class WatchState:
    """The present state at once, then each change."""


_ANY = (Anyone(),)
_HOSTS = (Hosts(),)
HEALTH = Operation("health", "GET", "/v1/health", Nothing, Health, _ANY, "Is auth there?")

CLUSTER = Operation(
    "cluster", "GET", "/v1/cluster", Nothing, ClusterInfo, _ANY,
    "Name, time and authorities, to be checked against a pin",
)  # fmt: skip

JOIN = Operation(
    "join",
    "POST",
    "/v1/join",
    JoinRequest,
    Certificates,
    _ANY,
    "Become a member with a token",
    limit=16 * 1024,
    cost=2,
)

REJOIN = Operation(
    "rejoin",
    "POST",
    "/v1/rejoin",
    RejoinRequest,
    Certificates,
    _ANY,
    "New certificates for a member whose old ones have expired, by proof of its registered key",
    limit=16 * 1024,
    cost=2,
)

RENEW = Operation(
    "renew",
    "POST",
    "/v1/renew",
    RenewRequest,
    Certificates,
    _HOSTS,
    "New certificates for the calling host",
    limit=16 * 1024,
    cost=10,
)

ANNOUNCE = Operation(
    "announce",
    "PUT",
    "/v1/presence",
    Presence,
    Announced,
    _HOSTS,
    "Announce the calling host",
    limit=64 * 1024,
    cost=4,
)

WATCH_STATE = Operation(
    "watch_state",
    "GET",
    "/v1/state",
    WatchState,
    ClusterState,
    _HOSTS,
    "Roles, locks, authorities and settings, at once and at each change",
    streams=True,
    cost=10,
)
