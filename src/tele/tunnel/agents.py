"""To which proxies does a node keep tunnels?

Invariants:

* As many as asked for, to the proxies that this node prefers among those that the cluster
  has; one that cannot be reached, or is going away, is replaced at once and dialled on.
* With none known, whoever answers at the address that we joined at.
* Nobody who visits is cut off because another proxy is liked better.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IProtocol, IStreamClientEndpoint

from tele.admission.limits import Limits
from tele.conch.client.transport import ClientIdentity, MemberVerifier
from tele.conch.connection.stream import open_stream
from tele.errors import Unreachable
from tele.model.api.members import Proxy
from tele.model.identity import HostIdentity
from tele.tunnel.agent import Agent, AgentConnection, Means, Serve
from tele.tunnel.messages import AUTH, INSTANCE_SIZE
from tele.tunnel.proxy_choice import preferred, wanted
from tele.tunnel.relayed_channels import OPEN_SECONDS

#: Stands for whichever proxy answers where we joined.
_ANY = ""


class Agents:
    """A node's tunnels.

    :param host_id: the node's id, which is another one when it joins anew.
    :param count: to how many proxies to keep one.
    :param proxies: the cluster's proxies that may be dialled, as they are known now.
    :param bootstrap: addresses for when none is known.
    :param changed: hears that :attr:`proxy_ids` changed.
    :param limits: bounds of the connections, how long a silent proxy lives among them.
    :param refuses: says of a proxy why it is not dealt with, such as a lock, or nothing.
    """

    def __init__(
        self,
        reactor: Any,
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
        self._tell = changed
        self._agents: dict[str, Agent] = {}
        self._old: list[Agent] = []
        self._told: tuple[str, ...] = ()
        self._running = False
        self._looking = False
        self._turn = 0
        self._means = Means(
            reactor,
            host_id,
            entropy(INSTANCE_SIZE),
            identity,
            verifier,
            serve,
            endpoint,
            self._taken,
            refuses,
            self._changed,
            limits or Limits(),
        )

    def start(self) -> None:
        """Begin to dial."""
        self._running = True
        self.look()

    def stop(self) -> None:
        """Dial no more; tunnels end when their visitors have left."""
        self._running = False
        agents = [*self._agents.values(), *self._old]
        self._agents, self._old = {}, []
        for agent in agents:
            agent.stop()

    @property
    def proxy_ids(self) -> tuple[str, ...]:
        """The proxies through which visitors may come now, sorted."""
        return tuple(sorted({c.proxy_id for c in self._connections() if not c.leaving}))

    def _connections(self) -> list[AgentConnection]:
        agents = (*self._agents.values(), *self._old)
        return [agent.connection for agent in agents if agent.connection is not None]

    def _taken(self, proxy_id: str) -> bool:
        asking = any(agent.asking == proxy_id for agent in self._agents.values())
        return asking or self._has_tunnel(proxy_id)

    def _has_tunnel(self, proxy_id: str) -> bool:
        current = (agent.connection for agent in self._agents.values())
        return any(c is not None and c.proxy_id == proxy_id for c in current)

    def _changed(self) -> None:
        self.look()
        ids = self.proxy_ids
        if ids != self._told:
            self._told = ids
            self._tell()

    def look(self) -> None:
        """Compare what there is with what should be: proxies came or went, or an agent failed."""
        if not self._running or self._looking:
            return
        self._looking = True  # stopping and starting agents comes back here
        try:
            self._look()
        finally:
            self._looking = False

    def _look(self) -> None:
        self._name()
        self._drop_refused()
        known = {p.id: p for p in self._proxies() if p.addresses}
        failing = {i for i, agent in self._agents.items() if agent.failing}
        # While no proxy is known one tunnel will do: it tells of the others.
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
            # A tunnel that works is given up only when there are others that do.
            if proxy_id not in want and (enough or agent.connection is None):
                del self._agents[proxy_id]
                agent.stop()
        for old in [o for o in self._old if self._replaced(o)]:
            self._old.remove(old)
            old.stop()

    def _drop_refused(self) -> None:
        """Leave proxies that are locked or removed at once, with all who came through them."""
        # Also those that stay for their last visitors: the proxy at their end may bring others.
        for connection in list(self._means.connections):
            if connection.ended:
                self._means.connections.discard(connection)
            elif connection.proxy is not None and self._means.refuses(connection.proxy):
                connection.transport.loseConnection()

    def _name(self) -> None:
        """File each agent under the proxy that it found: a balancer may lead to any."""
        for proxy_id, agent in list(self._agents.items()):
            found = proxy_id if agent.connection is None else agent.connection.proxy_id
            if found != proxy_id and found not in self._agents:
                del self._agents[proxy_id]
                self._agents[found] = agent
                agent.addresses = partial(self._addresses, found)

    def _start(self, proxy_id: str) -> None:
        agent = Agent(self._means, partial(self._addresses, proxy_id))
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
        """Our certificates are new: dial anew with them, and let go of the old tunnels then."""
        if self._running:
            agents, self._agents = self._agents, {}
            self._old.extend(agents.values())
            self.look()

    # -- calls of our own -------------------------------------------------------------
    def open_auth(self, protocol: IProtocol) -> Deferred[IProtocol]:
        """Connect ``protocol`` to auth through any tunnel; fails with :class:`Unreachable`."""
        connections = self._connections()
        if not connections:
            raise Unreachable("there is no tunnel now")
        # Another one each time: a proxy may have lost its way to auth.
        self._turn += 1
        connection = connections[self._turn % len(connections)]
        opening = open_stream(connection, AUTH, b"", protocol)
        return opening.addTimeout(OPEN_SECONDS, self._means.reactor)
