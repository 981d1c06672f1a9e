"""Which connection to auth does a call use?

Invariants:

* An idle connection is used only with the identity that it was made with.
* The client closes an idle connection, before the server does, so that a request is
  seldom sent into a connection that is being closed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from attrs import frozen
from twisted.internet.defer import CancelledError
from twisted.internet.error import ConnectError, ConnectingCancelledError, DNSLookupError
from twisted.internet.interfaces import IAddress, IDelayedCall, IReactorTime, IStreamClientEndpoint
from twisted.internet.protocol import Factory
from twisted.protocols.tls import TLSMemoryBIOFactory

from tele.errors import Unreachable
from tele.https.call_rules import CONNECT_TIMEOUT, NotSent
from tele.https.connection import ApiConnection
from tele.https.identity import TlsIdentity
from tele.https.trust import ClientTls
from tele.model.addresses import Address
from tele.outbound.hostname_endpoint import hostname_endpoint
from tele.sockets.tcp import notice_dead_peer_below

#: Less than the server's 75 seconds.
IDLE_TIMEOUT: Final = 45.0
IDLE_CONNECTIONS: Final = 4

Endpoint = Callable[[str, int], IStreamClientEndpoint]


class _Single(Factory):
    noisy = False

    def __init__(self, connection: ApiConnection) -> None:
        self._connection = connection

    def buildProtocol(self, addr: IAddress | None) -> ApiConnection:
        return self._connection


@frozen(eq=False)
class _Idle:
    """A connection that is open and idle; ``end`` closes it."""

    connection: ApiConnection
    address: str
    identity: TlsIdentity | None
    end: IDelayedCall


class Pool:
    """Opens TLS connections to auth over ``endpoint(host, port)``, and keeps a few open."""

    def __init__(
        self,
        reactor: IReactorTime,
        server_name: str,
        identity: Callable[[], TlsIdentity | None],
        trust: Callable[[], Sequence[str]] | None,
        endpoint: Endpoint | None = None,
    ) -> None:
        self._reactor = reactor
        self._identity = identity
        self._tls = ClientTls(server_name, identity, trust, reactor)
        self._endpoint = endpoint or self._tcp
        self._idle: list[_Idle] = []
        #: The identity that each open connection has shown.
        self._open: dict[ApiConnection, TlsIdentity | None] = {}

    def _tcp(self, host: str, port: int) -> IStreamClientEndpoint:
        return hostname_endpoint(self._reactor, host, port, CONNECT_TIMEOUT)

    async def connect(self, address: str) -> ApiConnection:
        """Open a new connection; fails with :class:`NotSent`."""
        host, port = Address.parse(address)
        identity = self._identity()
        connection = ApiConnection(address, self._closed)
        plain = _Single(connection)
        # Not wrapClientTLS: its buffers wake up on the global reactor.
        factory: Any = TLSMemoryBIOFactory(self._tls, True, plain, clock=self._reactor)
        factory.noisy = False
        try:
            await self._endpoint(host, port).connect(factory)
        except NotSent:
            raise
        except ConnectingCancelledError:
            raise CancelledError from None  # by us: the address may be good
        except (ConnectError, DNSLookupError, OSError, Unreachable) as error:
            raise NotSent(f"{address} did not answer: {error}") from None
        if not connection.lost:
            notice_dead_peer_below(connection.transport)
            self._open[connection] = identity
        return connection

    def take(self, address: str) -> ApiConnection | None:
        """Return an idle connection to ``address``, or None."""
        identity = self._identity()
        for idle in reversed(self._idle):
            if idle.address == address and idle.connection.usable:
                if idle.identity != identity:
                    idle.connection.close()
                    continue
                self._forget(idle)
                return idle.connection
        return None

    def keep(self, connection: ApiConnection, address: str) -> None:
        """Keep a connection whose request is complete, or close it."""
        if not connection.usable or len(self._idle) >= IDLE_CONNECTIONS:
            connection.close()
            return
        end = self._reactor.callLater(IDLE_TIMEOUT, connection.close)
        self._idle.append(_Idle(connection, address, self._open.get(connection), end))

    def close(self) -> None:
        """Close all connections at once."""
        for connection in list(self._open):
            connection.abort()

    def _closed(self, connection: ApiConnection) -> None:
        self._open.pop(connection, None)
        for idle in [k for k in self._idle if k.connection is connection]:
            self._forget(idle)

    def _forget(self, idle: _Idle) -> None:
        self._idle.remove(idle)
        if idle.end.active():
            idle.end.cancel()
