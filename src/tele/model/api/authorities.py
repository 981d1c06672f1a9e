"""Operations on the cluster's authorities: their keys, and certificates for given keys."""

from __future__ import annotations

from datetime import datetime, timedelta

from attrs import field, frozen

from tele.model.api.operation import Nothing, Operation, Permitted, Users
from tele.model.authority import TrustedAuthority
from tele.model.bounds import OMITTED
from tele.model.lifetimes import HOST_LIFETIME, USER_LIFETIME
from tele.model.rotation import CaRotation, HostRotation, Phase, RotatingCa


@frozen
class SignUser:
    """A certificate for a public key made elsewhere: for automation, by an administrator.

    ``logins`` must be among those that the user's roles allow.
    """

    user: str
    ssh_public_key: str
    logins: tuple[str, ...] = ()
    ttl: timedelta = USER_LIFETIME


@frozen
class SignHost:
    """A host certificate for an OpenSSH sshd's public host key."""

    ssh_public_key: str
    principals: tuple[str, ...]
    name: str = ""
    ttl: timedelta = HOST_LIFETIME


@frozen
class SignedKey:
    """``certificate`` is a line ``type base64``."""

    certificate: str
    expires: datetime


@frozen
class AuthorityStatus:
    """One authority as ``tele ca status`` shows it."""

    kind: str
    phase: str
    ssh_fingerprints: tuple[str, ...]
    pins: tuple[str, ...]
    created: datetime
    expires: datetime


@frozen
class AuthorityList:
    """All authorities of the cluster, and whom to trust for each."""

    items: tuple[AuthorityStatus, ...]
    trusted: tuple[TrustedAuthority, ...]


@frozen
class Rotate:
    """Begin ``phase`` for ``cas``; none means all that it can be meant for.

    With ``force`` also when something holds it up: see :class:`tele.model.rotation.Hold`. With
    ``grace``, for ``init``, auth begins the phases that follow, and ends after this time. Any call
    for a CA that rotates by itself makes its rotation a manual one. ``compromised``: the old
    key of ``tls-host`` may have been stolen, so it does not certify the new one.
    """

    phase: Phase
    cas: tuple[RotatingCa, ...] = ()
    force: bool = False
    grace: timedelta | None = None
    compromised: bool = field(default=False, metadata=OMITTED)


@frozen
class Rotations:
    """All CAs; and the members, at most 1,000, those that are behind first."""

    items: tuple[CaRotation, ...]
    hosts: tuple[HostRotation, ...]


AUTHORITIES = Operation(
    "authorities",
    "GET",
    "/v1/authorities",
    Nothing,
    AuthorityList,
    (Users(),),
    "The cluster's authorities: status and public keys",
)

SIGN_USER = Operation(
    "sign_user",
    "POST",
    "/v1/sign/user",
    SignUser,
    SignedKey,
    (Permitted("authority", "update"),),
    "A user certificate for a given public key",
    cost=5,
)

SIGN_HOST = Operation(
    "sign_host",
    "POST",
    "/v1/sign/host",
    SignHost,
    SignedKey,
    (Permitted("authority", "update"),),
    "A host certificate for a given public key",
    cost=5,
)

ROTATION = Operation(
    "rotation",
    "GET",
    "/v1/rotation",
    Nothing,
    Rotations,
    (Permitted("authority", "list"),),
    "The phase of each CA, and what holds the next one up",
    cost=5,
)

ROTATE = Operation(
    "rotate",
    "POST",
    "/v1/rotation",
    Rotate,
    Rotations,
    (Permitted("authority", "update"),),
    "Begin a phase of the rotation of CAs",
    cost=10,
)
