"""A node and a proxy that do not understand each other: each says which one to upgrade."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from twisted.logger import capturedLogs

from small_cluster import ME, SmallCluster, small_cluster
from tele.routing import dialer
from tele.tunnel import acceptor, agent, relayed_channels
from tele.tunnel.versions import advice

pytestmark = pytest.mark.skipif(shutil.which("ssh") is None, reason="OpenSSH is not installed")

NEWER = partial(advice, version="99.0")
OLDER = partial(advice, version="0.0.1")


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[SmallCluster]:
    """A cluster with one user."""
    with small_cluster(tmp_path) as made:
        made.person("alice", ME)
        yield made


def error_of(events: Any, message: str, part: str = "") -> str:
    """Return the error of the first line with this message and this ``part`` in it."""
    errors = (str(e["error"]) for e in events if e.get("log_format") == message)
    return next((error for error in errors if part in error), "")


def seen(events: Any, message: str) -> Callable[[], bool]:
    """Return whether there is such a line."""
    return lambda: bool(error_of(events, message))


@pytest.mark.parametrize(
    ("line", "upgrade"),
    [(b"TELE-VISITOR x\r\n", "upgrade the proxy"), (b"TELE-NEXT x\r\n", "upgrade this host")],
)
def test_the_first_line_differs(
    cluster: SmallCluster, monkeypatch: pytest.MonkeyPatch, line: bytes, upgrade: str
) -> None:
    """The log of either side says which one to upgrade, and it is an event."""
    proxy, node = cluster.proxy(), cluster.node()
    cluster.reactor.until(
        lambda: (
            proxy.service.router.index.get(node.member.host_id) is not None
            and bool(proxy.service.router.index.find("web1").addresses)
        )
    )
    monkeypatch.setattr(proxy.service.router.dialer, "_sign", lambda _: line)
    monkeypatch.setattr(dialer, "advice", NEWER)
    with capturedLogs() as events:
        done = cluster.jump("alice", proxy, "web1", "true")
        closed = "node closed a connection before the login"
        cluster.reactor.until(seen(events, closed))
    assert done.returncode == 255
    assert upgrade in error_of(events, "connection closed")
    assert error_of(events, closed).endswith("upgrade the node")
    assert any(upgrade in event.error for event in cluster.wait_event("auth.denied"))


def test_a_tunnel_is_requested_otherwise(
    cluster: SmallCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Node and proxy both log that one of them is older."""
    proxy = cluster.proxy()
    cluster.tunnel_node(proxy)
    monkeypatch.setattr(agent, "TUNNEL", b"tunnel-next@tele")
    monkeypatch.setattr(agent, "advice", NEWER)
    monkeypatch.setattr(acceptor, "advice", OLDER)
    with capturedLogs() as events:
        cluster.stop_proxy(proxy)
        cluster.proxy(port=proxy.port)
        cluster.reactor.until(lambda: bool(error_of(events, "tunnel failed", "upgrade")))
    assert error_of(events, "tunnel failed", "upgrade").endswith("upgrade the proxy")
    assert error_of(events, "request of a node refused").endswith("upgrade this proxy")


def test_channels_of_a_tunnel_differ(
    cluster: SmallCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client reads why, and the node logs it."""
    proxy = cluster.proxy()
    node = cluster.tunnel_node(proxy)
    cluster.reactor.until(lambda: node.proxies == (proxy.member.host_id,))
    monkeypatch.setattr(relayed_channels, "CLIENT", b"client-next@tele")
    monkeypatch.setattr(relayed_channels, "advice", NEWER)
    monkeypatch.setattr(agent, "advice", OLDER)
    with capturedLogs() as events:
        done = cluster.jump("alice", proxy, "nat1", "true")
    assert "upgrade the other side of the tunnel" in done.stderr.decode()
    assert error_of(events, "channel of the proxy refused").endswith("upgrade this node")
