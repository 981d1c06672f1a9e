"""The table from operations to the methods that perform them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args, get_type_hints

import pytest

from auth_world import World
from tele.auth.handlers import Handlers, handler, stream
from tele.model.api import table
from tele.model.api.operation import Nothing, Operation
from tele.model.identity import Caller

NOTED = Operation("noted", "GET", "/noted", Nothing, Nothing, (), "")
FOLLOWED = Operation("followed", "GET", "/followed", Nothing, Nothing, (), "", streams=True)
BOTH: dict[str, Operation[Any, Any]] = {each.name: each for each in (NOTED, FOLLOWED)}


async def perform(request: Nothing, caller: Caller) -> Nothing:
    return request


def follow(request: Nothing, receiver: Callable[[Nothing], None]) -> Any:
    receiver(request)


@pytest.mark.parametrize("operation", table.OPERATIONS.values(), ids=lambda each: each.name)
def test_a_handler_has_the_types_of_its_operation(
    world: World, operation: Operation[Any, Any]
) -> None:
    """The published description of an operation is that of the method which performs it."""
    handlers = world.auth._handlers
    method: Any
    if operation.streams:
        method = handlers.stream(operation).follow
        response = get_args(get_type_hints(method)["receiver"])[0][0]
    else:
        method = handlers[operation].perform
        response = get_type_hints(method)["return"]
    assert method.__name__ == operation.name
    assert get_type_hints(method)["request"] is operation.request
    assert response is operation.response


@pytest.mark.parametrize(
    "handlers",
    [
        [],
        [handler(NOTED, perform)],
        [handler(NOTED, perform), handler(NOTED, perform), stream(FOLLOWED, follow)],
        [handler(NOTED, perform), handler(FOLLOWED, perform)],
        [stream(NOTED, follow), stream(FOLLOWED, follow)],
    ],
    ids=["none", "one missing", "one twice", "a stream without receiver", "no stream"],
)
def test_each_operation_has_one_handler(handlers: list[Any]) -> None:
    """Auth does not start without a handler for an operation, or with two."""
    Handlers(BOTH, [handler(NOTED, perform), stream(FOLLOWED, follow)])
    with pytest.raises(ValueError, match="handler"):
        Handlers(BOTH, handlers)
