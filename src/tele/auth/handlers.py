"""Which method performs which operation of the API? A typed table.

Invariants:

* The type checker compares the request and the response of each method with those of its operation.
* Each operation has exactly one handler: :class:`Handlers` cannot be made otherwise.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, TypeVar

from attrs import frozen
from twisted.internet.defer import Deferred

from tele.model.api.operation import Operation
from tele.model.identity import Caller

Req = TypeVar("Req")
Res = TypeVar("Res")


@frozen
class Handler:
    """``perform(request, caller)`` returns the response; made by :func:`handler`."""

    operation: Operation[Any, Any]
    perform: Callable[[Any, Caller], Awaitable[Any]]


@frozen
class StreamHandler:
    """``follow(request, receiver)`` runs until it is cancelled; made by :func:`stream`."""

    operation: Operation[Any, Any]
    follow: Callable[[Any, Callable[[Any], None]], Deferred[None]]


def handler(
    operation: Operation[Req, Res], perform: Callable[[Req, Caller], Awaitable[Res]]
) -> Handler:
    """Return the handler of an operation with one response."""
    return Handler(operation, perform)


def stream(
    operation: Operation[Req, Res],
    follow: Callable[[Req, Callable[[Res], None]], Deferred[None]],
) -> StreamHandler:
    """Return the handler of an operation that streams."""
    return StreamHandler(operation, follow)


class Handlers:
    """The handlers of all ``operations``, by name."""

    def __init__(
        self,
        operations: Mapping[str, Operation[Any, Any]],
        handlers: Iterable[Handler | StreamHandler],
    ) -> None:
        self._handlers: dict[str, Handler] = {}
        self._streams: dict[str, StreamHandler] = {}
        for each in handlers:
            table: dict[str, Any] = self._handlers if isinstance(each, Handler) else self._streams
            if each.operation.name in self._handlers or each.operation.name in self._streams:
                raise ValueError(f"two handlers for {each.operation.name}")
            table[each.operation.name] = each
        streams = {name for name, operation in operations.items() if operation.streams}
        if set(self._streams) != streams or set(self._handlers) != set(operations) - streams:
            raise ValueError("each operation needs a handler, and each stream a stream handler")

    def __getitem__(self, operation: Operation[Any, Any]) -> Handler:
        return self._handlers[operation.name]

    def stream(self, operation: Operation[Any, Any]) -> StreamHandler:
        """Return the handler of an operation that streams."""
        return self._streams[operation.name]
