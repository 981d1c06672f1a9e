"""From which addresses do the cluster's proxies come?

All visitors through a proxy have its address until it has said who they are: nobody is shut
out there for another, and it has no share of the places of strangers. Behind it are people
who logged in to the proxy.

Law of this file: names are looked up off the way of any visitor; what was found last holds
until it is found anew.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_address
from typing import Any

from twisted.python.failure import Failure

from tele.https.blocking import split_address
from tele.loop import make_logger

log = make_logger(__name__)


class ProxyAddresses:
    """The set of them. ``reactor`` looks names up (``IReactorCore.resolve``)."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._of: dict[str, str] = {}
        self._known: frozenset[str] = frozenset()

    def __contains__(self, host: str) -> bool:
        return host in self._known

    def update(self, addresses: Iterable[str]) -> None:
        """These are the proxies now (``host:port``)."""
        hosts = {split_address(address)[0] for address in addresses}
        self._of = {host: self._of.get(host, "") for host in hosts}
        for host in hosts:
            try:
                self._of[host] = str(ip_address(host))
            except ValueError:
                looking = self._reactor.resolve(host)
                looking.addCallbacks(
                    self._found, _not_found, callbackArgs=(host,), errbackArgs=(host,)
                )
        self._known = frozenset(self._of.values()) - {""}

    def _found(self, address: str, host: str) -> None:
        if host in self._of:
            self._of[host] = address
            self._known = frozenset(self._of.values()) - {""}


def _not_found(failure: Failure, host: str) -> None:
    log.debug("proxy {host!r} has no address: {why!r}", host=host, why=str(failure.value))
