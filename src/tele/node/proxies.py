"""From which addresses do the cluster's proxies come?

All visitors through a proxy have its address until it has said who they are: nobody is shut
out there for another, and it has no share of the places of strangers. Behind it are people
who logged in to the proxy.

Invariant of this file: names are looked up off the way of any visitor, each once at a time; what
was found last holds until it is found anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from tele.log import make_logger
from tele.model.addresses import Address, plain_address, plain_host

log = make_logger(__name__)


class ProxyAddresses:
    """The set of them. ``resolve(host)`` returns all addresses of a name: a proxy may come from
    any of them, of both families.
    """

    def __init__(self, resolve: Callable[[str], Deferred[list[str]]]) -> None:
        self._resolve = resolve
        self._of: dict[str, frozenset[str]] = {}
        #: Names that are being looked up: they are not asked for again meanwhile.
        self._asked: set[str] = set()
        self._known: frozenset[str] = frozenset()

    def __contains__(self, host: str) -> bool:
        return plain_host(host) in self._known

    def update(self, addresses: Iterable[str]) -> None:
        """These are the proxies now (``host:port``)."""
        hosts = {Address.parse(address).host for address in addresses}
        self._of = {host: self._of.get(host, frozenset()) for host in hosts}
        for host in hosts:
            if plain_address(host) is not None:
                self._of[host] = frozenset({plain_host(host)})
            elif host not in self._asked:
                self._asked.add(host)
                self._resolve(host).addBoth(self._answered, host)
        self._known = frozenset().union(*self._of.values())

    def _answered(self, answer: list[str] | Failure, host: str) -> None:
        self._asked.discard(host)
        if isinstance(answer, Failure):
            log.debug("proxy {host!r} has no address: {why!r}", host=host, why=str(answer.value))
        elif host in self._of:
            self._of[host] = frozenset(map(plain_host, answer))
            self._known = frozenset().union(*self._of.values())
