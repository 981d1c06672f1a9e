"""Requests of people: log in, and administer users, roles and tokens."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Final

from attrs import Factory, field, frozen

from tele.model.api.members import PAGE, PublicKeys
from tele.model.authority import TrustedAuthority
from tele.model.bounds import AtMost, Between
from tele.model.identity import HostRole
from tele.model.presence import ADDRESSES_LIMIT
from tele.model.resources import MESSAGE_LIMIT, Lock, Role, User
from tele.model.session import Session

#: Names that a token may take from hosts that are offline.
REPLACES_LIMIT: Final = 32


@frozen
class KnownDevice:
    """Shows that the caller logged in as the user before (:mod:`tele.certs.device`).

    ``certificate`` is the SSH certificate's line, ``signature`` of its key under the request.
    """

    certificate: str
    signature: bytes = field(repr=False)


@frozen
class LoginRequest:
    """``ttl`` is cut to what the user's roles allow. The password never shows in a repr.

    With ``device`` the caller does not wait because others tried wrong passwords.
    """

    user: str
    password: str = field(repr=False)
    keys: PublicKeys
    ttl: timedelta = timedelta(hours=12)
    device: KnownDevice | None = None


@frozen
class NewUser:
    """``password`` empty: auth makes one and returns it, once."""

    user: User
    password: str = field(default="", repr=False)


@frozen
class ResetUser:
    """Give ``name`` a new password; also ends a lock-out."""

    name: str
    password: str = field(default="", repr=False)


@frozen
class ChangePassword:
    """One's own password, by somebody who knows the present one."""

    old: str = field(repr=False)
    new: str = field(repr=False)


@frozen
class DeleteUser:
    """``force``: also the last administrator."""

    name: str
    force: bool = False


@frozen
class UserDeleted:
    """What ended with a user: sessions that ran then, and tokens (ids) that they had made."""

    sessions: tuple[Session, ...] = ()
    tokens: tuple[str, ...] = ()


@frozen
class UserPassword:
    """``password`` is empty when the caller chose it."""

    user: User
    password: str = field(default="", repr=False)


@frozen
class UserList:
    """Users, by name."""

    items: tuple[User, ...]
    next: str = ""


@frozen
class NewToken:
    """``token`` empty: auth makes one (recommended). ``max_uses`` 0: until it expires.

    ``labels`` bind: a host that joins with it always has them, whatever it says. Its
    certificates are for the ``addresses``, too (host names or IP addresses). It may take the
    names ``replaces`` from hosts that are offline. With ``host_id`` the token is good for the one
    host of that id.
    """

    roles: tuple[HostRole, ...]
    ttl: timedelta = timedelta(minutes=30)
    max_uses: int = field(default=0, validator=Between(0))
    labels: Mapping[str, str] = Factory(dict)
    token: str = field(default="", repr=False)
    addresses: tuple[str, ...] = field(default=(), validator=AtMost(ADDRESSES_LIMIT))
    replaces: tuple[str, ...] = field(default=(), validator=AtMost(REPLACES_LIMIT))
    host_id: str = ""


@frozen
class TokenAdded:
    """The only time that the secret is shown."""

    token: str = field(repr=False)
    roles: tuple[HostRole, ...]
    expires: datetime
    ca_pin: str


@frozen
class Token:
    """A token without its secret; ``id`` is part of the secret's hash."""

    id: str
    roles: tuple[HostRole, ...]
    created: datetime
    expires: datetime
    max_uses: int
    uses: int
    labels: Mapping[str, str] = Factory(dict)
    created_by: str = ""
    addresses: tuple[str, ...] = ()
    replaces: tuple[str, ...] = ()
    host_id: str = ""


@frozen
class TokenList:
    """Tokens that have not expired."""

    items: tuple[Token, ...]
    next: str = ""


@frozen
class Paged:
    """A page of a list."""

    limit: int = field(default=200, validator=PAGE)
    after: str = ""


@frozen
class RoleList:
    """Roles, by name."""

    items: tuple[Role, ...]
    next: str = ""


@frozen
class PutRole:
    """Create or replace. A ``metadata.revision`` other than 0 must be the present one.

    ``force``: also if nobody can administer the cluster afterwards.
    """

    name: str
    role: Role
    force: bool = False


@frozen
class PutUser:
    """Create or replace; the password stays. A ``metadata.revision`` other than 0 must be the
    present one. ``force``: also if nobody can administer the cluster afterwards.
    """

    name: str
    user: User
    force: bool = False


@frozen
class PutLock:
    """Create or replace. A ``metadata.revision`` other than 0 must be the present one.

    ``force``: also if nobody can administer the cluster then.
    """

    name: str
    lock: Lock
    force: bool = False


@frozen
class KillSession:
    """End a session that runs; ``message`` is for the person."""

    id: str
    message: str = field(default="", validator=AtMost(MESSAGE_LIMIT))


@frozen
class LockList:
    """Locks in force, by name."""

    items: tuple[Lock, ...]
    next: str = ""


@frozen
class SignUser:
    """A certificate for a public key made elsewhere: for automation, by an administrator.

    ``logins`` must be among those that the user's roles allow.
    """

    user: str
    ssh_public_key: str
    logins: tuple[str, ...] = ()
    ttl: timedelta = timedelta(hours=12)


@frozen
class SignHost:
    """A host certificate for an OpenSSH sshd's public host key."""

    ssh_public_key: str
    principals: tuple[str, ...]
    name: str = ""
    ttl: timedelta = timedelta(hours=24)


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
class WhoAmI:
    """The caller as auth sees it, with roles and logins as they are now."""

    user: str
    roles: tuple[str, ...]
    logins: tuple[str, ...]
    cluster: str
    login_session: str
