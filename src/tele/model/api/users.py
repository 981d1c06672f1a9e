"""Operations on users: log in, and administer users."""

from __future__ import annotations

from datetime import datetime, timedelta

from attrs import field, frozen

from tele.model.api.members import PublicKeys
from tele.model.api.operation import Anyone, Nothing, Operation, Permitted, Users
from tele.model.api.paging import ByName, Paged
from tele.model.authority import Certificates
from tele.model.bounds import OMITTED
from tele.model.lifetimes import USER_LIFETIME
from tele.model.resources import User
from tele.model.second_factors import SecondFactor
from tele.model.session import Session


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

    With ``device`` the caller does not wait because others tried wrong passwords. Without the
    ``second_factor`` that a user has, the answer to the right password is that it is needed.
    """

    user: str
    password: str = field(repr=False)
    keys: PublicKeys
    ttl: timedelta = USER_LIFETIME
    device: KnownDevice | None = None
    second_factor: SecondFactor | None = field(default=None, metadata=OMITTED)


@frozen
class NewUser:
    """``password`` empty: auth makes one and returns it, once.

    With ``invite`` there is no password but an invitation, which is valid for so long.
    """

    user: User
    password: str = field(default="", repr=False)
    invite: timedelta | None = field(default=None, metadata=OMITTED)


@frozen
class ResetUser:
    """Give ``name`` a new password, or an invitation (:class:`NewUser`); also ends a lock-out.

    Either way the old password is void at once.
    """

    name: str
    password: str = field(default="", repr=False)
    invite: timedelta | None = field(default=None, metadata=OMITTED)


@frozen
class ChangePassword:
    """A user's own password; proves the present one."""

    old: str = field(repr=False)
    new: str = field(repr=False)


@frozen
class PutUser:
    """Create or replace; the password stays. A ``metadata.revision`` other than 0 must be the
    present one. ``force``: also if no user can administer the cluster afterwards.
    """

    name: str
    user: User
    force: bool = False


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
    """``password`` is empty when the caller chose it, or asked for an ``invitation``: a code."""

    user: User
    password: str = field(default="", repr=False)
    invitation: str = field(default="", repr=False, metadata=OMITTED)
    invitation_expires: datetime | None = field(default=None, metadata=OMITTED)


@frozen
class UserList:
    """Users, by name."""

    items: tuple[User, ...]
    next: str = ""


@frozen
class WhoAmI:
    """The caller as auth sees it, with roles and logins as they are now."""

    user: str
    roles: tuple[str, ...]
    logins: tuple[str, ...]
    cluster: str
    login_session: str


_ANY = (Anyone(),)
LOGIN = Operation(
    "login",
    "POST",
    "/v1/login",
    LoginRequest,
    Certificates,
    _ANY,
    "Get user certificates for a password",
    limit=16 * 1024,
    cost=2,
)

WHOAMI = Operation("whoami", "GET", "/v1/whoami", Nothing, WhoAmI, (Users(),), "The caller")

CHANGE_PASSWORD = Operation(
    "change_password",
    "POST",
    "/v1/password",
    ChangePassword,
    Nothing,
    (Users(),),
    "Change one's own password",
    limit=16 * 1024,
    cost=50,
)

LIST_USERS = Operation(
    "list_users",
    "GET",
    "/v1/users",
    Paged,
    UserList,
    (Permitted("user", "list", each=True),),
    "Users",
    cost=10,
)

GET_USER = Operation(
    "get_user",
    "GET",
    "/v1/users/{name}",
    ByName,
    User,
    (Permitted("user", "read", each=True),),
    "One user",
)

ADD_USER = Operation(
    "add_user",
    "POST",
    "/v1/users",
    NewUser,
    UserPassword,
    (Permitted("user", "create", each=True),),
    "Create a user",
    cost=5,
)

PUT_USER = Operation(
    "put_user",
    "PUT",
    "/v1/users/{name}",
    PutUser,
    User,
    (Permitted("user", "update", each=True),),
    "Create or replace a user",
)

RESET_USER = Operation(
    "reset_user",
    "POST",
    "/v1/users/{name}/password",
    ResetUser,
    UserPassword,
    (Permitted("user", "update", each=True),),
    "Give a user a new password",
    cost=5,
)

DELETE_USER = Operation(
    "delete_user",
    "DELETE",
    "/v1/users/{name}",
    DeleteUser,
    UserDeleted,
    (Permitted("user", "delete", each=True),),
    "Remove a user, and end what they have running",
)
