"""Which events of forwarded connections reach the audit."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from twisted.internet.task import Clock

from session_world import FakeAudit, context
from tele.errors import TeleError
from tele.sessions.forward_record import ACCEPTED_BURST, ForwardRecords


def test_connections_of_others_do_not_fill_the_audit() -> None:
    """Ten thousand connections to what listens make few events, and one says how many (attack)."""
    emitted = FakeAudit()
    clock = Clock()
    audit: Any = emitted
    records = ForwardRecords(clock, context(), audit, None)
    for number in range(10_000):
        record = records.begin("forwarded-tcpip", accepted=True, bound="127.0.0.1:1")
        record.opened(number)
        record.closed(1, 2)
    assert len([n for n, _ in emitted.events if n == "forward"]) == ACCEPTED_BURST
    assert len([n for n, _ in emitted.events if n == "forward.end"]) == ACCEPTED_BURST
    clock.advance(10)
    records.begin("forwarded-tcpip", accepted=True).refused(TeleError("gone"))
    assert emitted.events[-1][1]["others_not_listed"] == 10_000 - ACCEPTED_BURST
    # What the client opens itself is always an event.
    for number in range(1000):
        records.begin("direct-tcpip").opened(number)
    assert [f["kind"] for _, f in emitted.events].count("direct-tcpip") == 1000


def test_channels_that_are_refused_do_not_fill_the_recording() -> None:
    """A target opens ten thousand more than it may: as few frames as events (attack)."""
    audit: Any = FakeAudit()
    frames: list[dict[str, Any]] = []
    tape: Any = SimpleNamespace(note=lambda *_, **fields: frames.append(fields))
    records = ForwardRecords(Clock(), context(), audit, tape)
    for _ in range(10_000):
        record = records.begin("forwarded-tcpip", accepted=True, bound="localhost:2222")
        record.refused(TeleError("128 are forwarded already"))
    assert 0 < len(frames) <= ACCEPTED_BURST
    assert frames[0]["error"] == "128 are forwarded already"
