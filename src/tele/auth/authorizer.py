"""May this caller perform this operation of the API now?

Invariants:

* Every call is checked here, wherever it comes from: kind of caller, expiry and cluster of the
  certificate, locks, membership, and the rules of a user's roles.
* An operation that looks at each object is called with a rule whose condition may be true, and asks
  about the object itself; everywhere else such a rule allows nothing.
* Roles, locks and membership are those in the store now, not those at the time of issue of the
  certificate.
* The administrator of auth's own machine may do everything: they can read and write the store
  anyway, and no change of roles locks them out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Final, TypeAlias

from attrs import evolve
from twisted.internet.interfaces import IReactorTime

from tele.auth.copied_hosts import CopiedHosts
from tele.auth.members import Members
from tele.auth.state import State
from tele.auth.users import Users
from tele.errors import AccessDenied, NotLoggedIn
from tele.https.callers import admit
from tele.loop import now
from tele.model.access import Denied, Reason
from tele.model.api import operation as kinds
from tele.model.api.operation import Operation, Permitted
from tele.model.identity import Caller, HostIdentity, HostRole, UserIdentity
from tele.model.resources import Role, User
from tele.model.session import Recording, Session
from tele.rbac.decision import permits, refusal
from tele.rbac.rules import facts_of

#: The user name of the administrator of auth's own machine; no user can have this name.
LOCAL_ADMIN: Final = "@local"
#: Tells why an operation on an object is denied, or None.
Judge: TypeAlias = Callable[[User | Session | Recording], Denied | None]


def _allowed(_: object) -> None:
    """Everything is allowed."""


class Authorizer:
    """Authorizes the calls of every operation."""

    def __init__(
        self,
        cluster: str,
        state: State,
        members: Members,
        users: Users,
        copies: CopiedHosts,
        clock: IReactorTime,
    ) -> None:
        self._copies = copies
        self._cluster = cluster
        self._state = state
        self._members = members
        self._users = users
        self._clock = clock

    @property
    def roles(self) -> Mapping[str, Role]:
        """The roles of now, by name."""
        return self._state.roles

    async def check(self, operation: Operation[Any, Any], caller: Caller) -> None:
        """Raise :class:`NotLoggedIn` or :class:`AccessDenied` unless ``caller`` may call it."""
        admit(operation, caller)
        identity = caller.identity
        if identity is None or any(isinstance(who, kinds.Anyone) for who in operation.who):
            return
        if identity.expires <= now(self._clock):
            raise NotLoggedIn("the certificate has expired: log in again, or join again")
        if identity.cluster != self._cluster:
            raise AccessDenied(
                f"the certificate is not of cluster {self._cluster}", Reason.CLUSTER.value
            )
        if isinstance(identity, HostIdentity):
            await self._check_host(caller, identity)
        else:
            await self._check_user(operation, identity)

    async def _check_host(self, caller: Caller, identity: HostIdentity) -> None:
        denied = self._state.policy.refuses_host(identity, now(self._clock))
        if denied is not None:
            raise AccessDenied(denied.message, denied.reason.value)
        if identity.role is not HostRole.AUTH:  # auth is no member
            await self._members.require(identity)
            await self._copies.check(caller, identity)

    async def _check_user(self, operation: Operation[Any, Any], identity: UserIdentity) -> None:
        if identity.user == LOCAL_ADMIN:
            return
        roles = await self.roles_of(identity)
        either = evolve(identity, roles=tuple(dict.fromkeys((*identity.roles, *roles))))
        stopped = self._state.policy.refuses_user(either, now(self._clock))
        if stopped is not None:
            raise AccessDenied(stopped.message, stopped.reason.value)
        if any(isinstance(who, kinds.Users) for who in operation.who):
            return
        rules = [who for who in operation.who if isinstance(who, Permitted)]
        denials = [
            refusal(
                roles,
                self._state.roles,
                rule.resource,
                rule.verb,
                now(self._clock),
                possibly=rule.each,
            )
            for rule in rules
        ]
        if None not in denials:
            text = next((denied.message for denied in denials if denied), operation.name)
            raise AccessDenied(f"denied: {text}", Reason.RULE.value)

    async def roles_of(self, identity: UserIdentity) -> tuple[str, ...]:
        """Return a user's present roles. Raises :class:`AccessDenied` for a removed user."""
        if identity.user == LOCAL_ADMIN:
            return identity.roles
        user = await self._users.find_user(identity.user)
        if user is None:
            raise AccessDenied(
                f"user {identity.user} does not exist any more", Reason.NO_ROLE.value
            )
        return user.spec.roles

    async def may(self, caller: Caller, resource: str, verb: str) -> bool:
        """Whether the caller is a user with a rule that allows this."""
        identity = caller.identity
        if not isinstance(identity, UserIdentity):
            return False
        if identity.user == LOCAL_ADMIN:
            return True
        held = await self.roles_of(identity)
        return permits(held, self._state.roles, resource, verb, now(self._clock))

    async def judge(self, caller: Caller, resource: str, verb: str) -> Judge:
        """Return what tells whether the calling user has a rule that allows this on an object; it
        returns why not, or None.
        """
        identity = user_caller(caller)
        if identity.user == LOCAL_ADMIN:
            return _allowed
        held = await self.roles_of(identity)
        user = await self._users.find_user(identity.user)
        who = {
            "user.name": identity.user,
            "user.roles": held,
            "user.traits": {} if user is None else user.spec.traits,
        }
        roles, moment = self._state.roles, now(self._clock)

        def judge(thing: User | Session | Recording) -> Denied | None:
            return refusal(held, roles, resource, verb, moment, {**who, **facts_of(thing)})

        return judge

    async def judge_if_any(self, caller: Caller, resource: str, verb: str) -> Judge | None:
        """Return :meth:`judge`, or None if no object passes it."""
        identity = user_caller(caller)
        if identity.user != LOCAL_ADMIN:
            held = await self.roles_of(identity)
            denied = refusal(
                held, self._state.roles, resource, verb, now(self._clock), possibly=True
            )
            if denied is not None:
                return None
        return await self.judge(caller, resource, verb)

    async def need(
        self, caller: Caller, resource: str, verb: str, thing: User | Session | Recording
    ) -> None:
        """Raise :class:`AccessDenied` unless a rule of the caller allows this on an object."""
        denied = (await self.judge(caller, resource, verb))(thing)
        if denied is not None:
            raise AccessDenied(f"denied: {denied.message}", Reason.RULE.value)

    async def visible_user(self, caller: Caller, resource: str, verb: str) -> str | None:
        """Return the user whose resources the caller sees: themselves, or None for all users."""
        return None if await self.may(caller, resource, verb) else user_caller(caller).user

    async def since(self, caller: Caller) -> datetime:
        """Return when the calling user was created: older resources are of an earlier user."""
        return await self._users.since(user_caller(caller).user)

    async def forces(self, caller: Caller, wanted: bool) -> bool:
        """Return ``wanted``: whether a change is made that leaves no administrator.

        Raises :class:`AccessDenied` if the caller is no administrator: a rule for locks, or for
        deleting users, is not enough to leave a cluster without one.
        """
        if wanted:
            for resource in ("user", "role"):
                if not await self.may(caller, resource, "update"):
                    raise AccessDenied(
                        "denied: forcing a change needs rules for the verb update on user and role",
                        Reason.RULE.value,
                    )
        return wanted


def host_caller(caller: Caller) -> HostIdentity:
    """Return the host that calls. Raises :class:`NotLoggedIn` for others."""
    if not isinstance(caller.identity, HostIdentity):
        raise NotLoggedIn("this operation is for hosts of the cluster")
    return caller.identity


def user_caller(caller: Caller) -> UserIdentity:
    """Return the calling user. Raises :class:`NotLoggedIn` for others."""
    if not isinstance(caller.identity, UserIdentity):
        raise NotLoggedIn("this operation is for users of the cluster")
    return caller.identity
