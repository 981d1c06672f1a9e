"""How many connections does a user have, over all hosts? Hosts claim one before it begins.

``/connection-claims/<user>/<host>/<session id>`` exists from a claim until the session starts or
ends, or for :data:`CLAIMED_FOR`; ``/connection-counts/<user>`` changes with each claim.

Invariants:

* A claim is refused if the user has as many connections as the limit: sessions that run on hosts
  which are online, and claims. Claims at the same time, also at several auths on one store, count
  one by one.
* A session behind a proxy that ends users' SSH belongs to that at the proxy: it is no connection
  beside it.
* A host that is offline holds no place: its sessions may be over, and their user is not refused
  elsewhere for that.
* A host claims for itself: a claim of another host is neither counted twice nor removed.
* A host that was taken over holds no place of a user who may not reach it: neither its claims nor
  its sessions count. A proxy claims for sessions that auth has registered, by the user's proof.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final

from tele.auth.host_places import place_key
from tele.auth.presence import Hosts
from tele.auth.proxied_sessions import ProxiedSessions
from tele.auth.repository import Repository
from tele.auth.session_starts import (
    CONNECTION_CLAIMS,
    SESSION_STARTS_OF,
    StartedSession,
    all_starts,
    claim_key,
)
from tele.errors import AccessDenied, Conflict, InvalidInput, Unavailable
from tele.interfaces import IBackend, Put
from tele.model.access import Reason, connections
from tele.model.identity import HostPlace, HostRole, UserIdentity
from tele.rbac.policy import Policy

#: How long a claim counts whose session neither starts nor ends.
CLAIMED_FOR: Final = timedelta(minutes=1)
COUNTS: Final = "/connection-counts/"
#: How often a claim is tried again when another one came in between.
ATTEMPTS: Final = 20


class ConnectionClaims:
    """The connections of users that begin, or run."""

    def __init__(
        self,
        backend: IBackend,
        hosts: Hosts,
        policy: Callable[[], Policy],
        proxied: ProxiedSessions,
        now: Callable[[], datetime],
    ) -> None:
        self._backend = backend
        self._hosts = hosts
        self._policy = policy
        self._proxied = proxied
        self._now = now
        self._starts: Repository[StartedSession] = all_starts(backend)

    async def claim(
        self, host: HostPlace, identity: UserIdentity, session_id: str, limit: int
    ) -> None:
        """Count a session that is about to begin on ``host``.

        ``identity`` is what a certificate of the user has now. Raises :class:`AccessDenied` if the
        user has ``limit`` connections beside it, :class:`InvalidInput` if they cannot have one
        there, and :class:`Unavailable` if it cannot be counted now.
        """
        user = identity.user
        if not await self._is_possible(host, identity, session_id):
            raise InvalidInput(f"{user} can have no such session on the calling host")
        for _ in range(ATTEMPTS):
            count = await self._backend.get(COUNTS + user)
            # Claims first: one that becomes a session meanwhile is in either.
            others = await self._claimed(user)
            others |= await self._running(identity)
            others.discard(f"{place_key(host)}/{session_id}")
            if len(others) >= limit:
                raise AccessDenied(
                    f"{connections(len(others))} open for {user}, and the roles allow {limit}"
                    " (max_connections): end one first; tele sessions ls shows them",
                    Reason.CONNECTIONS.value,
                )
            revision = 0 if count is None else count.revision
            try:
                await self._backend.commit(
                    Put(claim_key(host, user, session_id), b"", ttl=CLAIMED_FOR),
                    Put(COUNTS + user, b"", revision, ttl=CLAIMED_FOR),
                )
            except Conflict:
                continue
            return
        raise Unavailable(f"too many connections of {user} begin at the same time: try again")

    async def _is_possible(self, host: HostPlace, identity: UserIdentity, session_id: str) -> bool:
        role, host_id = host
        if role is HostRole.PROXY:
            known = await self._proxied.find(host_id, session_id)
            return known is not None and known.user == identity.user
        return self._reaches(identity, host)

    def _reaches(self, identity: UserIdentity, place: HostPlace) -> bool:
        """Whether a user may reach a node now. Events of a proxy are of registered sessions."""
        role, host_id = place
        if role is HostRole.PROXY:
            return True
        host = self._hosts.find(role, host_id)
        if host is None:
            return False
        policy, moment = self._policy(), self._now()
        return policy.may_reach(identity, host.labels, moment, host_id) is None

    async def _running(self, identity: UserIdentity) -> set[str]:
        """Return host and id of each session that runs."""
        user = identity.user
        prefix = f"{SESSION_STARTS_OF}{user}/"
        items = await self._backend.range(prefix, prefix[:-1] + "0")
        names = [item.key.removeprefix(prefix) for item in items]
        return {
            each.name
            for each in await self._starts.get_many(names)
            if not each.value.of_session
            and self._hosts.is_online(*each.value.session.recorded_by)
            and self._reaches(identity, each.value.session.recorded_by)
        }

    async def _claimed(self, user: str) -> set[str]:
        prefix = f"{CONNECTION_CLAIMS}{user}/"
        items = await self._backend.range(prefix, prefix[:-1] + "0")
        return {item.key.removeprefix(prefix) for item in items}
