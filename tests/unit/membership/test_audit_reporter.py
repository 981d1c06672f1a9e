"""Events that a member reports."""

from __future__ import annotations

from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

from tele.conch.server.connection_admission import DENIED_BURST, SOURCE_DENIED_BURST, Refused
from tele.conch.server.credentials import DeniedAttempt
from tele.membership.audit_reporter import TEXT_LIMIT, AuditReporter, cut
from tele.model.event import Event
from tele.model.identity import HostIdentity, HostRole
from tele.testing import SettableClock

HOST = HostIdentity("n-1", "web1", "example", HostRole.NODE, datetime(2027, 1, 1, tzinfo=UTC))


class World:
    """A member that records what it is to deliver."""

    def __init__(self) -> None:
        self.clock = SettableClock()
        self.events: list[Event] = []
        member: Any = SimpleNamespace(identity=SimpleNamespace(host=HOST), emit=self.events.append)
        self.reporter = AuditReporter(self.clock, member)

    def deny(self, source: str) -> None:
        self.reporter.denied(
            DeniedAttempt("root", (source, 4711), "publickey", "expired", "it has expired", "alice")
        )


def test_every_event_has_the_member_and_its_subject() -> None:
    """An event failed if it has an error."""
    world = World()
    subject: Any = SimpleNamespace(event_fields={"user": "alice", "remote_addr": "192.0.2.1:1"})
    world.reporter.emit("session.start", subject)
    world.reporter.emit("exec", subject, error="no such file", command="x")
    start, failed = world.events
    assert (start.cluster, start.server_id, start.server_name) == ("example", "n-1", "web1")
    assert (start.user, start.remote_addr, start.ok) == ("alice", "192.0.2.1:1", True)
    assert (failed.ok, failed.error, failed.fields["command"]) == (False, "no such file", "x")
    assert start.id != failed.id


def test_unauthenticated_clients_do_not_fill_the_audit() -> None:
    """Denied attempts have a rate, in all and for each source; the rest is counted (attack)."""
    world = World()
    for _ in range(100):
        world.deny("192.0.2.1")
    assert len(world.events) == SOURCE_DENIED_BURST
    for number in range(1000):
        world.deny(f"198.51.{number // 250}.{number % 250}")
    assert len(world.events) == DENIED_BURST
    world.clock.advance(60)
    world.deny("203.0.113.1")
    event = world.events[-1]
    assert event.fields["others_not_listed"] == 1000 - (DENIED_BURST - SOURCE_DENIED_BURST)
    assert (event.event, event.user, event.login) == ("auth.denied", "alice", "root")
    assert (event.fields["reason"], event.remote_addr) == ("expired", "203.0.113.1:4711")


def test_a_denial_is_never_ok() -> None:
    """Also where the checker of an embedder gives no reason."""
    world = World()
    address = ("192.0.2.1", 4711)
    world.reporter.denied(DeniedAttempt("root", address, "publickey", "checker", "", "eve"))
    (event,) = world.events
    assert (event.ok, event.error) == (False, "")


def test_refused_connections_are_one_event() -> None:
    """With their number, reasons and some of the sources."""
    world = World()
    world.reporter.refused(Refused(3, {"too_many": 3}, ("192.0.2.1",)))
    (event,) = world.events
    assert (event.event, event.ok, event.fields["count"]) == ("auth.refused", False, 3)
    assert (event.fields["why"], event.fields["sources"]) == ({"too_many": 3}, ["192.0.2.1"])


def test_texts_are_cut() -> None:
    """A text that is too long ends with its length; one that JSON cannot hold is escaped."""
    assert cut("x" * (TEXT_LIMIT + 5)).endswith(f"... ({TEXT_LIMIT + 5} characters)")
    assert cut("a\udc80") == "a\\udc80"
