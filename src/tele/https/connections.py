"""How many connections may the API have, and which one ends when there are too many?

Invariants:

* Over the limit of all connections new ones are dropped before any work is done for them.
* Unauthenticated connections have a smaller limit of their own. Over it the oldest ends, of the
  network with the most of them: so they keep neither members out nor, by idling or by their
  number, each other.
* A network has a rate of TLS handshakes that show no member's certificate.
"""

from __future__ import annotations

from collections.abc import Callable, Set
from datetime import timedelta
from typing import Any, Final

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IAddress, IReactorTime
from twisted.internet.protocol import ServerFactory
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.web.http import Request

from tele.admission.rate_limiter import RateLimiter
from tele.admission.shares import Shares
from tele.https.channel import ApiChannel, ApiRequest, address_text
from tele.https.limits import Limits
from tele.log import make_logger

_log: Final = make_logger(__name__)

UNBOUNDED: Final = 1 << 62
#: Networks of members that are kept.
MEMBER_SOURCES_LIMIT: Final = 65536


class TlsFactory(TLSMemoryBIOFactory):
    """Wraps :class:`ApiFactory` in TLS; drops connections over the limit before any work."""

    noisy = False
    wrappedFactory: ApiFactory

    def buildProtocol(self, addr: IAddress | None) -> Any:
        """Return the protocol of a new connection, or None to drop it."""
        if self.wrappedFactory.full:
            _log.warn("connection dropped, too many", peer=address_text(addr))
            return None
        return super().buildProtocol(addr)


class ApiFactory(ServerFactory):
    """Makes connections and counts them.

    ``on_head(request, method, target, length)`` returns how long the body may take, or
    None when the request is refused (the response is then in ``request.decision``);
    ``length`` is None for a chunked body. ``on_request(request)`` answers.

    Between the two, if a body is announced, ``on_body(request)`` decides whether it may be sent;
    the Deferred never fails.
    """

    noisy = False

    def __init__(
        self,
        clock: IReactorTime,
        limits: Limits,
        on_head: Callable[[ApiRequest, bytes, bytes, int | None], timedelta | None],
        on_request: Callable[[ApiRequest], None],
        on_body: Callable[[ApiRequest], Deferred[bool]] = lambda _: succeed(True),
    ) -> None:
        self.clock = clock
        self.limits = limits
        self.on_head = on_head
        self.on_body = on_body
        self.on_request = on_request
        self._all: set[ApiChannel] = set()
        self._when_empty: Deferred[None] | None = None
        self._unauthenticated: dict[str, dict[ApiChannel, None]] = {}
        self._unauthenticated_count = 0
        self._members = Shares(limits.connections_per_caller, limits.connections)
        self._handshakes, self._member_handshakes = (
            RateLimiter(factor * limits.handshakes_burst, factor * limits.handshakes_per_second)
            for factor in (1, limits.member_source_factor)
        )
        #: Networks from which members connected, the last ones at the end.
        self._member_sources: dict[str, None] = {}
        #: Bytes of responses that were not read yet, by caller.
        self.unread = Shares(UNBOUNDED, UNBOUNDED)

    @property
    def full(self) -> bool:
        """Whether no more connections are accepted."""
        return len(self._all) >= self.limits.connections

    @property
    def open_channels(self) -> Set[ApiChannel]:
        """The connections that are open now."""
        return self._all.copy()

    def buildProtocol(self, addr: IAddress | None) -> ApiChannel:
        """Return the protocol of a new connection."""
        channel = ApiChannel(self)
        channel.factory = self
        return channel

    def opened(self, channel: ApiChannel) -> None:
        """Count a new connection, which is unauthenticated."""
        self._all.add(channel)
        self._unauthenticated.setdefault(channel.source, {})[channel] = None
        self._unauthenticated_count += 1
        if self._unauthenticated_count > self.limits.unauthenticated:
            most = max(self._unauthenticated.values(), key=len)
            oldest = next(iter(most))
            self.authenticated(oldest)
            oldest.transport.abortConnection()

    def authenticated(self, channel: ApiChannel) -> bool:
        """Count it no longer as unauthenticated. Returns whether it was."""
        of_source = self._unauthenticated.get(channel.source, {})
        if channel not in of_source:
            return False
        del of_source[channel]
        self._unauthenticated_count -= 1
        if not of_source:
            del self._unauthenticated[channel.source]
        return True

    def may_shake_hands(self, source: str) -> bool:
        """Whether one more TLS handshake may begin with a client from ``source``."""
        rates = self._member_handshakes if source in self._member_sources else self._handshakes
        return rates.take(source, self.clock.seconds())

    def member_connected(self, source: str) -> None:
        """A handshake with a client from ``source`` was a member's: it does not count."""
        rates = self._member_handshakes if source in self._member_sources else self._handshakes
        rates.give_back(source)
        self._member_sources.pop(source, None)
        while len(self._member_sources) >= MEMBER_SOURCES_LIMIT:
            del self._member_sources[next(iter(self._member_sources))]
        self._member_sources[source] = None

    def belongs(self, channel: ApiChannel, caller: str) -> bool:
        """Count it as a connection of ``caller``. False: the caller has too many already."""
        if not channel.caller_key and self._members.take(caller):
            channel.caller_key = caller
        return bool(channel.caller_key)

    def closed(self, channel: ApiChannel) -> None:
        """Forget a connection that ended."""
        self._all.discard(channel)
        self.authenticated(channel)
        if channel.caller_key:
            self._members.give_back(channel.caller_key)
            channel.caller_key = ""
        if self._when_empty is not None and not self._all:
            empty, self._when_empty = self._when_empty, None
            empty.callback(None)

    def close_all(self) -> None:
        """End all connections at once."""
        for channel in list(self._all):
            channel.transport.abortConnection()

    async def wind_down(self, time: timedelta) -> None:
        """End all connections, those that wait for a response when they have it.

        What is not done within ``time`` is cut off, and so are streams.
        """
        for channel in list(self._all):
            if channel.answering:
                channel.persistent = False
            else:
                channel.transport.abortConnection()
        if self._all:
            self._when_empty = Deferred()
            end = self.clock.callLater(time.total_seconds(), self.close_all)
            await self._when_empty
            if end.active():
                end.cancel()

    def log(self, request: Request) -> None:
        """Write no access log: the audit is ours."""
