"""How does a proxy connect clients and nodes to auth, and since when can it not?

Invariant: each change between reachable and unreachable is one line in the log, however many
connections fail.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Final

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectError, DNSLookupError
from twisted.internet.interfaces import (
    IProtocol,
    IProtocolFactory,
    IReactorTime,
    IStreamClientEndpoint,
)
from zope.interface import implementer

from tele.errors import Unreachable
from tele.log import make_logger
from tele.loop import now
from tele.model.addresses import Address
from tele.outbound.dialer import Dialer

DIAL_SECONDS: Final = 10.0
#: A failure older than this is ignored if the proxy itself reaches auth.
FAILURE_SECONDS: Final = 15.0

log = make_logger(__name__)


class AuthEndpoints:
    """The addresses of auth, in turns. One that does not answer is followed by the next."""

    def __init__(self, dialer: Dialer, addresses: Sequence[str]) -> None:
        self._dialer = dialer
        self._addresses = addresses
        self._turn = 0

    def next(self) -> IStreamClientEndpoint:
        """Return the endpoint of the next address."""
        self._turn += 1
        first = self._turn % len(self._addresses)
        ordered = (*self._addresses[first:], *self._addresses[:first])
        return _InOrder([self._endpoint(address) for address in ordered])

    def _endpoint(self, address: str) -> IStreamClientEndpoint:
        host, port = Address.parse(address)
        return self._dialer.endpoint(host, port, DIAL_SECONDS)


@implementer(IStreamClientEndpoint)
class _InOrder:
    """The first of ``endpoints`` that answers; fails as the last one does."""

    def __init__(self, endpoints: Sequence[IStreamClientEndpoint]) -> None:
        self._endpoints = endpoints

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        """See :class:`IStreamClientEndpoint`."""
        return Deferred.fromCoroutine(self._connect(protocolFactory))

    async def _connect(self, factory: IProtocolFactory) -> IProtocol:
        for endpoint in self._endpoints[:-1]:
            try:
                return await endpoint.connect(factory)
            except (ConnectError, DNSLookupError, Unreachable) as error:
                log.debug("an auth does not answer", error=str(error))
        return await self._endpoints[-1].connect(factory)


class AuthReach:
    """Whether auth can be reached. ``away_since()`` is what the proxy's own connections show."""

    def __init__(self, clock: IReactorTime, away_since: Callable[[], datetime | None]) -> None:
        self._clock = clock
        self._away_since = away_since
        self._failed: datetime | None = None
        self._last = 0.0

    def attempted(self, error: str) -> None:
        """A client's connection to auth succeeded, or failed with ``error``."""
        if not error:
            if self._failed is not None:
                log.info("auth is reachable again")
            self._failed = None
            return
        self._last = self._clock.seconds()
        if self._failed is None:
            self._failed = now(self._clock)
            log.warn("auth is unreachable", error=error)

    def unreachable_since(self) -> datetime | None:
        """Return since when auth is unreachable, or None."""
        known = self._away_since()
        if known is not None:
            return known if self._failed is None else min(known, self._failed)
        is_recent = self._clock.seconds() - self._last < FAILURE_SECONDS
        return self._failed if is_recent else None
