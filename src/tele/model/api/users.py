"""Requests and responses of users: log in, and administer users, roles, locks and tokens."""

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
    """Proves that the client has logged in as the user before (:mod:`tele.certs.device`).

    ``certificate`` is the line of an SSH certificate, ``signature`` is by its key.
    """

    certificate: str
    signature: bytes = field(repr=False)


@frozen
class LoginRequest:
    """``ttl`` is cut to what the user's roles allow. The password is not in the repr.

    With ``device``, wrong passwords of other clients do not delay the login.
    """

    user: str
    password: str = field(repr=False)
    keys: PublicKeys
    ttl: timedelta = timedelta(hours=12)
    device: KnownDevice | None = None


@frozen
class NewUser:
    """``password`` empty: auth generates one and returns it, once."""

    user: User
    password: str = field(default="", repr=False)


@frozen
class ResetUser:
    """Give ``name`` a new password; resets the failed attempts."""

    name: str
    password: str = field(default="", repr=False)


@frozen
class ChangePassword:
    """Change the caller's password."""

    old: str = field(repr=False)
    new: str = field(repr=False)


@frozen
class DeleteUser:
    """``force``: remove the last administrator, too."""

    name: str
    force: bool = False


@frozen
class UserDeleted:
    """The sessions that ended with the user, and the ids of the tokens that were removed."""

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
    """``token`` empty: auth generates one (recommended). ``max_uses`` 0: until it expires.

    A host that joins with it always has the ``labels``, whatever it announces. Its certificates are
    for the ``addresses``, too (host names or IP addresses). It may take the names ``replaces`` from
    offline hosts. With ``host_id`` the host gets that id.
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
    """A new token; no other response has its secret."""

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

    ``force``: also if no administrator is left.
    """

    name: str
    role: Role
    force: bool = False


@frozen
class PutUser:
    """Create or replace; the password stays. A ``metadata.revision`` other than 0 must be the
    present one. ``force``: also if no administrator is left.
    """

    name: str
    user: User
    force: bool = False


@frozen
class PutLock:
    """Create or replace. A ``metadata.revision`` other than 0 must be the present one.

    ``force``: also if no administrator is left.
    """

    name: str
    lock: Lock
    force: bool = False


@frozen
class KillSession:
    """End a session that runs; ``message`` is for its user."""

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
    """All authorities of the cluster, and the trusted keys of each."""

    items: tuple[AuthorityStatus, ...]
    trusted: tuple[TrustedAuthority, ...]


@frozen
class WhoAmI:
    """The caller as auth sees it, with their present roles."""

    user: str
    roles: tuple[str, ...]
    logins: tuple[str, ...]
    cluster: str
    login_session: str
