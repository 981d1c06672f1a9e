"""Records leave in order, and a number that does not come is reported once, in its place."""

from __future__ import annotations

import random

import pytest

from tele.tracer import records
from tele.tracer.sequencing import HELD_LIMIT, PATIENCE, Sequencer


class Kernel:
    """Numbers given and lost of sessions."""

    def __init__(self) -> None:
        self.states: dict[int, tuple[int, int]] = {}

    def __call__(self, session: int) -> tuple[int, int]:
        return self.states.get(session, (0, 0))


def record(session: int, number: int) -> bytes:
    return records.PLACE.pack(session, number) + b"-"


def numbers(out: list[bytes]) -> list[object]:
    """What left: numbers, and pairs of first and last for a loss."""
    found: list[object] = []
    for each in out:
        if len(each) == len(record(0, 0)):
            found.append(records.PLACE.unpack_from(each)[1])
        else:
            lost = records.parse(each)
            assert isinstance(lost, records.Lost)
            found.append((lost.first, lost.last))
    return found


@pytest.fixture
def kernel() -> Kernel:
    return Kernel()


@pytest.fixture
def sequencer(kernel: Kernel) -> Sequencer:
    made = Sequencer(kernel)
    made.start(1)
    return made


def test_order(sequencer: Sequencer) -> None:
    """Whatever order two rings give, the order of numbers comes out."""
    order = list(range(1, 200))
    random.Random(3).shuffle(order)
    out: list[bytes] = []
    for number in order:
        sequencer.add(record(1, number), out, 0.0)
    assert numbers(out) == list(range(1, 200))
    assert sequencer.stop(1, 199, out) == (199, 0)


def test_a_known_loss(sequencer: Sequencer, kernel: Kernel) -> None:
    """What the kernel counts as lost is not waited for."""
    out: list[bytes] = []
    for number in (1, 4, 5, 8):
        sequencer.add(record(1, number), out, 0.0)
    kernel.states[1] = (8, 4)
    sequencer.settle(sequencer.states(everything=False), out, 0.0)
    assert numbers(out) == [1, (2, 3), 4, 5, (6, 7), 8]
    assert sequencer.stop(1, 8, out) == (4, 4)


def test_what_is_not_lost_is_waited_for(sequencer: Sequencer, kernel: Kernel) -> None:
    """A program that was interrupted while it wrote gets its place, for a while."""
    out: list[bytes] = []
    sequencer.add(record(1, 2), out, 0.0)
    kernel.states[1] = (2, 0)
    sequencer.settle(sequencer.states(everything=False), out, PATIENCE / 2)
    assert not out
    sequencer.add(record(1, 1), out, PATIENCE / 2)
    assert numbers(out) == [1, 2]
    sequencer.add(record(1, 4), out, PATIENCE)
    kernel.states[1] = (4, 0)
    sequencer.settle(sequencer.states(everything=False), out, 2 * PATIENCE)
    assert numbers(out) == [1, 2, (3, 3), 4]
    sequencer.add(record(1, 3), out, 2 * PATIENCE)  # too late: it is reported as lost
    assert numbers(out) == [1, 2, (3, 3), 4]


def test_a_loss_at_the_end(sequencer: Sequencer, kernel: Kernel) -> None:
    """A loss after which nothing more comes is reported while the session lasts, and once."""
    out: list[bytes] = []
    sequencer.add(record(1, 1), out, 0.0)
    kernel.states[1] = (5, 4)
    sequencer.settle(sequencer.states(everything=True), out, 0.0)
    sequencer.settle(sequencer.states(everything=True), out, 9.0)
    assert numbers(out) == [1, (2, 5)]
    assert sequencer.stop(1, 5, out) == (1, 4)
    assert numbers(out) == [1, (2, 5)]


def test_stop_reports_all(sequencer: Sequencer) -> None:
    """At the end each number has left or is lost."""
    out: list[bytes] = []
    for number in (2, 5):
        sequencer.add(record(1, number), out, 0.0)
    assert sequencer.stop(1, 7, out) == (2, 5)
    assert numbers(out) == [(1, 1), 2, (3, 4), 5, (6, 7)]


def test_what_waits_is_bounded(sequencer: Sequencer, kernel: Kernel) -> None:
    """A missing number holds only so many back."""
    out: list[bytes] = []
    for number in range(2, HELD_LIMIT + 3):
        sequencer.add(record(1, number), out, 0.0)
    kernel.states[1] = (HELD_LIMIT + 2, 0)
    sequencer.settle(sequencer.states(everything=False), out, 0.0)
    assert numbers(out)[:2] == [(1, 1), 2]


def test_other_sessions(sequencer: Sequencer, kernel: Kernel) -> None:
    """Sessions do not wait for each other, and what is of none is dropped."""
    sequencer.start(2)
    out: list[bytes] = []
    sequencer.add(record(1, 2), out, 0.0)
    sequencer.add(record(2, 1), out, 0.0)
    sequencer.add(record(3, 1), out, 0.0)
    assert out == [record(2, 1)]
    assert set(sequencer.states(everything=False)) == {1}
    assert set(sequencer.states(everything=True)) == {1, 2}
