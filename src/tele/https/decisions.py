"""How is a request to be answered, decided before its body is read?"""

from __future__ import annotations

from attrs import frozen

from tele.errors import InvalidInput, NotFound, TeleError, Unavailable, quoted
from tele.https.routes import NoRoute, Route
from tele.model.identity import Caller


@frozen
class Refused:
    """Answer with this."""

    error: TeleError
    status: int
    allowed: tuple[str, ...] = ()
    close: bool = False


@frozen
class Admitted:
    """Perform this, after ``wait`` seconds."""

    route: Route
    caller: Caller
    query: bytes
    wait: float


@frozen
class Document:
    """Send this."""

    body: bytes


@frozen
class Methods:
    """Answer with the methods of a path."""

    allowed: tuple[str, ...]


def busy(why: str, *, close: bool = False) -> Refused:
    """Refuse for now, for the reason ``why``."""
    return Refused(Unavailable(f"{why}; try again in a moment"), 503, close=close)


def not_found(method: bytes, path: str, route: NoRoute) -> Refused:
    """Refuse what is no operation, with the methods that a path has."""
    if route.allowed:
        text = f"{path[:256]!r} has {', '.join(route.allowed)}, not {quoted(method)}"
        return Refused(InvalidInput(text), 405, route.allowed)
    return Refused(NotFound(f"the API has no {path[:256]!r}"), 404)
