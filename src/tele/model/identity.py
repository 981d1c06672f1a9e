"""Who is somebody? What a certificate says of the one who holds it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from enum import Enum
from typing import Final

from attrs import Factory, field, frozen

#: When a certificate was issued that does not say it: any revocation covers it.
UNKNOWN_TIME: Final = datetime(1970, 1, 1, tzinfo=UTC)


class HostRole(str, Enum):
    """What a host certificate lets its holder be."""

    NODE = "node"
    PROXY = "proxy"
    AUTH = "auth"


@frozen
class UserIdentity:
    """A person, as their user certificate (SSH or X.509) says.

    ``issued`` is to the second. Both certificates of one log-in have the same ``serial``; 0 is that
    of somebody without one.
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
    """A machine in one of its roles, as its host certificate (SSH or X.509) says.

    ``host_id`` is a UUID that auth makes when the host joins; ``name`` is what people call it.
    ``issued`` is to the second.
    """

    host_id: str
    name: str
    cluster: str
    role: HostRole
    expires: datetime
    issued: datetime = UNKNOWN_TIME


Identity = UserIdentity | HostIdentity


def _always() -> bool:
    return True


@frozen
class Caller:
    """Who makes an API call. ``identity`` is None before login and join.

    ``remote_addr`` is where they come from. For a call that a proxy passed on it is the proxy's
    word, and ``proxy_addr`` the address that auth itself saw.
    ``present()`` is whether they still wait for the answer: work that costs much is not begun
    for those who have left.
    """

    identity: Identity | None
    remote_addr: str = ""
    proxy_addr: str = ""
    present: Callable[[], bool] = field(default=_always, eq=False, repr=False)

    @property
    def seen_addr(self) -> str:
        """The address that auth itself saw: what a proxy says proves nothing of a host."""
        return self.proxy_addr or self.remote_addr
