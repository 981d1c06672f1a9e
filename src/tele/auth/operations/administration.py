"""How are users, roles and tokens administered?

Laws of this file:

* Whether the caller may was settled before (:mod:`tele.auth.gate`); every change is an event.
* Giving somebody roles is administering (the verb ``update`` on users), also where creating
  them needs less.
"""

from __future__ import annotations

from tele.auth.authorities import Authorities
from tele.auth.gate import Gate, user_caller
from tele.auth.journal import Journal
from tele.auth.operations.paging import page_limit
from tele.auth.people import People
from tele.auth.tokens import Tokens
from tele.errors import AccessDenied
from tele.model.access import Reason
from tele.model.api import people as api
from tele.model.api.members import ById, ByName
from tele.model.api.operation import Nothing
from tele.model.authority import AuthorityKind
from tele.model.codec import format_time
from tele.model.identity import Caller
from tele.model.resources import Role, User


class Administration:
    """Operations of administrators on users, roles and tokens."""

    def __init__(
        self,
        people: People,
        tokens: Tokens,
        authorities: Authorities,
        gate: Gate,
        journal: Journal,
    ) -> None:
        self._people = people
        self._tokens = tokens
        self._authorities = authorities
        self._gate = gate
        self._journal = journal

    # -- users ------------------------------------------------------------------------
    async def list_users(self, request: api.Paged, caller: Caller) -> api.UserList:
        """A page of users, by name."""
        limit = page_limit(request.limit)
        found = tuple(await self._people.users(limit, request.after))
        return api.UserList(found, found[-1].metadata.name if len(found) == limit else "")

    async def get_user(self, request: ByName, caller: Caller) -> User:
        """One user."""
        return await self._people.user(request.name)

    async def add_user(self, request: api.NewUser, caller: Caller) -> api.UserPassword:
        """Create a user with a password."""
        await self._check_giving(caller, request.user.spec.roles, ())
        user, made = await self._people.add_user(request.user, request.password)
        await self._journal.emit(
            "user.create", caller, name=user.metadata.name, given=list(user.spec.roles)
        )
        return api.UserPassword(user, made)

    async def put_user(self, request: api.PutUser, caller: Caller) -> User:
        """Create a user without a password, or replace one."""
        before = await self._people.find_user(request.name)
        had = () if before is None else before.spec.roles
        await self._check_giving(caller, request.user.spec.roles, had)
        user, new = await self._people.put_user(request.name, request.user)
        await self._journal.emit(
            "user.create" if new else "user.update",
            caller,
            name=request.name,
            given=list(user.spec.roles),
            before=list(had),
        )
        return user

    async def _check_giving(
        self, caller: Caller, after: tuple[str, ...], before: tuple[str, ...]
    ) -> None:
        if set(after) != set(before) and not await self._gate.may(caller, "user", "update"):
            raise AccessDenied(
                "denied: giving roles needs a rule for the verb update on user", Reason.RULE.value
            )

    async def reset_user(self, request: api.ResetUser, caller: Caller) -> api.UserPassword:
        """Give a user a new password; ends a lock-out."""
        user, made = await self._people.reset_user(request.name, request.password)
        await self._journal.emit("user.password", caller, name=request.name)
        return api.UserPassword(user, made)

    async def delete_user(self, request: ByName, caller: Caller) -> Nothing:
        """Remove a user and their password."""
        await self._people.delete_user(request.name)
        await self._journal.emit("user.delete", caller, name=request.name)
        return Nothing()

    # -- roles ------------------------------------------------------------------------
    async def list_roles(self, request: api.Paged, caller: Caller) -> api.RoleList:
        """A page of roles, by name."""
        limit = page_limit(request.limit)
        found = tuple(await self._people.roles(limit, request.after))
        return api.RoleList(found, found[-1].metadata.name if len(found) == limit else "")

    async def get_role(self, request: ByName, caller: Caller) -> Role:
        """One role."""
        return await self._people.role(request.name)

    async def put_role(self, request: api.PutRole, caller: Caller) -> Role:
        """Create or replace a role."""
        role = await self._people.put_role(request.name, request.role)
        await self._journal.emit("role.update", caller, name=request.name)
        return role

    async def delete_role(self, request: ByName, caller: Caller) -> Nothing:
        """Remove a role that nobody holds."""
        await self._people.delete_role(request.name)
        await self._journal.emit("role.delete", caller, name=request.name)
        return Nothing()

    # -- tokens -----------------------------------------------------------------------
    async def add_token(self, request: api.NewToken, caller: Caller) -> api.TokenAdded:
        """Create a token; its secret is shown this once."""
        secret, token = await self._tokens.add(request, user_caller(caller).user)
        await self._journal.emit(
            "token.create", caller, token_id=token.id, for_roles=[r.value for r in token.roles],
            expires=format_time(token.expires), max_uses=token.max_uses,
            labels=dict(token.labels), addresses=list(token.addresses),
            replaces=list(token.replaces), host_id=token.host_id,
        )  # fmt: skip
        pins = self._authorities[AuthorityKind.HOST].trusted.pins
        return api.TokenAdded(secret, token.roles, token.expires, pins[0])

    async def list_tokens(self, request: api.Paged, caller: Caller) -> api.TokenList:
        """A page of tokens, without their secrets."""
        found, following = await self._tokens.list(page_limit(request.limit), request.after)
        return api.TokenList(tuple(found), following)

    async def delete_token(self, request: ById, caller: Caller) -> Nothing:
        """Revoke a token."""
        token_id = await self._tokens.delete(request.id)
        await self._journal.emit("token.delete", caller, token_id=token_id)
        return Nothing()
