"""Who may go through the proxy, and where to? The jump host's realm.

Laws of this file:

* Nobody logs in here: the only thing that a visitor gets is a way to a node's SSH.
* Who may not log in to a node at all cannot even dial it; unknown, ambiguous, offline and
  denied are four different answers.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any, Final

from twisted.conch.avatar import ConchUser
from twisted.conch.interfaces import IConchUser
from twisted.cred.portal import IRealm
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IProtocolFactory
from zope.interface import Interface, implementer

from tele.conch.credentials import CertificateCredentials
from tele.conch.forwarding import ForwardRequest, IForwarder, open_direct_tcpip
from tele.errors import AccessDenied, InvalidInput, TeleError, Unreachable
from tele.model.api.members import ClusterState
from tele.model.identity import UserIdentity
from tele.model.presence import Host
from tele.proxy.index import NodeIndex, check_online
from tele.rbac.decision import locked, may_reach

#: What clients say when they mean a node's SSH, beside the port that it has.
SSH_PORTS: Final = frozenset({22, 3022})

Dial = Callable[[Host, IProtocolFactory], Deferred[Any]]
Denied = Callable[["Visitor", str, TeleError], None]


@implementer(IForwarder)
class Visitor(ConchUser):
    """One who passes through. ``remote_addr`` is (host, port)."""

    def __init__(
        self, realm: JumpRealm, identity: UserIdentity, remote_addr: tuple[str, int]
    ) -> None:
        super().__init__()
        self.identity = identity
        self.remote_addr = remote_addr
        self._realm = realm
        self.channelLookup = {b"direct-tcpip": open_direct_tcpip}

    def gotGlobalRequest(self, requestType: bytes, data: bytes) -> int:
        """There is nothing to ask of a jump host."""
        return 0

    def connect(self, request: ForwardRequest, factory: IProtocolFactory) -> Deferred[Any]:
        """See :class:`IForwarder`: connect to the node that ``request.host`` names."""
        try:
            host = self._realm.find(self, request)
        except TeleError as error:
            if isinstance(error, AccessDenied):
                self._realm.denied(self, request.host, error)
            return fail(error)
        dialling = self._realm.dial(host, factory)
        return dialling.addErrback(lambda failure: _unreachable(failure, host))


def _unreachable(failure: Any, host: Host) -> Any:
    if isinstance(failure.value, TeleError):
        return failure
    raise Unreachable(
        f"node {host.name} does not answer at {', '.join(host.addresses) or 'any address'}"
    ) from None


@implementer(IRealm)
class JumpRealm:
    """Admits users of the cluster and finds nodes for them.

    ``dial(host, factory)`` connects to a node; ``denied(visitor, target, error)`` hears of
    everybody who may not go where they want.
    """

    def __init__(
        self,
        state: Callable[[], ClusterState],
        now: Callable[[], datetime],
        index: NodeIndex,
        dial: Dial,
        denied: Denied,
    ) -> None:
        self.dial = dial
        self.denied = denied
        self._state = state
        self._now = now
        self._index = index

    def requestAvatar(
        self, avatarId: Any, mind: Any, *interfaces: type[Interface]
    ) -> Deferred[Any]:
        """Admit whoever is not locked; where they may go is asked when they go."""
        if not isinstance(avatarId, CertificateCredentials) or IConchUser not in interfaces:
            raise NotImplementedError("this realm has visitors with certificates only")
        identity = avatarId.checked.identity
        lock = locked(self._state().locks, identity, self._now())
        if lock is not None:
            said = lock.spec.message or lock.metadata.name
            return fail(AccessDenied(f"{identity.user} is locked: {said}", "locked"))
        visitor = Visitor(self, identity, avatarId.remote_addr)
        return succeed((IConchUser, visitor, lambda: None))

    def find(self, visitor: Visitor, request: ForwardRequest) -> Host:
        """Return the node that is meant. Raises a :class:`TeleError` with the answer."""
        host = self._index.find(request.host)
        state = self._state()
        roles = {role.metadata.name: role for role in state.roles}
        denied = may_reach(visitor.identity, host.labels, roles, state.locks, self._now(), host.id)
        if denied is not None:
            raise AccessDenied(f"denied: {denied.message}", denied.reason.value)
        ports = {int(a.rpartition(":")[2]) for a in host.addresses} | SSH_PORTS
        if request.port not in ports:
            raise InvalidInput(
                f"the proxy reaches SSH of {host.name} and no other port: not {request.port}"
            )
        return check_online(host)
