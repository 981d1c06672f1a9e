"""Which way is a node reached?

Invariants:

* Decisions only: values in, values out; no connection is known here.
* The same for everybody who knows the same, so that nobody has to agree with anybody.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from attrs import frozen

from tele.model.api.members import Proxy
from tele.model.presence import Host


@frozen
class Direct:
    """Dial the node."""

    address: str


@frozen
class Tunnelled:
    """Through the tunnel that ends here."""


@frozen
class Through:
    """Through the tunnel that ends at another proxy."""

    proxy: Proxy


Route = Direct | Tunnelled | Through


def routes(
    host: Host, here: bool, others: Iterable[Proxy], unreachable: Collection[str]
) -> tuple[Route, ...]:
    """Return the ways to ``host``, the best first; none if there is none.

    ``here`` says that its tunnel ends at this proxy; ``others`` are the other proxies that
    live, ``unreachable`` the addresses that did not answer lately: they come last.
    """
    through: list[Route] = [Tunnelled()] if here else []
    through += [Through(proxy) for proxy in others if proxy.id in host.tunnels]
    good = [Direct(address) for address in host.addresses if address not in unreachable]
    bad = [Direct(address) for address in host.addresses if address in unreachable]
    return (*good, *through, *bad)
