"""From which addresses do the cluster's proxies come?

All visitors through a proxy have its address: nobody is shut out there for another, and it
has no share of the places of strangers. Behind it are people who logged in to the proxy.

Laws of this file:

* Only auth says who is a proxy; what it said last holds while it is away.
* Names are looked up off the way of any visitor.
"""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address
from typing import Any, Final

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import LoopingCall
from twisted.python.failure import Failure

from tele.errors import TeleError
from tele.https.blocking import split_address
from tele.interfaces import IAuthority
from tele.loop import make_logger
from tele.model.api.operation import Nothing
from tele.model.api.table import CLUSTER

LOOK_SECONDS: Final = 60.0
PROXIES_LIMIT: Final = 256

log = make_logger(__name__)


class ProxyAddresses:
    """The set of them, kept up to date between :meth:`start` and :meth:`stop`."""

    def __init__(self, reactor: Any, authority: Callable[[], IAuthority]) -> None:
        self._reactor = reactor
        self._authority = authority
        self._known: frozenset[str] = frozenset()
        self._resolved: dict[str, str] = {}
        self._loop = LoopingCall(self._look_again)
        self._loop.clock = reactor
        self._looking: Deferred[None] | None = None

    def __contains__(self, host: str) -> bool:
        return host in self._known

    def start(self) -> None:
        """Begin to ask auth."""
        self._loop.start(LOOK_SECONDS)

    def stop(self) -> None:
        """Ask no more."""
        if self._loop.running:
            self._loop.stop()
        if self._looking is not None:
            self._looking.cancel()

    def _look_again(self) -> Deferred[None]:
        self._looking = looking = Deferred.fromCoroutine(self._look())
        looking.addErrback(self._failed)
        return looking

    def _failed(self, failure: Failure) -> None:
        if not failure.check(CancelledError):
            log.failure("the addresses of proxies cannot be asked for", failure)

    async def _look(self) -> None:
        try:
            info = await self._authority().perform(CLUSTER, Nothing())
        except TeleError as error:
            log.debug("the addresses of proxies are not known anew: {why!r}", why=str(error))
            return
        hosts = {split_address(address)[0] for address in info.proxies[:PROXIES_LIMIT]}
        self._resolved = {name: at for name, at in self._resolved.items() if name in hosts}
        self._known = frozenset([address for host in hosts for address in await self._find(host)])

    async def _find(self, host: str) -> list[str]:
        try:
            return [str(ip_address(host))]
        except ValueError:
            pass
        try:
            self._resolved[host] = await self._reactor.resolve(host)
        except Exception as error:
            log.debug("proxy {host!r} has no address: {why!r}", host=host, why=str(error))
        return [self._resolved[host]] if host in self._resolved else []
