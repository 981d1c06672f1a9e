"""What strangers can cause to be written, and who hears of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from twisted.internet.task import Clock
from twisted.logger import ILogObserver, LogEvent, globalLogPublisher
from zope.interface import implementer

from tele.admission.limits import Limits
from tele.admission.penalties import Fault
from tele.conch.server.connection_admission import (
    REPORT_SECONDS,
    SOURCES_LIMIT,
    ConnectionAdmission,
    RateLimitedLog,
    Refused,
)
from tele.log import event_text


@pytest.fixture
def lines() -> Iterator[list[str]]:
    """What is logged."""
    written: list[str] = []

    @implementer(ILogObserver)
    def observe(event: LogEvent) -> None:
        written.append(event_text(event))

    globalLogPublisher.addObserver(observe)
    yield written
    globalLogPublisher.removeObserver(observe)


def make_door(
    clock: Clock, heard: list[Refused], shared: str = "", **limits: Any
) -> ConnectionAdmission:
    return ConnectionAdmission(
        clock, Limits(**limits), lambda: 0.5, lambda host: host == shared, heard.append
    )


def test_lines_about_strangers_are_rationed(lines: list[str]) -> None:
    """Ten thousand lines in a second are fifty, ten of a source, and one that counts the others."""
    clock = Clock()
    log = RateLimitedLog(clock)
    for number in range(100):
        log.of("192.0.2.200").info("a stranger {number}", number=number)
    assert len(lines) == 10
    for number in range(9_900):
        log.of(f"192.0.2.{number % 100}").info("a stranger {number}", number=number)
    assert len(lines) == 51
    assert lines[10] == "90 lines about strangers were left out"
    clock.advance(1)
    log.of("192.0.2.201").info("another")
    assert lines[51:] == ["9860 lines about strangers were left out", "another"]


def test_those_whom_a_proxy_brings_are_counted_apart() -> None:
    """An address that comes through proxies has a share, and takes no place of strangers."""
    clock, heard = Clock(), list[Refused]()
    door = make_door(
        clock, heard, startups=(2, 100, 5), startups_per_source=1, startups_per_member=3
    )
    sources = [door.enter_vouched("192.0.2.1") for _ in range(4)]
    assert [source is not None for source in sources] == [True, True, True, False]
    assert [door.enter_vouched(f"192.0.2.{n}") is not None for n in (2, 3, 4)] == [
        True,
        True,
        False,
    ]
    assert door.enter("192.0.2.1") is not None
    assert door.enter("192.0.2.2") is not None
    assert sources[0] is not None
    door.vouched.leave(sources[0])
    assert door.enter_vouched("192.0.2.4") is not None
    door.close()
    assert heard[0].why == {"too_many": 2}


def test_refusals_are_one_report_a_minute(lines: list[str]) -> None:
    """Whoever is refused is counted by reason; some addresses are named; one event, one line."""
    clock, heard = Clock(), list[Refused]()
    door = make_door(clock, heard, startups=(100, 0, 100), startups_per_source=1)
    for number in range(100):
        assert door.enter(f"192.0.2.{number}") is not None
        assert door.enter(f"192.0.2.{number}") is None
    door.penalize("198.51.100.1", Fault.CRASH)
    for _ in range(1000):
        assert door.enter("198.51.100.1") is None
    assert heard == []
    clock.advance(REPORT_SECONDS)
    (refused,) = heard
    assert refused.count == 1100
    assert refused.why == {"too_many": 100, "crash": 1000}
    assert len(refused.sources) == SOURCES_LIMIT
    assert len(lines) == 3  # the first one at once, who is shut out, and the sum
    clock.advance(REPORT_SECONDS)
    assert len(heard) == 1
    assert not clock.getDelayedCalls()


def test_closing_reports_the_rest() -> None:
    """What was counted is told when the door closes, once, and no timer is left."""
    clock, heard = Clock(), list[Refused]()
    door = make_door(clock, heard, startups_per_source=0)
    assert door.enter("192.0.2.1") is None
    door.close()
    door.close()
    assert [refused.count for refused in heard] == [1]
    assert not clock.getDelayedCalls()


def test_a_shared_address_is_not_shut_out() -> None:
    """Behind a proxy one visitor's faults are not another's; they have the share of a home, and
    not all the places: who works on a node is behind its address, too (attack).
    """
    clock, heard = Clock(), list[Refused]()
    door = make_door(clock, heard, shared="192.0.2.1", startups_per_source=2, startups_per_member=5)
    for _ in range(50):
        door.penalize("192.0.2.1", Fault.CRASH)
    assert all(door.enter("192.0.2.1") for _ in range(5))
    assert door.enter("192.0.2.1") is None
    assert len(door.penalties) == 0
    for _ in range(2):
        assert door.enter("192.0.2.2")
    assert door.enter("192.0.2.2") is None
