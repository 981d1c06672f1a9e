"""How does a node that knows only a proxy reach auth, and how do clients reach the node?

Invariant: TLS ends at auth: before there is a tunnel the proxy's port relays it, then the tunnel.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.conch.error import ConchError
from twisted.internet.defer import Deferred
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.error import ConnectionLost
from twisted.internet.interfaces import (
    IProtocol,
    IProtocolFactory,
    IReactorTime,
    IStreamClientEndpoint,
)
from zope.interface import implementer

from tele.admission.limits import Limits
from tele.embed.egress import network
from tele.errors import TeleError
from tele.log import make_logger
from tele.loop import now
from tele.membership.joining import JoinSettings
from tele.membership.member import Member
from tele.model.api.members import Proxy
from tele.model.identity import HostIdentity, HostRole
from tele.outbound.dialer import Dialer
from tele.sockets.direct import peer_address
from tele.tunnel.agent import Serve
from tele.tunnel.agents import Agents

_log = make_logger(__name__)

DIAL_SECONDS = 10.0


class Tunnelling:
    """The tunnels of a node. ``member`` is set before anything is started."""

    member: Member

    def __init__(
        self, clock: IReactorTime, count: int, join: JoinSettings, dialer: Dialer, limits: Limits
    ) -> None:
        self._clock = clock
        self._limits = limits
        self._count = count
        self._join = join
        self._dialer = dialer
        self._agents: Agents | None = None
        self.network = network(dialer, self._auth_endpoint)

    def agents(self, serve: Serve, changed: Callable[[], None]) -> Agents:
        """Return the tunnels; see :class:`tele.node.service.NodeService`."""
        member = self.member
        self._agents = Agents(
            self._clock,
            lambda: member.host_id,
            count=self._count,
            proxies=self._proxies,
            bootstrap=self._join.addresses,
            identity=member.client_identity,
            verifier=lambda: member.verifier(HostRole.PROXY),
            serve=serve,
            endpoint=self._dial,
            changed=changed,
            limits=self._limits,
            refuses=self._refuses,
        )
        return self._agents

    def _proxies(self) -> tuple[Proxy, ...]:
        policy, moment = self.member.policy, now(self._clock)
        proxies = self.member.state.proxies
        return tuple(p for p in proxies if policy.locks_host(p.id, moment) is None)

    def _refuses(self, proxy: HostIdentity) -> str:
        return self.member.refuses(proxy)

    def _dial(self, address: str) -> IStreamClientEndpoint:
        return self._dialer.dial(address, DIAL_SECONDS)

    def _auth_endpoint(self, host: str, port: int) -> IStreamClientEndpoint:
        return _AuthEndpoint(lambda: self._agents, self._dialer.endpoint(host, port, DIAL_SECONDS))


@implementer(IStreamClientEndpoint)
class _AuthEndpoint:
    """Auth, through a tunnel if there is one, or else through the proxy's port."""

    def __init__(
        self, agents: Callable[[], Agents | None], otherwise: IStreamClientEndpoint
    ) -> None:
        self._agents = agents
        self._otherwise = otherwise

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        """See ``IStreamClientEndpoint``."""
        return Deferred.fromCoroutine(self._connect(protocolFactory))

    async def _connect(self, factory: IProtocolFactory) -> IProtocol:
        agents = self._agents()
        if agents is not None and agents.proxy_ids:
            protocol = factory.buildProtocol(peer_address(("auth", 0)))
            if protocol is not None:
                try:
                    return await agents.open_auth(protocol)
                except (TeleError, ConchError, DeferredTimeout, ConnectionLost) as error:
                    _log.debug("connection to auth through a tunnel failed", error=str(error))
        return await self._otherwise.connect(factory)
