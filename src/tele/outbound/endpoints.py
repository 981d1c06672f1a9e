"""How does a service connect to a name that has several addresses?

Twisted's :class:`HostnameEndpoint` tries them one after the other without waiting for the one
before. Here they alternate between the families (RFC 8305, section 4), so that one family that is
a black hole costs a quarter of a second, and no more are tried than there is any use in.
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
    IResolutionReceiver,
    IStreamClientEndpoint,
)
from zope.interface import alsoProvides, directlyProvides, implementer, providedBy

from tele.model.addresses import ADDRESSES_LIMIT, ATTEMPT_DELAY, alternate


def endpoint_of(reactor: Any, host: str, port: int, seconds: float) -> IStreamClientEndpoint:
    """Return an endpoint; each address has ``seconds``."""
    if IReactorPluggableNameResolver.providedBy(reactor):
        reactor = _Alternating(reactor)
    made: IStreamClientEndpoint = HostnameEndpoint(
        reactor, host, port, timeout=seconds, attemptDelay=ATTEMPT_DELAY
    )
    return made


class _Alternating:
    """A reactor whose resolver alternates between the families; all else is as it was."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        directlyProvides(self, providedBy(reactor))
        alsoProvides(self, IReactorPluggableNameResolver)
        self.nameResolver = _Resolver(reactor.nameResolver)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reactor, name)


@implementer(IHostnameResolver)
@define(eq=False)
class _Resolver:
    _below: IHostnameResolver

    def resolveHostName(
        self, resolutionReceiver: IResolutionReceiver, *words: Any, **named: Any
    ) -> IHostResolution:
        """See ``IHostnameResolver``."""
        return self._below.resolveHostName(_Receiver(resolutionReceiver), *words, **named)


@implementer(IResolutionReceiver)
@define(eq=False)
class _Receiver:
    """Passes the addresses on when all are known."""

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
