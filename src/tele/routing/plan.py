"""Which routes lead to a node, and in which order are they tried?

Invariants:

* Pure functions: values in, values out.
* The result depends on the arguments only: all proxies plan alike without coordination.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from attrs import frozen

from tele.model.api.members import Proxy
from tele.model.presence import Host


@frozen
class Direct:
    """Dial an address of the node."""

    address: str


@frozen
class ThisTunnel:
    """Use the node's tunnel to this proxy."""


@frozen
class PeerProxy:
    """Use the node's tunnel to another proxy."""

    proxy: Proxy


Route = Direct | ThisTunnel | PeerProxy


def routes(
    host: Host, here: bool, others: Iterable[Proxy], unreachable: Collection[str]
) -> tuple[Route, ...]:
    """Return the routes to ``host``, the best first.

    There is none to a machine with sshd: a proxy ends users' SSH there, and nothing else does.
    ``here``: it has a tunnel to this proxy. ``others`` are the other proxies that are online,
    ``unreachable`` the addresses that did not answer lately: they come last.
    """
    if host.sshd:
        return ()
    through: list[Route] = [ThisTunnel()] if here else []
    through += [PeerProxy(proxy) for proxy in others if proxy.id in host.tunnels]
    good = [Direct(address) for address in host.addresses if address not in unreachable]
    bad = [Direct(address) for address in host.addresses if address in unreachable]
    return (*good, *through, *bad)
