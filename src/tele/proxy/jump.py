"""Which users may connect to the jump host, and for how long?

Invariants:

* No user has a session here: see :mod:`tele.proxy.jump_avatar`.
* The use of one user over all connections is bounded (:mod:`tele.proxy.user_limits`).
* Decisions are made again when the cluster's rules change. If the user, or one of the nodes that a
  connection leads to, is denied, the whole connection ends with the reason.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from attrs import evolve
from twisted.internet.interfaces import IReactorTime

from tele.certs.check import LATEST
from tele.conch.server.credentials import CertificateCredentials
from tele.errors import AccessDenied, Unavailable
from tele.loop import Expiry, now
from tele.membership.reviewing import Review
from tele.model import access
from tele.model.api.members import ClusterState
from tele.model.joining import joined_session
from tele.proxy.audit import JumpAudit
from tele.proxy.jump_avatar import HostRoute, JumpAvatar, JumpContext
from tele.proxy.user_limits import UserUsage
from tele.rbac.policy import Policy
from tele.routing.finder import NodeFinder
from tele.routing.index import NodeIndex

#: Seconds that nodes have to end the sessions of a user, before the connection to them ends.
NODES_FIRST: Final = 1.5


class JumpHost:
    """Admits users, and ends their connections when they are denied later.

    ``has_tunnel(host_id)``: the node has a tunnel to this proxy.
    """

    def __init__(
        self,
        clock: IReactorTime,
        state: Callable[[], ClusterState],
        policy: Callable[[], Policy],
        index: NodeIndex,
        has_tunnel: Callable[[str], bool],
        dialer: HostRoute,
        audit: JumpAudit,
        usage: UserUsage,
    ) -> None:
        self._clock = clock
        self._state = state
        self._policy = policy
        self._audit = audit

        def count_decision(user: str) -> None:
            usage.count_decision(user, clock.seconds())

        self._finder = NodeFinder(clock, index, policy, has_tunnel, count_decision)
        #: The users who are connected, once for each connection.
        self.present: set[JumpAvatar] = set()
        self._context = JumpContext(
            clock, self._finder, dialer, usage, audit.denied, self.present.discard
        )
        self._review = Review(clock, state, policy, lambda: self.present, self._decide_again)

    def check(self) -> None:
        """The cluster's state may have changed: decide again."""
        self._review.check()

    def stop(self) -> None:
        """Decide no more."""
        self._review.stop()

    def admit(self, credentials: CertificateCredentials) -> JumpAvatar:
        """Return the avatar of a user of the cluster who is not locked. Raises a
        :class:`tele.errors.TeleError`.

        No user is admitted while sessions are to be recorded in a mode that this proxy does not
        know.
        """
        if problem := self._state().recording.problem:
            raise Unavailable(f"this proxy cannot record sessions as the cluster says: {problem}")
        if credentials.checked.session:
            raise AccessDenied("the certificate is for one session of a proxy", "certificate")
        identity = credentials.checked.identity
        refused = self._policy().refuses_user(identity, now(self._clock))
        if refused is not None:
            raise AccessDenied(refused.message, refused.reason.value)
        expiry = Expiry(self._clock, identity.expires)
        avatar = JumpAvatar(self._context, identity, expiry, credentials.remote_addr)
        avatar.joins = joined_session(credentials.login)
        avatar.keepalive_interval = self._keepalive(avatar)
        self.present.add(avatar)
        return avatar

    def _decide_again(self, avatar: JumpAvatar) -> None:
        """Decide about a user who is connected, and about each node of the connection."""
        if avatar not in self.present:
            return  # the client disconnected meanwhile
        policy, moment = self._policy(), now(self._clock)
        # A connection outlives the user's certificate.
        identity = evolve(avatar.identity, expires=LATEST)
        refused = policy.refuses_user(identity, moment)
        avatar.set_keepalive(self._keepalive(avatar))
        # A locked node is cut off itself, and shows nothing.
        node_shows = True
        for host in avatar.nodes:
            labels = self._finder.get(host).labels
            refused = refused or policy.may_connect(identity, labels, moment, host.id)
            node_shows = node_shows and policy.locks_host(host.id, moment) is None
        if refused is not None and not avatar.is_ending:
            self._expel(avatar, refused, NODES_FIRST if node_shows else 0.0)

    def _expel(self, avatar: JumpAvatar, denied: access.Denied, seconds: float) -> None:
        self._audit.ended(avatar, denied)
        avatar.expel(denied, seconds)

    def _keepalive(self, avatar: JumpAvatar) -> float:
        moment = now(self._clock)
        return self._policy().client_keepalive(avatar.identity, moment).total_seconds()
