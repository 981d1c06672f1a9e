"""The order of routes, and which proxies are dialled: pure functions."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime

from attrs import evolve

from tele.model.api.members import Proxy
from tele.model.identity import HostRole
from tele.model.presence import Host, Mode, Status
from tele.routing.plan import Direct, PeerProxy, ThisTunnel, routes
from tele.tunnel.proxy_choice import preferred, wanted

PROXIES = [Proxy(f"id-{n}", f"proxy{n}", (f"p{n}:3080",), f"p{n}:3080") for n in range(5)]
NODE = Host(
    id="node-1",
    name="web1",
    role=HostRole.NODE,
    addresses=(),
    labels={},
    mode=Mode.TUNNEL,
    status=Status.ONLINE,
    last_seen=datetime(2026, 11, 24, 12, tzinfo=UTC),
)


def test_a_node_with_nothing_is_not_reached() -> None:
    """Without an address or a tunnel there is no route."""
    assert routes(NODE, False, PROXIES, ()) == ()


def test_the_tunnel_here_comes_before_those_elsewhere() -> None:
    """A proxy goes over another one only if it has to."""
    node = evolve(NODE, tunnels=("id-3", "id-1"))
    assert routes(node, True, PROXIES, ()) == (
        ThisTunnel(),
        PeerProxy(PROXIES[1]),
        PeerProxy(PROXIES[3]),
    )


def test_the_direct_route_is_first_while_it_works() -> None:
    """A node with both is dialled, unless its address did not answer lately."""
    node = evolve(NODE, addresses=("a:22", "b:22"), tunnels=("id-1",))
    assert routes(node, True, [], ()) == (Direct("a:22"), Direct("b:22"), ThisTunnel())
    assert routes(node, True, [], {"a:22"}) == (Direct("b:22"), ThisTunnel(), Direct("a:22"))


def test_proxies_that_are_gone_are_no_route() -> None:
    """What a node announced of its tunnels may be old."""
    assert routes(evolve(NODE, tunnels=("gone",)), False, PROXIES, ()) == ()


def test_nodes_spread_over_proxies() -> None:
    """Each proxy gets its share, and a new one takes over only its own."""
    nodes = [f"node-{n}" for n in range(500)]
    before = {node: preferred(node, PROXIES[:4])[0].id for node in nodes}
    assert min(Counter(before.values()).values()) > 90
    after = {node: preferred(node, PROXIES)[0].id for node in nodes}
    moved = {after[node] for node in nodes if after[node] != before[node]}
    assert moved == {"id-4"}
    assert preferred("node-1", PROXIES) == preferred("node-1", reversed(PROXIES))


def test_failing_proxies_are_made_up_for() -> None:
    """Another one is dialled for each that fails; those that fail are dialled on."""
    assert wanted(PROXIES, (), 2) == PROXIES[:2]
    assert wanted(PROXIES, {"id-0"}, 2) == PROXIES[:3]
    assert wanted(PROXIES, {p.id for p in PROXIES}, 2) == PROXIES
    assert wanted(PROXIES[:1], (), 3) == PROXIES[:1]
