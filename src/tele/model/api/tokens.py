"""Operations on tokens: of hosts, for joining, and of machine identities, for logging in."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Final

from attrs import Factory, field, frozen

from tele.model.api.members import PublicKeys
from tele.model.api.operation import Anyone, Nothing, Operation, Permitted
from tele.model.api.paging import ById, Paged
from tele.model.authority import Certificates
from tele.model.bounds import OMITTED, AtMost, Between
from tele.model.identity import HostRole
from tele.model.lifetimes import BOT_LIFETIME, TOKEN_LIFETIME
from tele.model.presence import ADDRESSES_LIMIT

#: Names that a token may take from hosts that are offline.
REPLACES_LIMIT: Final = 32


@frozen
class NewToken:
    """``token`` empty: auth makes one (recommended). It does not begin as that of a join method
    (``name:``). ``max_uses`` 0: until it expires.

    ``labels`` bind: a host that joins with it always has them, whatever it says. Its
    certificates are for the ``addresses``, too (host names or IP addresses). It may take the
    names ``replaces`` from hosts that are offline. With ``host_id`` the token is good for the one
    host of that id.
    """

    roles: tuple[HostRole, ...]
    ttl: timedelta = TOKEN_LIFETIME
    max_uses: int = field(default=0, validator=Between(0))
    labels: Mapping[str, str] = Factory(dict)
    token: str = field(default="", repr=False)
    addresses: tuple[str, ...] = field(default=(), validator=AtMost(ADDRESSES_LIMIT))
    replaces: tuple[str, ...] = field(default=(), validator=AtMost(REPLACES_LIMIT))
    host_id: str = ""
    #: The user whom a token of a machine identity logs in; it has nothing of the above but ``ttl``
    #: and ``max_uses``.
    bot: str = field(default="", metadata=OMITTED)


@frozen
class TokenAdded:
    """The only time that the secret is shown.

    ``other_ca_pins``: while the CA rotates, another key may prove auth at the time of the join.
    """

    token: str = field(repr=False)
    roles: tuple[HostRole, ...]
    expires: datetime
    ca_pin: str
    other_ca_pins: tuple[str, ...] = field(default=(), metadata=OMITTED)


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
    bot: str = field(default="", metadata=OMITTED)


@frozen
class TokenLogin:
    """Logs in with the token of a machine identity. ``ttl`` is cut to what the roles allow."""

    token: str = field(repr=False)
    keys: PublicKeys
    ttl: timedelta = BOT_LIFETIME


@frozen
class TokenList:
    """Tokens that have not expired."""

    items: tuple[Token, ...]
    next: str = ""


ADD_TOKEN = Operation(
    "add_token",
    "POST",
    "/v1/tokens",
    NewToken,
    TokenAdded,
    (Permitted("token", "create"),),
    "Create a token",
)

LIST_TOKENS = Operation(
    "list_tokens",
    "GET",
    "/v1/tokens",
    Paged,
    TokenList,
    (Permitted("token", "list"),),
    "Tokens, without their secrets",
    cost=10,
)

DELETE_TOKEN = Operation(
    "delete_token",
    "DELETE",
    "/v1/tokens/{id}",
    ById,
    Nothing,
    (Permitted("token", "delete"),),
    "Revoke a token",
    cost=10,
)

TOKEN_LOGIN = Operation(
    "token_login",
    "POST",
    "/v1/login/token",
    TokenLogin,
    Certificates,
    (Anyone(),),
    "Get user certificates for the token of a machine identity",
    limit=16 * 1024,
    cost=2,
)
