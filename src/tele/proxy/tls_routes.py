"""How does a TLS connection for auth pass the proxy's port?

Invariants:

* TLS for auth is relayed unchanged; the proxy only sends the signed client address before it.
* A relay has a deadline until auth has answered, which received bytes do not move. After that it
  ends when it is idle for longer than a connection of the API may be.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IProtocol, IReactorTime, IStreamClientEndpoint
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure

from tele.proxy.admission import Slot
from tele.proxy.tls_records import Handshake

#: From the connection until auth has answered the end of the client's handshake.
HANDSHAKE_SECONDS: Final = 20.0
#: How long a relay may be idle. Longer than any call of the API takes, than auth waits for the next
#: one, and than the pause between two keepalives of a stream.
RELAY_IDLE_SECONDS: Final = 360.0


class _Upstream(Protocol):
    """Auth's side of a relay."""

    def __init__(self, relay: Relay) -> None:
        self._relay = relay

    def connectionMade(self) -> None:
        self._relay.upstream_connected(self.transport)

    def dataReceived(self, data: bytes) -> None:
        self._relay.upstream_sent(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._relay.upstream_lost()


class Relay(Protocol):
    """The client's side: all data go to ``endpoint``, after ``preface``.

    Each side is the other's producer: neither is read while the other does not read.
    """

    transport: Any

    def __init__(
        self,
        endpoint: IStreamClientEndpoint,
        slot: Slot,
        clock: IReactorTime,
        preface: bytes = b"",
        attempted: Callable[[str], None] = lambda _: None,
    ) -> None:
        """``attempted(error)`` is called after each attempt to connect to auth."""
        self._attempted = attempted
        self._endpoint = endpoint
        self._slot = slot
        self._clock = clock
        self._early: list[bytes] = [preface] if preface else []
        self._upstream: Any = None
        self._connecting: Deferred[IProtocol] | None = None
        self._lost = False
        self._handshake = Handshake()
        self._active_at = 0.0

    def connectionMade(self) -> None:
        """Connect to auth; the client is not read until that is done."""
        self._slot.set_deadline(HANDSHAKE_SECONDS)
        factory = Factory.forProtocol(lambda: _Upstream(self))
        factory.noisy = False
        self._connecting = self._endpoint.connect(factory)
        self._connecting.addErrback(self._failed)

    def dataReceived(self, data: bytes) -> None:
        """Relay data to auth."""
        if self._handshake.answered:
            self._active_at = self._clock.seconds()
        else:
            self._handshake.client_sent(data)
        if self._upstream is None:
            self._early.append(data)
            self.transport.pauseProducing()
        else:
            self._upstream.write(data)

    def upstream_connected(self, upstream: Any) -> None:
        """Auth accepted the connection."""
        self._connecting = None
        if self._lost:
            upstream.abortConnection()
            return
        self._upstream = upstream
        self._attempted("")
        upstream.registerProducer(self.transport, True)
        self.transport.registerProducer(upstream, True)
        early, self._early = self._early, []
        for data in early:
            upstream.write(data)
        self.transport.resumeProducing()

    def upstream_sent(self, data: bytes) -> None:
        """Relay data to the client."""
        if self._handshake.answered:
            self._active_at = self._clock.seconds()
        elif self._handshake.server_sent(data):
            self._slot.answered()
            self._active_at = self._clock.seconds()
            self._slot.set_deadline(RELAY_IDLE_SECONDS, self._check_idle)
        self.transport.write(data)

    def _check_idle(self) -> None:
        """Close the connection if it is idle; check again when it would be."""
        left = self._active_at + RELAY_IDLE_SECONDS - self._clock.seconds()
        if left > 0:
            self._slot.set_deadline(left, self._check_idle)
        else:
            self._slot.end()

    def _failed(self, failure: Failure) -> None:
        self._connecting = None
        if not self._lost:
            self._attempted(str(failure.value) or type(failure.value).__name__)
            self._slot.end()

    def upstream_lost(self) -> None:
        """Auth closed the connection: the client has a deadline to read what is left."""
        self._upstream = None
        if not self._lost:
            self._slot.set_deadline(HANDSHAKE_SECONDS)
            self.transport.unregisterProducer()
            self.transport.loseConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The client disconnected."""
        self._lost = True
        self._slot.release()
        connecting, self._connecting = self._connecting, None
        if connecting is not None:
            connecting.cancel()
        upstream, self._upstream = self._upstream, None
        if upstream is not None:
            upstream.unregisterProducer()
            upstream.loseConnection()
