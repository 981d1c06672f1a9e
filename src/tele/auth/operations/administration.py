"""How are users, roles and tokens administered?

Invariants:

* The caller was authorized before (:mod:`tele.auth.authorizer`); every change is an event.
* A user is removed with the tokens that they made, which could join hosts.
* Giving roles needs the verb ``update`` on users, also where creating the user needs less. A rule
  with a condition gives neither roles nor traits, and changes no user with rules that the caller
  has not.
* Only an administrator can leave the cluster without an administrator.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from attrs import evolve, field, frozen
from twisted.internet.interfaces import IReactorTime

from tele.auth.authorities import Authorities
from tele.auth.authorizer import LOCAL_ADMIN, Authorizer, user_caller
from tele.auth.guessing import Outcome
from tele.auth.handlers import Handler, handler
from tele.auth.invitations import Invitations
from tele.auth.journal import Journal
from tele.auth.live_sessions import LiveSessions
from tele.auth.passwords import Attempt, Passwords
from tele.auth.tokens import Tokens
from tele.auth.users import Users
from tele.errors import AccessDenied, InvalidInput
from tele.interfaces import Put
from tele.loop import now
from tele.model.access import Reason
from tele.model.addresses import host_of, source_network
from tele.model.api import table
from tele.model.api import users as api
from tele.model.api.operation import Nothing
from tele.model.api.paging import ById, ByName, Paged
from tele.model.api.roles import PutRole, RoleList
from tele.model.api.tokens import NewToken, TokenAdded, TokenList
from tele.model.authority import AuthorityKind
from tele.model.codec import format_time
from tele.model.identity import Caller
from tele.model.resources import Role, User, UserSpec
from tele.rbac.logins import check_traits
from tele.rbac.presets import exceeds


@frozen
class _Opened:
    """An invitation that is made, or none."""

    code: str = field(default="", repr=False)
    expires: datetime | None = None
    change: Put | None = None


class Administration:
    """Operations of administrators on users, roles and tokens."""

    def __init__(
        self,
        users: Users,
        tokens: Tokens,
        invitations: Invitations,
        authorities: Authorities,
        passwords: Passwords,
        live: LiveSessions,
        clock: IReactorTime,
        authorizer: Authorizer,
        journal: Journal,
    ) -> None:
        self._passwords = passwords
        self._invitations = invitations
        self._live = live
        self._clock = clock
        self._users = users
        self._tokens = tokens
        self._authorities = authorities
        self._authorizer = authorizer
        self._journal = journal

    def handlers(self) -> tuple[Handler, ...]:
        """The rows of the table."""
        return (
            handler(table.LIST_USERS, self.list_users),
            handler(table.GET_USER, self.get_user),
            handler(table.ADD_USER, self.add_user),
            handler(table.PUT_USER, self.put_user),
            handler(table.RESET_USER, self.reset_user),
            handler(table.CHANGE_PASSWORD, self.change_password),
            handler(table.DELETE_USER, self.delete_user),
            handler(table.LIST_ROLES, self.list_roles),
            handler(table.GET_ROLE, self.get_role),
            handler(table.PUT_ROLE, self.put_role),
            handler(table.DELETE_ROLE, self.delete_role),
            handler(table.ADD_TOKEN, self.add_token),
            handler(table.LIST_TOKENS, self.list_tokens),
            handler(table.DELETE_TOKEN, self.delete_token),
        )

    # -- users ------------------------------------------------------------------------
    async def list_users(self, request: Paged, caller: Caller) -> api.UserList:
        """Return a page of users, by name."""
        limit = request.limit
        found = tuple(await self._users.users(limit, request.after))
        judge = await self._authorizer.judge(caller, "user", "list")
        shown = tuple(each for each in found if judge(each) is None)
        return api.UserList(shown, found[-1].metadata.name if len(found) == limit else "")

    async def get_user(self, request: ByName, caller: Caller) -> User:
        """Return one user."""
        user = await self._users.user(request.name)
        await self._authorizer.need(caller, "user", "read", user)
        return user

    async def add_user(self, request: api.NewUser, caller: Caller) -> api.UserPassword:
        """Create a user with a password, or with an invitation."""
        name = request.user.metadata.name
        opened = self._opened(name, request.password, request.invite)
        check_traits(request.user.spec.traits)
        await self._authorizer.need(caller, "user", "create", request.user)
        await self._check_giving(caller, UserSpec(request.user.spec.roles), UserSpec())
        if user_caller(caller).user == LOCAL_ADMIN:
            # The administrator of auth's machine needs the preset roles to make another one.
            for role in request.user.spec.roles:
                if await self._users.restore_preset(role):
                    await self._journal.emit("role.update", caller, name=role)
        user, made = await self._users.add_user(request.user, request.password, opened.change)
        await self._journal.emit("user.create", caller, name=name, given=list(user.spec.roles))
        return await self._given(user, made, opened, caller)

    def _opened(self, name: str, password: str, ttl: timedelta | None) -> _Opened:
        if ttl is None:
            return _Opened()
        if password:
            raise InvalidInput("a user gets a password or an invitation, not both")
        return _Opened(*self._invitations.make(name, ttl))

    async def _given(
        self, user: User, password: str, opened: _Opened, caller: Caller
    ) -> api.UserPassword:
        if opened.expires is not None:
            await self._journal.emit(
                "user.invite", caller, name=user.metadata.name, expires=format_time(opened.expires)
            )
        return api.UserPassword(user, password, opened.code, opened.expires)

    async def put_user(self, request: api.PutUser, caller: Caller) -> User:
        """Create a user without a password, or replace one."""
        check_traits(request.user.spec.traits)
        before = await self._users.find_user(request.name)
        had = () if before is None else before.spec.roles
        for each in (before, request.user):
            if each is not None:
                await self.check_user(caller, "update", each)
        spec = UserSpec() if before is None else before.spec
        await self._check_giving(caller, request.user.spec, spec)
        force = await self._authorizer.forces(caller, request.force)
        user, new = await self._users.put_user(request.name, request.user, force)
        await self._journal.emit(
            "user.create" if new else "user.update",
            caller,
            name=request.name,
            given=list(user.spec.roles),
            before=list(had),
        )
        return user

    async def _check_giving(self, caller: Caller, after: UserSpec, before: UserSpec) -> None:
        """Raise :class:`AccessDenied` unless the caller may change these roles and traits."""
        same = set(after.roles) == set(before.roles) and after.traits == before.traits
        if not same and not await self._authorizer.may(caller, "user", "update"):
            raise AccessDenied(
                "denied: giving roles or traits needs a rule without a condition (where) for the"
                " verb update on user",
                Reason.RULE.value,
            )

    async def check_user(self, caller: Caller, verb: str, user: User) -> None:
        """Raise :class:`AccessDenied` unless the caller may ``verb`` this user: by a condition none
        whom it would be a gain to be.
        """
        await self._authorizer.need(caller, "user", verb, user)
        if await self._authorizer.may(caller, "user", verb):
            return
        held = await self._authorizer.roles_of(user_caller(caller))
        if exceeds(user.spec.roles, held, self._authorizer.roles):
            raise AccessDenied(
                f"denied: {user.metadata.name} has rules that you have not; to {verb} such a user"
                " needs a rule without a condition (where)",
                Reason.RULE.value,
            )

    async def reset_user(self, request: api.ResetUser, caller: Caller) -> api.UserPassword:
        """Give a user a new password, or an invitation; resets the failed attempts."""
        opened = self._opened(request.name, request.password, request.invite)
        await self.check_user(caller, "update", await self._users.user(request.name))
        user, made = await self._users.reset_user(request.name, request.password, opened.change)
        if opened.change is None:
            await self._journal.emit("user.password", caller, name=request.name)
        return await self._given(user, made, opened, caller)

    async def change_password(self, request: api.ChangePassword, caller: Caller) -> Nothing:
        """Change the caller's password. The present one is checked as it is at a login."""
        user = user_caller(caller)
        name = user.user
        # Attempts count for the login session: those of other clients do not delay it.
        attempt = Attempt(
            source_network(host_of(caller.remote_addr)), user.login_session, caller.present
        )
        mark = await self._passwords.mark(name)
        outcome = await self._passwords.check(name, request.old, attempt)
        if outcome is not Outcome.GOOD:
            await self._journal.emit(
                "user.password", caller, name=name, ok=False, error=outcome.value
            )
            raise AccessDenied(
                "the present password is wrong, or there were too many wrong ones: try again later",
                "login",
            )
        # By the mark, because the user may have been replaced while the password was hashed.
        await self._passwords.change(name, mark, request.new)
        await self._journal.emit("user.password", caller, name=name)
        return Nothing()

    async def delete_user(self, request: api.DeleteUser, caller: Caller) -> api.UserDeleted:
        """Remove a user with their password and their tokens, and end their sessions."""
        name = request.name
        force = await self._authorizer.forces(caller, request.force)
        await self.check_user(caller, "delete", await self._users.user(name))
        tokens = await self._tokens.made_by(name)
        await self._users.delete_user(name, force, tuple(tokens.values()))
        sessions = tuple(each.session for each in await self._live.of_user(name))
        await self._journal.emit(
            "user.delete", caller, name=name, tokens=list(tokens),
            sessions=[session.id for session in sessions],
        )  # fmt: skip
        return api.UserDeleted(sessions, tuple(tokens))

    # -- roles ------------------------------------------------------------------------
    async def list_roles(self, request: Paged, caller: Caller) -> RoleList:
        """Return a page of roles, by name."""
        limit = request.limit
        found = tuple(await self._users.roles(limit, request.after))
        return RoleList(found, found[-1].metadata.name if len(found) == limit else "")

    async def get_role(self, request: ByName, caller: Caller) -> Role:
        """Return one role."""
        return await self._users.role(request.name)

    async def put_role(self, request: PutRole, caller: Caller) -> Role:
        """Create or replace a role."""
        force = await self._authorizer.forces(caller, request.force)
        role = await self._users.put_role(request.name, request.role, force)
        await self._journal.emit("role.update", caller, name=request.name)
        return role

    async def delete_role(self, request: ByName, caller: Caller) -> Nothing:
        """Remove a role that no user holds."""
        await self._users.delete_role(request.name)
        await self._journal.emit("role.delete", caller, name=request.name)
        return Nothing()

    # -- tokens -----------------------------------------------------------------------
    async def add_token(self, request: NewToken, caller: Caller) -> TokenAdded:
        """Create a token; only this response has its secret."""
        maker = user_caller(caller).user
        if request.bot:
            await self._check_bot(request.bot, caller)
        secret, token = await self._tokens.add(await self._limited(request, maker), maker)
        if maker != LOCAL_ADMIN and await self._users.find_user(maker) is None:
            # The user was removed meanwhile, with all their other tokens.
            await self._tokens.delete(token.id)
            raise AccessDenied(f"user {maker} does not exist any more", Reason.NO_ROLE.value)
        given = {"bot": token.bot} if token.bot else {}
        await self._journal.emit(
            "token.create", caller, token_id=token.id, for_roles=[r.value for r in token.roles],
            expires=format_time(token.expires), max_uses=token.max_uses,
            labels=dict(token.labels), addresses=list(token.addresses),
            replaces=list(token.replaces), host_id=token.host_id, **given,
        )  # fmt: skip
        pins = self._authorities[AuthorityKind.HOST].trusted.pins
        return TokenAdded(secret, token.roles, token.expires, pins[0], pins[1:])

    async def _check_bot(self, name: str, caller: Caller) -> None:
        """Raise :class:`TeleError` unless the caller may give this user another way to log in."""
        if not await self._authorizer.may(caller, "user", "update"):
            raise AccessDenied(
                "denied: a token that logs in a user needs a rule for the verb update on user",
                Reason.RULE.value,
            )
        await self._users.user(name)

    async def _limited(self, request: NewToken, maker: str) -> NewToken:
        """Return the request with a ``ttl`` that ends when its maker expires."""
        user = None if maker == LOCAL_ADMIN else await self._users.find_user(maker)
        expires = None if user is None else user.metadata.expires
        if expires is None:
            return request
        return evolve(request, ttl=min(request.ttl, expires - now(self._clock)))

    async def list_tokens(self, request: Paged, caller: Caller) -> TokenList:
        """Return a page of tokens, without their secrets."""
        found, following = await self._tokens.list(request.limit, request.after)
        return TokenList(tuple(found), following)

    async def delete_token(self, request: ById, caller: Caller) -> Nothing:
        """Revoke a token."""
        token_id = await self._tokens.delete(request.id)
        await self._journal.emit("token.delete", caller, token_id=token_id)
        return Nothing()
