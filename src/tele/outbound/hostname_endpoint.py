"""How does a service connect to a name that has several addresses?

With Twisted's :class:`HostnameEndpoint`, which starts an attempt for each address without waiting
for the one before to fail. Here addresses alternate between IPv6 and IPv4 (RFC 8305, section 4):
an unreachable family delays the connection by a quarter of a second.

Invariant: at most :data:`ADDRESSES_LIMIT` addresses are tried.
"""

from __future__ import annotations

from typing import Any

from attrs import define, field
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.interfaces import (
    IAddress,
    IHostnameResolver,
    IHostResolution,
    IReactorPluggableNameResolver,
    IReactorTime,
    IResolutionReceiver,
    IStreamClientEndpoint,
)
from zope.interface import alsoProvides, directlyProvides, implementer, providedBy

from tele.model.addresses import ADDRESSES_LIMIT, ATTEMPT_DELAY, alternate


def hostname_endpoint(
    reactor: IReactorTime, host: str, port: int, seconds: float
) -> IStreamClientEndpoint:
    """Return an endpoint; each address has ``seconds``."""
    resolves = IReactorPluggableNameResolver.providedBy(reactor)
    made: IStreamClientEndpoint = HostnameEndpoint(
        _Alternating(reactor) if resolves else reactor,
        host,
        port,
        timeout=seconds,
        attemptDelay=ATTEMPT_DELAY,
    )
    return made


class _Alternating:
    """A reactor whose resolver alternates between address families; all else is the reactor's."""

    def __init__(self, reactor: IReactorTime) -> None:
        self._reactor = reactor
        directlyProvides(self, providedBy(reactor))
        alsoProvides(self, IReactorPluggableNameResolver)
        self.nameResolver = _Resolver(IReactorPluggableNameResolver(reactor).nameResolver)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reactor, name)


@implementer(IHostnameResolver)
@define(eq=False)
class _Resolver:
    _below: IHostnameResolver

    def resolveHostName(
        self, resolutionReceiver: IResolutionReceiver, *args: Any, **named: Any
    ) -> IHostResolution:
        """See ``IHostnameResolver``."""
        return self._below.resolveHostName(_Receiver(resolutionReceiver), *args, **named)


@implementer(IResolutionReceiver)
@define(eq=False)
class _Receiver:
    """Reorders the addresses when all are known, and passes them on."""

    _receiver: IResolutionReceiver
    _found: list[IAddress] = field(factory=list, init=False)

    def resolutionBegan(self, resolutionInProgress: IHostResolution) -> None:
        """See ``IResolutionReceiver``."""
        self._receiver.resolutionBegan(resolutionInProgress)

    def addressResolved(self, address: IAddress) -> None:
        """See ``IResolutionReceiver``."""
        self._found.append(address)

    def resolutionComplete(self) -> None:
        """See ``IResolutionReceiver``."""
        for address in alternate(self._found, type)[:ADDRESSES_LIMIT]:
            self._receiver.addressResolved(address)
        self._receiver.resolutionComplete()
