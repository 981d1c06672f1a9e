"""Reading a recording is itself an event, whichever operation it is read by."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import attrs
import pytest

from auth_world import Tape, World
from tele.auth.operations.recordings import ACCESS_SECONDS
from tele.errors import NotFound
from tele.model.api.operation import Operation, Permitted
from tele.model.api.table import OPERATIONS

#: Operations by which a user reads what is in one recording; tests of the search have the other.
READING = [
    operation
    for operation in OPERATIONS.values()
    if "id" in operation.path_fields
    and any(
        isinstance(who, Permitted) and (who.resource, who.verb) == ("recording", "read")
        for who in operation.who
    )
]


def request_for(operation: Operation[Any, Any], recording_id: str) -> Any:
    """Return a request for the beginning of a recording."""
    given: dict[str, Any] = {}
    for each in attrs.fields(operation.request):
        if each.default is attrs.NOTHING:
            given[each.name] = recording_id if each.name == "id" else 0
    return operation.request(**given)


@pytest.mark.parametrize("operation", READING, ids=lambda each: each.name)
def test_every_way_to_read_a_recording_is_an_event(
    world: World, operation: Operation[Any, Any]
) -> None:
    """What play, export, verify and seeking call; also of one's own recording."""
    tape = Tape(world)
    tape.upload(0, 1)
    tape.finish()
    world.add_user("alice", "access")
    for caller, number in ((world.admin, 1), (world.user("alice", "access"), 2)):
        with suppress(NotFound):  # a part that this recording does not have was asked for
            world.do(operation, request_for(operation, tape.id), caller)
        events = world.events("recording.access")
        assert len(events) == number
        assert events[-1].session_id == tape.id
        assert events[-1].fields["of_user"] == "alice"


def test_each_reader_and_each_time_is_an_event_of_its_own(world: World) -> None:
    """Many chunks are one access; the next day, or another login, is another one."""
    tape = Tape(world)
    tape.upload(0, 1)
    operations = [each for each in READING if each.name in ("get_recording", "get_chunk")]
    assert len(operations) == 2
    for _ in range(5):
        for operation in operations:
            world.do(operation, request_for(operation, tape.id))
    assert len(world.events("recording.access")) == 1
    world.clock.advance(ACCESS_SECONDS + 1)
    world.do(operations[0], request_for(operations[0], tape.id))
    assert len(world.events("recording.access")) == 2
