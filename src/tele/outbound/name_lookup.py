"""How are names resolved that users or nodes choose, so that a slow one delays no other user?

A name server can be slow on purpose. Such names are resolved in threads of their own
(:mod:`tele.workers`), of which each user and each node has a share. Twisted's thread pool, ten
threads for everything, is never used for them.

Invariants:

* A literal address is not looked up.
* At most :data:`ADDRESSES_LIMIT` addresses of a name are tried, whatever its server answers.
* A name is looked up once: the addresses that were permitted are those that are connected to.
"""

from __future__ import annotations

import socket as sockets
from collections.abc import Callable, Collection, Sequence
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
    IReactorTime,
    IResolutionReceiver,
    IStreamClientEndpoint,
)
from zope.interface import implementer

from tele.capacity.descriptors import Lease
from tele.errors import quoted
from tele.model.addresses import ADDRESSES_LIMIT, alternate
from tele.outbound.hostname_endpoint import hostname_endpoint
from tele.sockets.direct import DirectReactor
from tele.workers import Workers

#: Threads for lookups, in all and for one key.
THREADS: Final = 64
THREADS_PER_KEY: Final = 4
#: Lookups of one key that wait for a thread.
WAITING_PER_KEY: Final = 1024
#: Time limit of a lookup, waiting included.
SECONDS: Final = 15.0

Address = IPv4Address | IPv6Address
#: Returns which of some addresses may be connected to; raises a TeleError if that is none.
Usable = Callable[[Sequence[str]], Collection[str]]
GetAddrInfo = Callable[..., Sequence[tuple[Any, ...]]]


def _literal(host: str, port: int) -> Address | None:
    """Return ``host`` as an address, or None if it is a name."""
    try:
        version = ip_address(host).version
    except ValueError:
        return None
    return IPv4Address("TCP", host, port) if version == 4 else IPv6Address("TCP", host, port)


class NameResolver:
    """Resolves names in ``Workers`` of its own. Close it when its owner stops."""

    def __init__(self, reactor: IReactorTime, get: GetAddrInfo | None = None) -> None:
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
        usable: Usable | None = None,
    ) -> IStreamClientEndpoint:
        """Return an endpoint on the account of ``key``; it times out after ``seconds``.

        ``take`` counts each address that is tried, see :class:`DirectReactor`. Only those that
        ``usable`` returns are.
        """
        return _Named(self, key, host, port, seconds, take, usable)

    async def resolve(self, key: str, host: str, port: int) -> list[Address]:
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
        """Cancel lookups and start no more."""
        self.workers.close()

    async def connect(self, named: _Named, factory: IProtocolFactory) -> IProtocol:
        """Connect ``named``."""
        addresses = await self.resolve(named.key, named.host, named.port)
        if named.usable is not None:
            usable = named.usable([each.host for each in addresses])
            addresses = [each for each in addresses if each.host in usable]
        reactor = DirectReactor(self._reactor, _Known(addresses), named.take)
        # The first address replaces the name, so that it is not resolved again.
        endpoint = hostname_endpoint(reactor, addresses[0].host, named.port, named.seconds)
        made: IProtocol = await endpoint.connect(factory)
        return made


@implementer(IStreamClientEndpoint)
@frozen(eq=False)
class _Named:
    names: NameResolver
    key: str
    host: str
    port: int
    seconds: float
    take: Callable[[], Lease] | None
    usable: Usable | None

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        """See ``IStreamClientEndpoint``."""
        return Deferred.fromCoroutine(self.names.connect(self, protocolFactory))


@implementer(IHostnameResolver, IHostResolution)
@frozen
class _Known:
    """A resolver of addresses that are already known."""

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
        """See ``IHostResolution``: it has already completed."""


def _address(found: tuple[Any, ...]) -> Address:
    host, port = found[0], found[1]
    return IPv6Address("TCP", host, port) if ":" in host else IPv4Address("TCP", host, port)
