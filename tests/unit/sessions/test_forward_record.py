"""Which events of forwarded connections reach the audit."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from twisted.internet.task import Clock

from session_world import FakeAudit, context
from tele.errors import AccessDenied, TeleError
from tele.model.frame import FrameKind
from tele.sessions.forward_record import ACCEPTED_BURST, LISTENERS_BURST, ForwardRecords


def yes() -> bool:
    """Every connection is permitted."""
    return True


def test_connections_of_others_do_not_fill_the_audit() -> None:
    """Ten thousand connections to what listens make few events, and one says how many (attack)."""
    emitted = FakeAudit()
    clock = Clock()
    audit: Any = emitted
    records = ForwardRecords(clock, context(), audit, None)
    for number in range(10_000):
        record = records.begin("forwarded-tcpip", yes, accepted=True, bound="127.0.0.1:1")
        record.opened(number)
        record.closed(1, 2)
    assert len([n for n, _ in emitted.events if n == "forward"]) == ACCEPTED_BURST
    assert len([n for n, _ in emitted.events if n == "forward.end"]) == ACCEPTED_BURST
    clock.advance(10)
    records.begin("forwarded-tcpip", yes, accepted=True).refused(TeleError("gone"))
    assert emitted.events[-1][1]["others_not_listed"] == 10_000 - ACCEPTED_BURST
    # What the client opens itself is always an event.
    for number in range(1000):
        records.begin("direct-tcpip", yes).opened(number)
    assert [f["kind"] for _, f in emitted.events].count("direct-tcpip") == 1000


def test_channels_that_are_refused_do_not_fill_the_recording() -> None:
    """A target opens ten thousand more than it may: as few frames as events (attack)."""
    audit: Any = FakeAudit()
    frames: list[dict[str, Any]] = []
    tape: Any = SimpleNamespace(note=lambda *_, **fields: frames.append(fields))
    records = ForwardRecords(Clock(), context(), audit, tape)
    for _ in range(10_000):
        record = records.begin("forwarded-tcpip", yes, accepted=True, bound="localhost:2222")
        record.refused(TeleError("128 are forwarded already"))
    assert 0 < len(frames) <= ACCEPTED_BURST
    assert frames[0]["error"] == "128 are forwarded already"


def kept() -> tuple[ForwardRecords, FakeAudit, list[dict[str, Any]], Clock]:
    """Records, with the events and the frames that they make."""
    audit, clock = FakeAudit(), Clock()
    frames: list[dict[str, Any]] = []

    def note(_: int, frame: FrameKind, /, **fields: Any) -> None:
        frames.append({"frame": frame, **fields})

    tape: Any = SimpleNamespace(note=note, held=lambda _: None, number=0)
    given: Any = audit
    return ForwardRecords(clock, context(), given, tape), audit, frames, clock


@pytest.mark.parametrize("kind", ["forwarded-tcpip", "forwarded-streamlocal", "auth-agent", "x11"])
def test_connections_of_others_do_not_fill_the_recording(kind: str) -> None:
    """A target that opens and closes ten thousand channels leaves as many frames as events, which
    say how many are not listed (attack). What the client opens itself is always on the recording.
    """
    records, audit, frames, clock = kept()
    for number in range(10_000):
        record = records.begin(kind, yes, accepted=True, bound="localhost:2222")
        record.opened(number)
        record.closed(1, 2)
    assert len(frames) == len(audit.events) == 2 * ACCEPTED_BURST
    clock.advance(1)
    records.begin(kind, yes, accepted=True).opened(1)
    left_out = 10_000 - ACCEPTED_BURST
    assert frames[-1]["others_not_listed"] == left_out
    assert audit.events[-1][1]["others_not_listed"] == left_out
    for number in range(1000):
        records.begin("direct-tcpip", yes).opened(number)
    assert [f["frame"] for f in frames[-1000:]] == [FrameKind.OPEN] * 1000


def test_listeners_do_not_fill_the_audit() -> None:
    """A client that asks for listeners again and again, and cancels them or is refused, leaves few
    events and frames; each listener that is listed has its end (attack).
    """
    records, audit, frames, clock = kept()
    for number in range(10_000):
        fields = {"kind": "tcpip-forward", "bound": f"127.0.0.1:{number}"}
        records.listening("forward", **fields)
        records.stopped_listening("forward", **fields)
    names = [name for name, _ in audit.events]
    assert names.count("forward") == names.count("forward.end") == LISTENERS_BURST
    assert len(frames) == 2 * LISTENERS_BURST
    for _ in range(10_000):
        records.listening("agent", kind="auth-agent", error="not allowed")
    assert len(frames) == 2 * LISTENERS_BURST
    clock.advance(1)
    records.listening("agent", kind="auth-agent", error="not allowed")
    assert audit.events[-1][1]["others_not_listed"] == 20_000 - LISTENERS_BURST


def test_a_connection_that_is_being_made_ends_when_it_is_opened() -> None:
    """The grant changes while a target is connected to: nothing passes then, and the audit says
    why (attack).
    """
    records, audit, _, _ = kept()
    allowed = [True]
    record = records.begin("direct-tcpip", lambda: allowed[0], target="db1:5432")
    records.restrict({})
    allowed[0] = False
    records.restrict({})
    wait = record.opened(3)
    assert wait is not None
    refused: list[Any] = []
    wait.addErrback(refused.append)
    assert isinstance(refused[0].value, AccessDenied)
    record.closed(0, 0)
    assert "a role has changed" in audit.events[-1][1]["error"]
