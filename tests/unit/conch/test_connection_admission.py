"""What unauthenticated clients can cause to be logged and reported."""

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


def make_admission(
    clock: Clock, reports: list[Refused], shared: str = "", **limits: Any
) -> ConnectionAdmission:
    return ConnectionAdmission(
        clock, Limits(**limits), lambda: 0.5, lambda host: host == shared, reports.append
    )


def test_lines_of_unauthenticated_clients_are_limited(lines: list[str]) -> None:
    """Ten thousand lines in a second are fifty, ten of a source, and one that counts the others."""
    clock = Clock()
    log = RateLimitedLog(clock)
    for number in range(100):
        log.of("192.0.2.200").info("a client {number}", number=number)
    assert len(lines) == 10
    for number in range(9_900):
        log.of(f"192.0.2.{number % 100}").info("a client {number}", number=number)
    assert len(lines) == 51
    assert lines[10] == "log lines of unauthenticated clients omitted count=90"
    clock.advance(1)
    log.of("192.0.2.201").info("another")
    assert lines[51:] == ["log lines of unauthenticated clients omitted count=9860", "another"]


def test_clients_of_a_proxy_are_counted_apart() -> None:
    """An address behind a proxy has a share, and takes no place of direct connections."""
    clock, reports = Clock(), list[Refused]()
    admission = make_admission(
        clock, reports, startups=(2, 100, 5), startups_per_source=1, startups_per_member=3
    )
    sources = [admission.enter_vouched("192.0.2.1") for _ in range(4)]
    assert [source is not None for source in sources] == [True, True, True, False]
    assert [admission.enter_vouched(f"192.0.2.{n}") is not None for n in (2, 3, 4)] == [
        True,
        True,
        False,
    ]
    assert admission.enter("192.0.2.1") is not None
    assert admission.enter("192.0.2.2") is not None
    assert sources[0] is not None
    admission.vouched.leave(sources[0])
    assert admission.enter_vouched("192.0.2.4") is not None
    admission.close()
    assert reports[0].why == {"too_many": 2}


def test_refusals_are_one_report_a_minute(lines: list[str]) -> None:
    """Refused connections are counted by reason; some addresses are listed; one event, one line."""
    clock, reports = Clock(), list[Refused]()
    admission = make_admission(clock, reports, startups=(100, 0, 100), startups_per_source=1)
    for number in range(100):
        assert admission.enter(f"192.0.2.{number}") is not None
        assert admission.enter(f"192.0.2.{number}") is None
    admission.penalize("198.51.100.1", Fault.CRASH)
    for _ in range(1000):
        assert admission.enter("198.51.100.1") is None
    assert reports == []
    clock.advance(REPORT_SECONDS)
    (refused,) = reports
    assert refused.count == 1100
    assert refused.why == {"too_many": 100, "crash": 1000}
    assert len(refused.sources) == SOURCES_LIMIT
    assert len(lines) == 3  # the first one, the refused address, and the count
    clock.advance(REPORT_SECONDS)
    assert len(reports) == 1
    assert not clock.getDelayedCalls()


def test_closing_reports_the_rest() -> None:
    """What was counted is reported when the admission closes, once, and no timer is left."""
    clock, reports = Clock(), list[Refused]()
    admission = make_admission(clock, reports, startups_per_source=0)
    assert admission.enter("192.0.2.1") is None
    admission.close()
    admission.close()
    assert [refused.count for refused in reports] == [1]
    assert not clock.getDelayedCalls()


def test_a_shared_address_is_not_shut_out() -> None:
    """Behind a proxy one client's faults are not another's; they have a member source's share, and
    not all the places: users who log in from a node are behind its address, too (attack).
    """
    clock, reports = Clock(), list[Refused]()
    admission = make_admission(
        clock, reports, shared="192.0.2.1", startups_per_source=2, startups_per_member=5
    )
    for _ in range(50):
        admission.penalize("192.0.2.1", Fault.CRASH)
    assert all(admission.enter("192.0.2.1") for _ in range(5))
    assert admission.enter("192.0.2.1") is None
    assert len(admission.penalties) == 0
    for _ in range(2):
        assert admission.enter("192.0.2.2")
    assert admission.enter("192.0.2.2") is None
