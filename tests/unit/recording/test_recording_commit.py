"""Recordings that are written together do not hold each other up."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from attrs import define, field
from twisted.internet.task import Clock

from tele.recording.commit import FLUSH_SECONDS, GroupCommit
from tele.workers import SerialWorker


@define(eq=False)
class Source:
    """Has something to write, and may fail when it gets the result."""

    error: Exception | None = None
    results: list[Any] = field(factory=list)

    def begin(self) -> Callable[[], str]:
        return lambda: "written"

    def done(self, result: Any) -> None:
        self.results.append(result)
        if self.error is not None:
            raise self.error


def test_one_that_cannot_go_on_stops_no_other() -> None:
    """All that were written get their results, also after one whose session fails."""
    clock = Clock()
    writer = SerialWorker(clock, "test")
    commit = GroupCommit(clock, writer, lambda: None, lambda: lambda: None)
    first, second = Source(ValueError("a mistake")), Source()
    for source in (first, second):
        commit.soon(source)
    clock.advance(FLUSH_SECONDS)
    assert (first.results, second.results) == (["written"], ["written"])
