"""A value for many readers is encoded once."""

from __future__ import annotations

from tele.https.stream import Lines
from tele.model.api.hosts import WatchHosts
from tele.model.identity import HostRole


def test_one_value_is_one_line() -> None:
    """The same value gives the same bytes; another one, equal or not, its own."""
    lines = Lines()
    nodes, proxies = WatchHosts(HostRole.NODE), WatchHosts(HostRole.PROXY)
    first = lines.of(nodes)
    assert first.endswith(b"\n")
    assert lines.of(nodes) is first
    assert lines.of(proxies) != first
    assert lines.of(nodes) == first
    assert lines.of(None) == b"null\n"
