"""What is said of nodes that cannot trace sessions."""

from __future__ import annotations

from types import SimpleNamespace

from tele.cli.node_tracing import OFF, described, untraced
from tele.model.trace import TraceKind


def test_nodes_are_counted_by_their_reasons() -> None:
    """The most frequent reason comes first; one that is not configured says so."""
    hosts = [SimpleNamespace(name="a", tracing=tuple(TraceKind), untraced="")]
    hosts += [
        SimpleNamespace(name=f"n{number}", tracing=(), untraced="the kernel 4.18 is too old")
        for number in range(7)
    ]
    hosts += [SimpleNamespace(name="b", tracing=(), untraced="")]
    found = untraced(hosts)
    assert found["nodes"] == 9
    assert described(found) == [
        "1 of 9 nodes trace everything",
        "n0, n1, n2, n3, n4 and 2 more: the kernel 4.18 is too old",
        f"b: {OFF}",
    ]
    assert untraced([]) == {"nodes": 0, "cannot": []}
