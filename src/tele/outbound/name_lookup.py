"""How is a name looked up that somebody else may choose, so that nobody else waits for it?

A name server can be slow on purpose. Names that users, or nodes, choose are looked up in threads
of their own (:mod:`tele.workers`), with a share for each of them; Twisted's thread pool, which is
ten threads for everything, is never used for them.

Invariants:

* An address is not looked up at all.
* So many addresses of a name are tried, and no more, whatever its server answers.
"""

from __future__ import annotations

import socket as sockets
from collections.abc import Callable, Sequence
from ipaddress import ip_address
from typing import Any, Final

from attrs import frozen
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred
from twisted.internet.error import DNSLookupError
from twisted.internet.interfaces import (
    IHostnameResolver,
    IHostResolution,
    IProtocol,
    IProtocolFactory,
    IResolutionReceiver,
    IStreamClientEndpoint,
)
from zope.interface import implementer

from tele.capacity.descriptors import Lease
from tele.errors import quoted
from tele.model.addresses import ADDRESSES_LIMIT, alternate
from tele.outbound.endpoints import endpoint_of
from tele.sockets.direct import DirectReactor
from tele.workers import Workers

#: Threads for names, and of one key at once.
THREADS: Final = 64
THREADS_PER_KEY: Final = 4
#: Names of one key that wait for a thread.
WAITING_PER_KEY: Final = 1024
#: How long a name may take, its waiting included.
SECONDS: Final = 15.0

Address = IPv4Address | IPv6Address
GetAddrInfo = Callable[..., Sequence[tuple[Any, ...]]]


def _literal(host: str, port: int) -> Address | None:
    """Return the address that ``host`` is, or None: it is a name."""
    try:
        version = ip_address(host).version
    except ValueError:
        return None
    return IPv4Address("TCP", host, port) if version == 4 else IPv6Address("TCP", host, port)


class Names:
    """Looks names up in ``Workers`` of its own. Close it when its owner stops."""

    def __init__(self, reactor: Any, get: GetAddrInfo | None = None) -> None:
        self._reactor = reactor
        self._get = get or sockets.getaddrinfo
        self.workers = Workers(
            reactor,
            "the name server",
            threads=THREADS,
            share=THREADS_PER_KEY,
            waiting=WAITING_PER_KEY,
            seconds=SECONDS,
        )

    def endpoint(
        self,
        key: str,
        host: str,
        port: int,
        seconds: float,
        take: Callable[[], Lease] | None = None,
    ) -> IStreamClientEndpoint:
        """Return an endpoint for ``key``, with sockets of ours; it connects for ``seconds``.

        ``take`` counts each address that is tried, see :class:`DirectReactor`.
        """
        return _Named(self, key, host, port, seconds, take)

    async def look_up(self, key: str, host: str, port: int) -> list[Address]:
        """Return addresses of ``host``. Raises ``DNSLookupError``, or ``Unavailable``."""
        literal = _literal(host, port)
        if literal is not None:
            return [literal]
        try:
            found = await self.workers.call(
                key, self._get, host, port, sockets.AF_UNSPEC, sockets.SOCK_STREAM
            )
        except (OSError, UnicodeError):
            found = []
        alternating = alternate(found, lambda info: info[0])[:ADDRESSES_LIMIT]
        addresses = [_address(each[4]) for each in alternating]
        if not addresses:
            raise DNSLookupError(f"{quoted(host)} has no address")
        return addresses

    def close(self) -> None:
        """Look nothing up any more."""
        self.workers.close()

    async def connect(self, named: _Named, factory: IProtocolFactory) -> IProtocol:
        """Do what ``named`` is for."""
        addresses = await self.look_up(named.key, named.host, named.port)
        reactor = DirectReactor(self._reactor, _Known(addresses), named.take)
        # The name is not asked for again; an address in its place is always a good one.
        endpoint = endpoint_of(reactor, addresses[0].host, named.port, named.seconds)
        made: IProtocol = await endpoint.connect(factory)
        return made


@implementer(IStreamClientEndpoint)
@frozen(eq=False)
class _Named:
    names: Names
    key: str
    host: str
    port: int
    seconds: float
    take: Callable[[], Lease] | None

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        """See ``IStreamClientEndpoint``."""
        return Deferred.fromCoroutine(self.names.connect(self, protocolFactory))


@implementer(IHostnameResolver, IHostResolution)
@frozen
class _Known:
    """Knows the addresses already."""

    addresses: Sequence[Address]
    name: str = ""

    def resolveHostName(
        self,
        resolutionReceiver: IResolutionReceiver,
        hostName: str,
        portNumber: int = 0,
        addressTypes: Any = None,
        transportSemantics: str = "TCP",
    ) -> IHostResolution:
        """See ``IHostnameResolver``."""
        resolutionReceiver.resolutionBegan(self)
        for address in self.addresses:
            resolutionReceiver.addressResolved(address)
        resolutionReceiver.resolutionComplete()
        return self

    def cancel(self) -> None:
        """See ``IHostResolution``: it is over at once."""


def _address(found: tuple[Any, ...]) -> Address:
    host, port = found[0], found[1]
    return IPv6Address("TCP", host, port) if ":" in host else IPv4Address("TCP", host, port)
