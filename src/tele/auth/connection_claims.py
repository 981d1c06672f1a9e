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
"""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from tele.auth.host_places import place_key
from tele.auth.presence import Hosts
from tele.auth.repository import Repository
from tele.auth.session_starts import (
    CONNECTION_CLAIMS,
    SESSION_STARTS_OF,
    StartedSession,
    all_starts,
    claim_key,
)
from tele.errors import AccessDenied, Conflict, Unavailable
from tele.interfaces import IBackend, Put
from tele.model.access import Reason, connections
from tele.model.identity import HostPlace

#: How long a claim counts whose session neither starts nor ends.
CLAIMED_FOR: Final = timedelta(minutes=1)
COUNTS: Final = "/connection-counts/"
#: How often a claim is tried again when another one came in between.
ATTEMPTS: Final = 20


class ConnectionClaims:
    """The connections of users that begin, or run."""

    def __init__(self, backend: IBackend, hosts: Hosts) -> None:
        self._backend = backend
        self._hosts = hosts
        self._starts: Repository[StartedSession] = all_starts(backend)

    async def claim(self, host: HostPlace, user: str, session_id: str, limit: int) -> None:
        """Count a session that is about to begin on ``host``.

        Raises :class:`AccessDenied` if ``user`` has ``limit`` connections beside it, and
        :class:`Unavailable` if it cannot be counted now.
        """
        for _ in range(ATTEMPTS):
            count = await self._backend.get(COUNTS + user)
            # Claims first: one that becomes a session meanwhile is in either.
            others = await self._claimed(user)
            others |= await self._running(user)
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

    async def _running(self, user: str) -> set[str]:
        """Return host and id of each session that runs."""
        prefix = f"{SESSION_STARTS_OF}{user}/"
        items = await self._backend.range(prefix, prefix[:-1] + "0")
        names = [item.key.removeprefix(prefix) for item in items]
        return {
            each.name
            for each in await self._starts.get_many(names)
            if not each.value.of_session and self._hosts.is_online(*each.value.session.recorded_by)
        }

    async def _claimed(self, user: str) -> set[str]:
        prefix = f"{CONNECTION_CLAIMS}{user}/"
        items = await self._backend.range(prefix, prefix[:-1] + "0")
        return {item.key.removeprefix(prefix) for item in items}
