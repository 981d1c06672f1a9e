"""Which operation does a method and a path mean?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from attrs import frozen

from tele.https.encoding import unquote_segment
from tele.model.api.operation import Operation


@frozen
class Route:
    """The operation, and the texts of its path fields (not checked yet)."""

    operation: Operation[Any, Any]
    path: Mapping[str, str]


@frozen
class NoRoute:
    """``allowed`` are the methods that the path has; empty if there is no such path.

    A path with GET has HEAD too, and each path has OPTIONS (RFC 9110).
    """

    allowed: tuple[str, ...] = ()


class Routes:
    """Finds operations. Fixed parts of a path win over fields (``/v1/hosts/watch``)."""

    def __init__(self, operations: Iterable[Operation[Any, Any]]) -> None:
        self._rows = sorted(
            ((tuple(o.path.split("/")), o) for o in operations),
            key=lambda row: [part.startswith("{") for part in row[0]],
        )

    def find(self, method: str, path: str) -> Route | NoRoute:
        """Look ``path`` (still quoted) up; raises :class:`tele.errors.InvalidInput`.

        HEAD is the operation of GET, whose response is sent without its body.
        """
        method = "GET" if method == "HEAD" else method
        sent = path.split("/")
        best: tuple[str, ...] | None = None
        allowed = []
        for parts, operation in self._rows:
            if not _fits(parts, sent) or (best is not None and parts != best):
                continue
            best = parts
            if operation.method == method:
                return Route(
                    operation,
                    {
                        part[1:-1]: unquote_segment(text)
                        for part, text in zip(parts, sent, strict=True)
                        if part.startswith("{")
                    },
                )
            allowed.append(operation.method)
        return no_route(allowed)


def no_route(methods: Iterable[str]) -> NoRoute:
    """Return what a path with operations of these methods allows."""
    found = set(methods)
    if found:
        found.add("OPTIONS")
    if "GET" in found:
        found.add("HEAD")
    return NoRoute(tuple(sorted(found)))


def _fits(parts: tuple[str, ...], sent: list[str]) -> bool:
    return len(parts) == len(sent) and all(
        text != "" if part.startswith("{") else part == text
        for part, text in zip(parts, sent, strict=True)
    )
