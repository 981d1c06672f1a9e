"""Which opens of a session are counted together, and what is listed of them."""

from __future__ import annotations

from typing import Any

from twisted.internet.task import Clock

from tele.model.trace import Traced, TraceEvent
from tele.sessions.repeated_opens import LIMIT, PERIOD, RepeatedOpens


def opened(number: int, path: str = "/etc/hosts", **fields: Any) -> Traced:
    """Return the record of an open."""
    given = {
        "action": "open", "result": number, "uid": 1000, "details": {"path": path}, **fields,
    }  # fmt: skip
    return Traced(TraceEvent.DISK, number, 0, pid=7, parent=6, program="sh", **given)


class World:
    """What was listed: number, path, and how often."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.listed: list[tuple[int, str, int]] = []
        self.opens = RepeatedOpens(self.clock, self._note)

    def _note(self, _: int, record: Traced) -> None:
        details = record.details
        self.listed.append((record.number, details.get("path", ""), details.get("times", 1)))

    def take(self, *records: Traced) -> None:
        """Take records of one channel."""
        for each in records:
            self.opens.take(3, each)


def test_the_first_is_listed_and_the_rest_are_counted() -> None:
    """With the number of the last, after a while; then it begins again."""
    world = World()
    world.take(*(opened(number) for number in range(3, 8)))
    assert world.listed == [(3, "/etc/hosts", 1)]
    world.clock.advance(PERIOD)
    assert world.listed[1:] == [(7, "/etc/hosts", 4)]
    world.take(opened(9))
    assert world.listed[2:] == [(9, "/etc/hosts", 1)]
    world.clock.advance(PERIOD)
    assert len(world.listed) == 3


def test_what_differs_is_not_counted_together() -> None:
    """Another path, account, error or channel, and what is no open."""
    world = World()
    world.take(opened(1), opened(2, "/etc/shadow"), opened(3, uid=0), opened(4, result=-13))
    world.take(opened(5, action="unlink"), opened(6, action="unlink"))
    world.opens.take(4, opened(7))
    assert [number for number, _, _ in world.listed] == [1, 2, 3, 4, 5, 6, 7]


def test_the_end_of_a_program_lists_what_was_counted() -> None:
    """A recording has everything when its program has ended."""
    world = World()
    world.take(opened(1), opened(2), opened(3), opened(4, "/x"), opened(5, "/x"))
    world.opens.settle()
    assert world.listed == [
        (1, "/etc/hosts", 1), (4, "/x", 1), (3, "/etc/hosts", 2), (5, "/x", 1),
    ]  # fmt: skip
    world.opens.settle()
    assert len(world.listed) == 4
    assert not world.clock.getDelayedCalls()


def test_what_is_remembered_is_bounded() -> None:
    """A program that opens ever new files is remembered by its last ones (attack)."""
    world = World()
    world.take(opened(1), opened(2))
    world.take(*(opened(number, f"/{number}") for number in range(LIMIT)))
    assert (2, "/etc/hosts", 1) in world.listed
    assert len(world.listed) == LIMIT + 2
