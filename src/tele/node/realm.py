"""May they come in here, as that account? The portal's realm.

Laws of this file:

* The certificate was checked before; here the roles decide, once, and give a Grant.
* What the certificate withholds, no role gives back.
* Without a valid certificate of our own, or without room to put it on record, nobody comes in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from twisted.conch.interfaces import IConchUser
from twisted.cred.portal import IRealm
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThreadPool
from zope.interface import implementer

from tele.conch.credentials import CertificateCredentials
from tele.errors import AccessDenied, Unavailable
from tele.loop import now
from tele.membership.member import Member
from tele.model.access import CertificateLimits, Denied, Grant
from tele.model.api.members import ClusterState
from tele.model.resources import Role
from tele.node.accounts import Refused, check_open, check_sessions, find_account
from tele.node.programs import Visit
from tele.node.visitor import Visitor
from tele.rbac.decision import decide

PTY: Final = "permit-pty"
PORT_FORWARDING: Final = "permit-port-forwarding"
AGENT_FORWARDING: Final = "permit-agent-forwarding"
X11_FORWARDING: Final = "permit-X11-forwarding"

Answer = tuple[Any, Any, Callable[[], None]]


def look_up(login: str) -> None:
    """Raise Refused unless the account ``login`` is there, ours to serve, and open. May wait.

    Also one that is for no sessions is refused here: forwarding alone is a use of it, too.
    """
    account = find_account(login)
    check_open(account)
    check_sessions(account)


@implementer(IRealm)
class NodeRealm:
    """Decides who may be what on this node.

    :param labels: the node's own labels; those that the cluster bound to it win over them.
    :param receive: makes the avatar for a grant and its credentials.
    """

    def __init__(
        self,
        reactor: Any,
        member: Member,
        labels: Callable[[], Mapping[str, str]],
        receive: Callable[[Grant, CertificateCredentials], Visitor],
        look_up: Callable[[str], None] = look_up,
    ) -> None:
        self._reactor = reactor
        self._member = member
        self._labels = labels
        self._receive = receive
        self._look_up = look_up
        self._roles: tuple[ClusterState | None, dict[str, Role]] = (None, {})

    def requestAvatar(self, avatarId: Any, mind: Any, *interfaces: Any) -> Deferred[Answer]:
        """Return the visitor for :class:`CertificateCredentials`, or fail with AccessDenied."""
        return Deferred.fromCoroutine(self._request(avatarId, interfaces))

    async def _request(self, credentials: CertificateCredentials, interfaces: Any) -> Answer:
        if IConchUser not in interfaces:
            raise Unavailable("this server has SSH users only")
        grant = self._decide(credentials)
        await self._check_account(grant.login)
        visitor = self._receive(grant, credentials)
        visitor.arrived()
        return IConchUser, visitor, visitor.left

    def _decide(self, credentials: CertificateCredentials) -> Grant:
        member = self._member
        moment = now(self._reactor)
        if member.identity.expires <= moment:
            raise Unavailable(
                "this node's own certificate has expired while auth was away; it lets nobody in"
                " until it has a new one"
            )
        if member.expelled:
            raise Unavailable(
                "this node was removed from its cluster; it lets nobody in until it joins again"
            )
        if not member.can_record:
            raise Unavailable("this node has no room left for its audit; it lets nobody in")
        state = member.state
        if self._roles[0] is not state:
            self._roles = (state, {role.metadata.name: role for role in state.roles})
        checked = credentials.checked
        decision = decide(
            checked.identity,
            credentials.login,
            {**self._labels(), **member.bound_labels},
            self._roles[1],
            state.locks,
            moment,
            member.host_id,
            CertificateLimits(
                permit_pty=PTY in checked.extensions,
                port_forwarding=PORT_FORWARDING in checked.extensions,
                agent_forwarding=AGENT_FORWARDING in checked.extensions,
                x11_forwarding=X11_FORWARDING in checked.extensions,
                force_command=checked.force_command,
            ),
        )
        if isinstance(decision, Denied):
            raise AccessDenied(decision.message, decision.reason.value)
        return decision

    async def _check_account(self, login: str) -> None:
        # Name services may wait for a network; the reactor must not.
        pool = self._reactor.getThreadPool()
        try:
            await deferToThreadPool(self._reactor, pool, self._look_up, login)
        except Refused as refused:
            raise AccessDenied(str(refused), refused.reason) from None


def visit_of(grant: Grant, credentials: CertificateCredentials, session_id: str) -> Visit:
    """Return between whom this connection is."""
    return Visit(grant, session_id, credentials.remote_addr, credentials.local_addr)
