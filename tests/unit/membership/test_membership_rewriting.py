"""Files of a membership are written until they can be."""

from __future__ import annotations

from typing import Any, cast

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock

from tele.membership.rewriting import FIRST_PAUSE, Rewriter


class Store:
    """Has something to write."""

    is_pending = True

    def write(self) -> str:
        return ""


class Worker:
    """The result of a call is set by the test."""

    def __init__(self) -> None:
        self.answers: list[Deferred[str]] = []

    def call(self, function: Any) -> Deferred[str]:
        self.answers.append(Deferred())
        return self.answers[-1]


def test_a_cancelled_wait_stops_no_writing() -> None:
    """The result of a write counts when its caller was cancelled, and it is tried again."""
    clock, worker = Clock(), Worker()
    rewriter = Rewriter(clock, cast(Any, Store()), cast(Any, worker), lambda: 1.0)
    failures: list[Any] = []
    waiting = rewriter.check().addErrback(failures.append)
    waiting.cancel()
    assert [failure.check(CancelledError) for failure in failures] == [CancelledError]
    worker.answers[0].callback("the disk is full")
    clock.advance(FIRST_PAUSE * 2)
    assert len(worker.answers) == 2
    worker.answers[1].callback("")
    assert not clock.getDelayedCalls()
