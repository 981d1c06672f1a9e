"""Who may log in to a proxy's SSH server? Users, nodes and other proxies, each with their avatar.

Invariants:

* The certificate alone decides which avatar it is.
* A locked host gets none.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.conch.interfaces import IConchUser
from twisted.cred.portal import IRealm
from twisted.internet.defer import Deferred, fail, succeed
from zope.interface import Interface, implementer

from tele.conch.server.credentials import CertificateCredentials, MemberCredentials
from tele.errors import AccessDenied, TeleError
from tele.model.identity import HostIdentity, HostRole
from tele.proxy.jump import JumpHost
from tele.routing.peers import PeerAvatar
from tele.tunnel.acceptor import AgentAvatar
from tele.tunnel.relayed_channels import MemberAvatar


@implementer(IRealm)
class ProxyRealm:
    """Makes the avatar of a login.

    ``agent`` and ``peer`` make those of nodes and of other proxies; ``refuses(host)`` returns why a
    host is refused, or nothing.
    """

    def __init__(
        self,
        jump: JumpHost,
        agent: Callable[[MemberCredentials], AgentAvatar],
        peer: Callable[[MemberCredentials], PeerAvatar],
        refuses: Callable[[HostIdentity], str],
    ) -> None:
        self._jump = jump
        self._agent = agent
        self._peer = peer
        self._refuses = refuses

    def requestAvatar(
        self, avatarId: Any, mind: Any, *interfaces: type[Interface]
    ) -> Deferred[Any]:
        """Return the avatar, or fail with :class:`AccessDenied`."""
        if IConchUser not in interfaces:
            raise NotImplementedError("a proxy has SSH users only")
        avatar: MemberAvatar
        try:
            if isinstance(avatarId, CertificateCredentials):
                avatar = self._jump.admit(avatarId)
            else:
                avatar = self._admit_member(avatarId)
        except TeleError as error:
            return fail(error)
        return succeed((IConchUser, avatar, avatar.logout))

    def _admit_member(self, credentials: MemberCredentials) -> AgentAvatar | PeerAvatar:
        host = credentials.identity
        problem = self._refuses(host)
        if problem:
            raise AccessDenied(problem, "locked")
        if host.role is HostRole.NODE:
            return self._agent(credentials)
        if host.role is HostRole.PROXY:
            return self._peer(credentials)
        raise AccessDenied(f"a proxy does not admit a host of the role {host.role.value}", "role")
