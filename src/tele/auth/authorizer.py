"""May this caller do that through the API, now?

Invariants:

* Everything is settled here for every call, wherever it comes from: kind of caller, end and
  cluster of the certificate, locks, membership, and the rules of a user's roles.
* Roles, locks and membership count as they are in the store now, not as they were when a
  certificate was issued.
* The administrator of auth's own machine may do everything: who can read the store has no
  need to ask, and no change of roles can lock them out.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

from attrs import evolve
from twisted.internet.interfaces import IReactorTime

from tele.auth.members import Members
from tele.auth.state import State
from tele.auth.users import Users
from tele.errors import AccessDenied, NotLoggedIn
from tele.https.callers import admit
from tele.loop import now
from tele.model.access import Reason
from tele.model.api import operation as kinds
from tele.model.api.operation import Operation, Permitted
from tele.model.identity import Caller, HostIdentity, HostRole, UserIdentity
from tele.rbac.decision import permits, refusal

#: The user that the administrator of auth's own machine is; no user can have this name.
LOCAL_ADMIN: Final = "@local"


class Authorizer:
    """Stands before every operation."""

    def __init__(
        self, cluster: str, state: State, members: Members, users: Users, clock: IReactorTime
    ) -> None:
        self._cluster = cluster
        self._state = state
        self._members = members
        self._users = users
        self._clock = clock

    async def check(self, operation: Operation[Any, Any], caller: Caller) -> None:
        """Raise :class:`NotLoggedIn` or :class:`AccessDenied` unless ``caller`` may call it."""
        admit(operation, caller)
        identity = caller.identity
        if identity is None or any(isinstance(who, kinds.Anyone) for who in operation.who):
            return
        if identity.expires <= now(self._clock):
            raise NotLoggedIn("the certificate has expired: log in, or join, again")
        if identity.cluster != self._cluster:
            raise AccessDenied(
                f"the certificate is not of cluster {self._cluster}", Reason.CLUSTER.value
            )
        if isinstance(identity, HostIdentity):
            await self._check_host(identity)
        else:
            await self._check_user(operation, identity)

    async def _check_host(self, identity: HostIdentity) -> None:
        denied = self._state.policy.refuses_host(identity, now(self._clock))
        if denied is not None:
            raise AccessDenied(denied.message, denied.reason.value)
        if identity.role is not HostRole.AUTH:  # that one nobody joins as
            await self._members.require(identity)

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
            refusal(roles, self._state.roles, rule.resource, rule.verb, now(self._clock))
            for rule in rules
        ]
        if None not in denials:
            text = next((denied.message for denied in denials if denied), operation.name)
            raise AccessDenied(f"denied: {text}", Reason.RULE.value)

    async def roles_of(self, identity: UserIdentity) -> tuple[str, ...]:
        """The caller's roles as they are now; raises :class:`AccessDenied` if they were removed."""
        if identity.user == LOCAL_ADMIN:
            return identity.roles
        user = await self._users.find_user(identity.user)
        if user is None:
            raise AccessDenied(
                f"user {identity.user} does not exist any more", Reason.NO_ROLE.value
            )
        return user.spec.roles

    async def may(self, caller: Caller, resource: str, verb: str) -> bool:
        """Whether the caller is a user whose rules allow this."""
        identity = caller.identity
        if not isinstance(identity, UserIdentity):
            return False
        if identity.user == LOCAL_ADMIN:
            return True
        held = await self.roles_of(identity)
        return permits(held, self._state.roles, resource, verb, now(self._clock))

    async def visible_user(self, caller: Caller, resource: str, verb: str) -> str | None:
        """Return whose resources the caller sees: all (None) by a rule, else their own."""
        return None if await self.may(caller, resource, verb) else user_caller(caller).user

    async def since(self, caller: Caller) -> datetime:
        """When the user who calls was created: what is older under this name is another's."""
        return await self._users.since(user_caller(caller).user)

    async def forces(self, caller: Caller, wanted: bool) -> bool:
        """Whether ``caller`` wants a change also if nobody can administer the cluster then.

        Raises :class:`AccessDenied` for who does not administer it: a rule for locks, or for
        removing users, does not shut out everybody.
        """
        if wanted:
            for resource in ("user", "role"):
                if not await self.may(caller, resource, "update"):
                    raise AccessDenied(
                        "denied: to force a change takes rules for the verb update on user"
                        " and role",
                        Reason.RULE.value,
                    )
        return wanted


def host_caller(caller: Caller) -> HostIdentity:
    """Return the host that calls. Raises :class:`NotLoggedIn` for others."""
    if not isinstance(caller.identity, HostIdentity):
        raise NotLoggedIn("this is for hosts of the cluster")
    return caller.identity


def user_caller(caller: Caller) -> UserIdentity:
    """Return the user who calls. Raises :class:`NotLoggedIn` for others."""
    if not isinstance(caller.identity, UserIdentity):
        raise NotLoggedIn("this is for users of the cluster")
    return caller.identity
