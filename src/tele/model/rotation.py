"""Which authorities rotate, through which phases, and what holds a rotation up?"""

from __future__ import annotations

from datetime import datetime
from enum import Enum

from attrs import field, frozen

from tele.model.authority import AuthorityKind
from tele.model.bounds import OMITTED
from tele.model.identity import HostRole
from tele.model.presence import Status


class RotatingCa(str, Enum):
    """A CA that rotates alone: the SSH key, or the TLS key, of one authority."""

    USER = "user"
    HOST = "host"
    TLS_USER = "tls-user"
    TLS_HOST = "tls-host"

    @property
    def kind(self) -> AuthorityKind:
        """The authority that the key is of."""
        return AuthorityKind.USER if self in _OF_USERS else AuthorityKind.HOST

    @property
    def is_tls(self) -> bool:
        """Whether it signs X.509 certificates; otherwise SSH's."""
        return self in _TLS


_OF_USERS = (RotatingCa.USER, RotatingCa.TLS_USER)
_TLS = (RotatingCa.TLS_USER, RotatingCa.TLS_HOST)


class Phase(str, Enum):
    """How far a rotation is; see :data:`tele.certs.rotation.TABLE`."""

    STANDBY = "standby"
    INIT = "init"
    UPDATE_CLIENTS = "update_clients"
    UPDATE_SERVERS = "update_servers"
    ROLLBACK = "rollback"


@frozen
class Hold:
    """Why a phase does not begin yet. ``what`` names a host, or is ``users``.

    ``cost`` is what happens to it if the phase begins all the same.
    """

    what: str
    reason: str
    cost: str


@frozen
class NextPhase:
    """A phase that may follow, and what holds it up: ``more`` further than those in ``holds``.

    ``notices`` are what happens to hosts that are offline, and does not hold it up.
    """

    phase: Phase
    holds: tuple[Hold, ...] = ()
    more: int = 0
    notices: tuple[Hold, ...] = ()


@frozen
class CaRotation:
    """One CA: its phase, the key that signs, all that are trusted (fingerprints or pins).

    ``automatic`` is when auth begins the next phase; None for a manual rotation.
    """

    ca: RotatingCa
    phase: Phase
    signs: str
    trusted: tuple[str, ...]
    next: tuple[NextPhase, ...]
    started: datetime | None = None
    since: datetime | None = None
    automatic: datetime | None = field(default=None, metadata=OMITTED)


@frozen
class HostRotation:
    """What a member has reported: ``behind`` is empty if it has what each phase needs of it.

    ``clock_ahead`` is by how many seconds its clock is ahead of auth's, None if it does not say;
    ``expires`` is the end of its certificates, by auth.
    """

    id: str
    name: str
    role: HostRole
    status: Status
    behind: tuple[str, ...] = field(default=(), metadata=OMITTED)
    clock_ahead: int | None = field(default=None, metadata=OMITTED)
    expires: datetime | None = field(default=None, metadata=OMITTED)
