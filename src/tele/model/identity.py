"""Who is the holder of a certificate, and who calls the API?"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from enum import Enum
from typing import Final

from attrs import Factory, field, frozen

#: The time of issue of a certificate that has none: any revocation covers it.
UNKNOWN_TIME: Final = datetime(1970, 1, 1, tzinfo=UTC)


class HostRole(str, Enum):
    """The roles of hosts."""

    NODE = "node"
    PROXY = "proxy"
    AUTH = "auth"


#: A host in one of its roles: the role and the host id, which its other roles share.
HostPlace = tuple[HostRole, str]


@frozen
class UserIdentity:
    """A user, by their user certificate (SSH or X.509).

    ``issued`` is in whole seconds. Both certificates of one login have the same ``serial``; 0 is no
    certificate.
    """

    user: str
    cluster: str
    expires: datetime
    roles: tuple[str, ...] = ()
    logins: tuple[str, ...] = ()
    traits: Mapping[str, tuple[str, ...]] = Factory(dict)
    login_session: str = ""
    mfa: bool = False
    issued: datetime = UNKNOWN_TIME
    serial: int = 0


@frozen
class HostIdentity:
    """A host in one of its roles, by its host certificate (SSH or X.509).

    ``host_id`` is a UUID that auth makes when the host joins; ``name`` is its name for users.
    ``issued`` is in whole seconds. ``serial`` is that of the TLS certificate; 0 is no such one.
    """

    host_id: str
    name: str
    cluster: str
    role: HostRole
    expires: datetime
    issued: datetime = UNKNOWN_TIME
    serial: int = 0

    @property
    def place(self) -> HostPlace:
        """Role and host id."""
        return self.role, self.host_id


Identity = UserIdentity | HostIdentity


def _always() -> bool:
    return True


@frozen
class Caller:
    """The caller of the API. ``identity`` is None before login and join.

    ``remote_addr`` is the client's address. For a call through a proxy it is the proxy's claim, and
    ``proxy_addr`` is the address that auth itself saw. ``present()`` is whether the client still
    waits for the answer: expensive work is not begun for a client that has disconnected.
    """

    identity: Identity | None
    remote_addr: str = ""
    proxy_addr: str = ""
    present: Callable[[], bool] = field(default=_always, eq=False, repr=False)

    @property
    def seen_addr(self) -> str:
        """The address that auth itself saw: a proxy's claim proves nothing about a host."""
        return self.proxy_addr or self.remote_addr
