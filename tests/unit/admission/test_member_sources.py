"""Addresses of members: what makes one known, and for how long."""

from __future__ import annotations

from twisted.internet.task import Clock

from tele.admission.limits import Limits
from tele.admission.member_sources import MEMBER_SOURCE_SECONDS, MemberSources
from tele.admission.penalties import Fault
from tele.conch.server.connection_admission import ConnectionAdmission, Refused

NAT = "192.0.2.1"


def test_a_source_is_forgotten_after_a_day() -> None:
    """A day after the last login of a member an address is forgotten."""
    member_sources = MemberSources()
    assert not member_sources.has(NAT, 0)
    member_sources.note(NAT, 0)
    member_sources.note(NAT, 100)
    assert member_sources.has(NAT, MEMBER_SOURCE_SECONDS)
    assert not member_sources.has("192.0.2.2", 0)
    assert not member_sources.has(NAT, MEMBER_SOURCE_SECONDS + 100)
    assert len(member_sources) == 0


def test_memory_is_bounded() -> None:
    """Of too many sources the one used least recently is forgotten."""
    member_sources = MemberSources(most=2)
    for at, host in enumerate(("192.0.2.1", "192.0.2.2", "192.0.2.1", "192.0.2.3")):
        member_sources.note(host, at)
    assert len(member_sources) == 2
    assert member_sources.has("192.0.2.1", 4)
    assert member_sources.has("192.0.2.3", 4)
    assert not member_sources.has("192.0.2.2", 4)


def test_ipv6_sources_are_networks() -> None:
    """Members of one /64 are one source, as for unauthenticated clients."""
    member_sources = MemberSources()
    member_sources.note("2001:db8::1", 0)
    assert member_sources.has("2001:db8::2", 0)
    assert not member_sources.has("2001:db8:0:1::1", 0)


def make_admission(per_source: int = 20, per_member: int = 50) -> tuple[Clock, ConnectionAdmission]:
    """An admission that refuses none by chance."""
    reports: list[Refused] = []
    clock = Clock()
    admission = ConnectionAdmission(
        clock,
        Limits(
            startups=(100, 0, 100),
            startups_per_source=per_source,
            startups_per_member=per_member,
        ),
        lambda: 0.99,
        lambda _: False,
        reports.append,
    )
    return clock, admission


def test_a_fleet_behind_one_address_reconnects_at_once() -> None:
    """From an address of a member many may log in at once, but not take all places."""
    _, admission = make_admission(per_source=2, per_member=50)
    first = admission.enter(NAT)
    assert first is not None
    assert admission.enter(NAT) is not None
    assert admission.enter(NAT) is None
    admission.member_entered(NAT)
    admission.leave(first)
    assert sum(admission.enter(NAT) is not None for _ in range(100)) == 49
    assert admission.enter("192.0.2.2") is not None
    admission.close()


def test_faults_from_a_members_address_are_not_penalized() -> None:
    """Faults from a member's address are not penalized; an address that is refused is admitted
    again once a member showed that it lives there.
    """
    clock, admission = make_admission()
    admission.penalize(NAT, Fault.CRASH)
    assert admission.enter(NAT) is None
    admission.member_entered(NAT)
    assert admission.enter(NAT) is not None
    for _ in range(100):
        admission.penalize(NAT, Fault.GRACE_EXCEEDED)
    assert admission.enter(NAT) is not None
    admission.penalize("192.0.2.2", Fault.CRASH)
    assert admission.enter("192.0.2.2") is None
    clock.advance(MEMBER_SOURCE_SECONDS)
    admission.penalize(NAT, Fault.CRASH)
    assert admission.enter(NAT) is None
    admission.close()
