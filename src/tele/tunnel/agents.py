"""To which proxies does a node keep tunnels?

Invariants:

* As many as configured, to the proxies that the node prefers. One that is unreachable or stopping
  is replaced at once, and is dialled until it answers.
* While no proxy is known, to the proxy that answers at the address that the node joined at.
* No client is disconnected because another proxy is preferred.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IProtocol, IReactorTime, IStreamClientEndpoint

from tele.admission.limits import Limits
from tele.conch.client.transport import ClientIdentity, MemberVerifier
from tele.conch.connection.stream import open_stream
from tele.errors import Unreachable
from tele.model.api.members import Proxy
from tele.model.identity import HostIdentity
from tele.tunnel.agent import Agent, AgentConnection, AgentContext, Serve
from tele.tunnel.messages import AUTH, INSTANCE_SIZE
from tele.tunnel.proxy_choice import preferred, wanted
from tele.tunnel.relayed_channels import OPEN_SECONDS

#: The key of the proxy that answers at the address that the node joined at.
_ANY = ""


class Agents:
    """A node's tunnels.

    :param host_id: returns the node's id, which changes when it joins again.
    :param count: the number of tunnels, each to another proxy.
    :param proxies: returns the cluster's proxies that may be dialled.
    :param bootstrap: addresses that are used while no proxy is known.
    :param changed: called when :attr:`proxy_ids` has changed.
    :param limits: limits of the connections, keepalives among them.
    :param refuses: returns why a proxy is refused, such as a lock, or nothing.
    """

    def __init__(
        self,
        reactor: IReactorTime,
        host_id: Callable[[], str],
        *,
        count: int,
        proxies: Callable[[], tuple[Proxy, ...]],
        bootstrap: tuple[str, ...],
        identity: Callable[[], ClientIdentity],
        verifier: Callable[[], MemberVerifier],
        serve: Serve,
        endpoint: Callable[[str], IStreamClientEndpoint],
        changed: Callable[[], None],
        limits: Limits | None = None,
        refuses: Callable[[HostIdentity], str] = lambda _: "",
        entropy: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self._host_id = host_id
        self._count = count
        self._proxies = proxies
        self._bootstrap = bootstrap
        self._notify = changed
        self._agents: dict[str, Agent] = {}
        self._old: list[Agent] = []
        self._reported: tuple[str, ...] = ()
        self._running = False
        self._checking = False
        self._turn = 0
        self._context = AgentContext(
            reactor,
            host_id,
            entropy(INSTANCE_SIZE),
            identity,
            verifier,
            serve,
            endpoint,
            self._has_or_requests,
            refuses,
            self._changed,
            limits or Limits(),
        )

    def start(self) -> None:
        """Connect, and reconnect from now on."""
        self._running = True
        self.check()

    def stop(self) -> None:
        """Reconnect no more, and release all tunnels."""
        self._running = False
        agents = [*self._agents.values(), *self._old]
        self._agents, self._old = {}, []
        for agent in agents:
            agent.stop()

    @property
    def proxy_ids(self) -> tuple[str, ...]:
        """The proxies to which there is a tunnel that gets clients, sorted."""
        return tuple(sorted({c.proxy_id for c in self._connections() if not c.is_draining}))

    def _connections(self) -> list[AgentConnection]:
        agents = (*self._agents.values(), *self._old)
        return [agent.connection for agent in agents if agent.connection is not None]

    def _has_or_requests(self, proxy_id: str) -> bool:
        requesting = any(agent.requesting == proxy_id for agent in self._agents.values())
        return requesting or self._has_tunnel(proxy_id)

    def _has_tunnel(self, proxy_id: str) -> bool:
        current = (agent.connection for agent in self._agents.values())
        return any(c is not None and c.proxy_id == proxy_id for c in current)

    def _changed(self) -> None:
        self.check()
        ids = self.proxy_ids
        if ids != self._reported:
            self._reported = ids
            self._notify()

    def check(self) -> None:
        """Start and stop agents: the cluster's proxies have changed, or an agent failed."""
        if not self._running or self._checking:
            return
        self._checking = True  # stopping and starting agents calls this again
        try:
            self._check()
        finally:
            self._checking = False

    def _check(self) -> None:
        self._rename()
        self._drop_refused()
        known = {p.id: p for p in self._proxies() if p.addresses}
        failing = {i for i, agent in self._agents.items() if agent.failing}
        # While no proxy is known one tunnel is enough: auth sends the others through it.
        want = [i for i, agent in self._agents.items() if agent.works][:1] or [_ANY]
        if known:
            order = preferred(self._host_id(), known.values())
            want = [proxy.id for proxy in wanted(order, failing, self._count)]
        for proxy_id in want:
            if proxy_id not in self._agents:
                self._start(proxy_id)
        good = sum(agent.works for i, agent in self._agents.items() if i in want)
        enough = good >= max(1, min(self._count, len(set(want) - failing)))
        for proxy_id, agent in list(self._agents.items()):
            # A working tunnel is released only when enough others work.
            if proxy_id not in want and (enough or agent.connection is None):
                del self._agents[proxy_id]
                agent.stop()
        for old in [o for o in self._old if self._replaced(o)]:
            self._old.remove(old)
            old.stop()

    def _drop_refused(self) -> None:
        """Close connections to proxies that are locked or removed, and all clients' channels."""
        # Released ones, too: the proxy could still open channels on them.
        for connection in list(self._context.connections):
            if connection.has_ended:
                self._context.connections.discard(connection)
            elif connection.proxy is not None and self._context.refuses(connection.proxy):
                connection.transport.loseConnection()

    def _rename(self) -> None:
        """Key each agent by the proxy that it found: a load balancer may lead to any."""
        for proxy_id, agent in list(self._agents.items()):
            found = proxy_id if agent.connection is None else agent.connection.proxy_id
            if found != proxy_id and found not in self._agents:
                del self._agents[proxy_id]
                self._agents[found] = agent
                agent.addresses = partial(self._addresses, found)

    def _start(self, proxy_id: str) -> None:
        agent = Agent(self._context, partial(self._addresses, proxy_id))
        self._agents[proxy_id] = agent
        agent.start()

    def _replaced(self, old: Agent) -> bool:
        """Whether an agent with our new certificates has a tunnel to the same proxy, or ``old``
        has none itself.
        """
        connection = old.connection
        return connection is None or self._has_tunnel(connection.proxy_id)

    def _addresses(self, proxy_id: str) -> tuple[str, ...]:
        for proxy in self._proxies():
            if proxy.id == proxy_id:
                return proxy.addresses
        return self._bootstrap if proxy_id == _ANY else ()

    def renew(self) -> None:
        """Our certificates were renewed: open tunnels with them, then release the old ones."""
        if self._running:
            agents, self._agents = self._agents, {}
            self._old.extend(agents.values())
            self.check()

    # -- calls of our own -------------------------------------------------------------
    def open_auth(self, protocol: IProtocol) -> Deferred[IProtocol]:
        """Connect ``protocol`` to auth through any tunnel; fails with :class:`Unreachable`."""
        connections = self._connections()
        if not connections:
            raise Unreachable("there is no tunnel now")
        # Another tunnel each time: its proxy may not reach auth.
        self._turn += 1
        connection = connections[self._turn % len(connections)]
        opening = open_stream(connection, AUTH, b"", protocol)
        return opening.addTimeout(OPEN_SECONDS, self._context.reactor)
