"""Addresses of members: what makes one known, and for how long."""

from __future__ import annotations

from twisted.internet.task import Clock

from tele.admission.limits import Limits
from tele.admission.member_sources import MEMBER_SOURCE_SECONDS, MemberSources
from tele.admission.penalties import Fault
from tele.conch.server.connection_admission import ConnectionAdmission, Refused

NAT = "192.0.2.1"


def test_a_home_is_forgotten_after_a_day() -> None:
    """A day after the last login of a member an address is a stranger's again."""
    member_sources = MemberSources()
    assert not member_sources.has(NAT, 0)
    member_sources.note(NAT, 0)
    member_sources.note(NAT, 100)
    assert member_sources.has(NAT, MEMBER_SOURCE_SECONDS)
    assert not member_sources.has("192.0.2.2", 0)
    assert not member_sources.has(NAT, MEMBER_SOURCE_SECONDS + 100)
    assert len(member_sources) == 0


def test_memory_is_bounded() -> None:
    """Of too many homes the one that was used longest ago goes."""
    member_sources = MemberSources(most=2)
    for at, host in enumerate(("192.0.2.1", "192.0.2.2", "192.0.2.1", "192.0.2.3")):
        member_sources.note(host, at)
    assert len(member_sources) == 2
    assert member_sources.has("192.0.2.1", 4)
    assert member_sources.has("192.0.2.3", 4)
    assert not member_sources.has("192.0.2.2", 4)


def test_homes_of_ipv6_are_networks() -> None:
    """Members of one /64 are at one home, as strangers of it share a place."""
    member_sources = MemberSources()
    member_sources.note("2001:db8::1", 0)
    assert member_sources.has("2001:db8::2", 0)
    assert not member_sources.has("2001:db8:0:1::1", 0)


def make_door(per_source: int = 20, per_home: int = 50) -> tuple[Clock, ConnectionAdmission]:
    """A door that refuses nobody by chance."""
    heard: list[Refused] = []
    clock = Clock()
    door = ConnectionAdmission(
        clock,
        Limits(
            startups=(100, 0, 100),
            startups_per_source=per_source,
            startups_per_member=per_home,
        ),
        lambda: 0.99,
        lambda _: False,
        heard.append,
    )
    return clock, door


def test_a_fleet_behind_one_address_comes_back_together() -> None:
    """From where one member logged in, many may log in at once; not all that there is room for."""
    _, door = make_door(per_source=2, per_home=50)
    first = door.enter(NAT)
    assert first is not None
    assert door.enter(NAT) is not None
    assert door.enter(NAT) is None
    door.member_entered(NAT)
    door.leave(first)
    assert sum(door.enter(NAT) is not None for _ in range(100)) == 49
    assert door.enter("192.0.2.2") is not None
    door.close()


def test_a_bad_node_does_not_shut_out_its_neighbours() -> None:
    """Faults from a member's address shut nobody out; an address that is shut out is let in
    again once a member showed that it lives there.
    """
    clock, door = make_door()
    door.penalize(NAT, Fault.CRASH)
    assert door.enter(NAT) is None
    door.member_entered(NAT)
    assert door.enter(NAT) is not None
    for _ in range(100):
        door.penalize(NAT, Fault.GRACE_EXCEEDED)
    assert door.enter(NAT) is not None
    door.penalize("192.0.2.2", Fault.CRASH)
    assert door.enter("192.0.2.2") is None
    clock.advance(MEMBER_SOURCE_SECONDS)
    door.penalize(NAT, Fault.CRASH)
    assert door.enter(NAT) is None
    door.close()
