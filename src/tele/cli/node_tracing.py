"""Which nodes cannot trace what programs of sessions do, and why? For ``tele status --tracing``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from tele.model.trace import TraceKind

#: Names of nodes that are shown for one reason.
SHOWN: Final = 5
#: Why a node traces nothing that is not configured to.
OFF: Final = "node.tracer: none"


def untraced(hosts: Iterable[Any]) -> dict[str, Any]:
    """Return how many nodes there are, and which of them trace nothing, or not all kinds, by the
    reason: those with the most nodes first.
    """
    count = 0
    reasons: dict[str, list[str]] = {}
    for host in hosts:
        count += 1
        if len(host.tracing) < len(TraceKind):
            reasons.setdefault(host.untraced or OFF, []).append(host.name)
    ordered = sorted(reasons.items(), key=lambda item: (-len(item[1]), item[0]))
    return {
        "nodes": count,
        "cannot": [{"reason": reason, "nodes": sorted(names)} for reason, names in ordered],
    }


def described(found: dict[str, Any]) -> list[str]:
    """Return the same as lines of text."""
    cannot = found["cannot"]
    limited = sum(len(each["nodes"]) for each in cannot)
    lines = [f"{found['nodes'] - limited} of {found['nodes']} nodes trace everything"]
    for each in cannot:
        names = each["nodes"]
        more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        lines.append(f"{', '.join(names[:SHOWN])}{more}: {each['reason']}")
    return lines
