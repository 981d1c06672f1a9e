"""From which addresses do the cluster's proxies come?

Clients behind a proxy have its address until it has stated theirs: they are not penalised for
each other, and do not share the limit of unauthenticated connections of one source. They have
logged in to the proxy.

Invariant: no connection waits for a lookup; each name is looked up once at a time, and its last
addresses are used until the lookup is done.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from tele.log import make_logger
from tele.model.addresses import Address, plain_address, plain_host

log = make_logger(__name__)


class ProxyAddresses:
    """The set of addresses. ``resolve(host)`` returns all addresses of a name: a proxy may connect
    from any of them, of both families.
    """

    def __init__(self, resolve: Callable[[str], Deferred[list[str]]]) -> None:
        self._resolve = resolve
        self._of: dict[str, frozenset[str]] = {}
        #: NameResolver whose lookup is under way.
        self._asked: set[str] = set()
        self._known: frozenset[str] = frozenset()

    def __contains__(self, host: str) -> bool:
        return plain_host(host) in self._known

    def update(self, addresses: Iterable[str]) -> None:
        """Set the addresses (``host:port``) of the proxies."""
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
            log.debug("proxy lookup failed", proxy=host, error=str(answer.value))
        elif host in self._of:
            self._of[host] = frozenset(map(plain_host, answer))
            self._known = frozenset().union(*self._of.values())
