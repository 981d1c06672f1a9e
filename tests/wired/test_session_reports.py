"""A node reports its running sessions after auth has all earlier events."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from twisted.internet.task import Clock

from tele.errors import NotFound
from tele.membership.joining import JoinSettings
from tele.membership.member import Member
from tele.membership.session_report import REPORT_SECONDS
from tele.membership.store import DirectoryStore
from tele.model.event import Event
from tele.model.identity import HostRole
from tele.model.presence import Presence
from tele.testing.authority import CLUSTER, FakeAuthority

BEGIN = datetime(2026, 11, 24, 12, tzinfo=UTC)


class Node:
    """A machine with sessions, and an auth."""

    def __init__(self, folder: Path) -> None:
        self.clock = Clock()
        self.clock.advance(BEGIN.timestamp())
        self.auth = FakeAuthority(self.clock)
        self.folder = folder
        self.sessions = ["one"]
        self.member = self.start()

    def start(self) -> Member:
        self.member = Member(
            self.clock,
            store=DirectoryStore(self.folder, HostRole.NODE),
            settings=JoinSettings(
                ("auth.example:3025",), pins=(self.auth.pin,), token=lambda: "right"
            ),
            presence=lambda: Presence("web1", HostRole.NODE, ("192.0.2.1:3022",)),
            network=self.auth.network,
            dice=lambda: 0.5,
        )
        self.member.report_sessions(lambda: self.sessions)
        self.member.startService()
        self.clock.advance(0.1)
        return self.member

    def stop(self) -> None:
        self.member.stopService()
        self.clock.advance(3)

    def emit(self, number: int) -> None:
        self.member.emit(Event(f"id-{number}", BEGIN, "exec", "TS006I", CLUSTER))

    @property
    def reported(self) -> list[tuple[str, ...]]:
        return [said.sessions for said in self.auth.reports]


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    made = Node(tmp_path / "data")
    yield made
    made.stop()
    assert made.clock.getDelayedCalls() == []


def test_a_node_reports_when_it_starts_and_now_and_then(node: Node) -> None:
    """Auth gets a report at the start, and again every few minutes."""
    assert node.reported == [("one",)]
    node.sessions = ["one", "two"]
    node.clock.advance(REPORT_SECONDS - 1)
    assert len(node.reported) == 1
    node.clock.pump([2, 1])
    assert node.reported == [("one",), ("one", "two")]


def test_a_report_comes_after_all_events_from_before(node: Node) -> None:
    """After an outage what waits is sent first, so that auth ends nothing whose end is coming."""
    node.auth.leave()
    node.clock.advance(REPORT_SECONDS + 1)
    for number in range(500):
        node.emit(number)
    node.auth.away = False
    node.auth.calls.clear()
    node.clock.advance(60)
    received = [name for name in node.auth.calls if name in ("emit_events", "report_sessions")]
    assert received == ["emit_events"] * 3 + ["report_sessions"]
    assert len(node.auth.events) == 500


def test_a_node_reports_anew_after_each_trouble(node: Node) -> None:
    """Auth may have given the node up meanwhile, so it does not wait for the next turn."""
    node.auth.leave()
    node.emit(1)
    node.clock.advance(10)
    node.auth.away = False
    node.clock.advance(60)
    assert len(node.reported) == 2


def test_a_restarted_node_reports_since_when_it_runs(node: Node) -> None:
    """By that auth distinguishes a process that was killed from an end that was lost."""
    node.stop()
    node.clock.advance(100)
    node.sessions = []
    node.start()
    first, second = node.auth.reports
    assert first.since == BEGIN
    assert (second.since - BEGIN).total_seconds() > 100
    assert second.sessions == ()


def test_an_event_that_was_lost_makes_it_report(node: Node) -> None:
    """An end for which the spool had no space is known by the next report."""
    node.member.emit(Event("id-1", BEGIN, "exec", "TS006I", CLUSTER, fields={"x": "y" * (1 << 19)}))
    node.emit(2)
    node.clock.advance(1)
    assert len(node.reported) == 2


def test_auth_of_an_older_version(node: Node) -> None:
    """Where auth takes no reports, events are sent as ever, and reports are retried seldom."""
    node.auth.refusal = NotFound("no such path")
    node.clock.advance(REPORT_SECONDS + 1)
    node.auth.refusal = None
    node.emit(1)
    node.clock.advance(1)
    assert len(node.auth.events) == 1
