"""Which sources are refused, for how long, and what remembering them costs."""

from __future__ import annotations

from ipaddress import ip_network

import pytest
from attrs import evolve

from tele.admission.penalties import LOOPBACK, Fault, Overflow, Penalties, PenaltyRules

HOST = "192.0.2.7"


def test_faults_add_up_and_pass() -> None:
    """Two refused logins are tolerated, the third is not, until the sum of them is over."""
    penalties = Penalties()
    assert not penalties.penalize(HOST, Fault.AUTHFAIL, 0.0)
    assert not penalties.penalize(HOST, Fault.AUTHFAIL, 0.0)
    assert penalties.refuses(HOST, 0.0) is None
    assert penalties.penalize(HOST, Fault.AUTHFAIL, 0.0)
    assert penalties.refuses(HOST, 0.0) is Fault.AUTHFAIL
    assert penalties.refuses(HOST, 14.9) is Fault.AUTHFAIL
    assert penalties.refuses(HOST, 15.0) is None
    assert penalties.refuses("192.0.2.8", 0.0) is None


def test_slow_faults_do_not_add_up() -> None:
    """One in ten seconds is what a forgetful user does."""
    penalties = Penalties()
    assert not any(penalties.penalize(HOST, Fault.AUTHFAIL, 10.0 * turn) for turn in range(100))


@pytest.mark.parametrize("fault", list(Fault))
def test_each_fault_has_its_seconds(fault: Fault) -> None:
    """What is configured for a fault is what it costs."""
    rules = PenaltyRules(refuseconnection=7.0, min=0.0)
    penalties = Penalties(rules)
    seconds = rules.seconds(fault)
    assert penalties.penalize(HOST, fault, 100.0)
    assert penalties.refuses(HOST, 100.0 + seconds - 0.01) is fault
    assert Penalties(rules).refuses(HOST, 0.0) is None
    assert seconds == {"crash": 90, "authfail": 5, "noauth": 1, "refuseconnection": 7}.get(
        fault.value, 10
    )


def test_no_seconds_is_no_penalty() -> None:
    """A fault that costs nothing is not even remembered."""
    penalties = Penalties(PenaltyRules(noauth=0.0, min=0.0))
    assert not penalties.penalize(HOST, Fault.NOAUTH, 0.0)
    assert len(penalties) == 0


def test_never_longer_than_the_most() -> None:
    """However many faults: after ``max`` seconds without one, the source is admitted again."""
    penalties = Penalties()
    for _ in range(1000):
        penalties.penalize(HOST, Fault.CRASH, 50.0)
    assert penalties.refuses(HOST, 50.0 + 599.9)
    assert penalties.refuses(HOST, 50.0 + 600.0) is None
    assert not penalties.penalize(HOST, Fault.NOAUTH, 700.0)
    assert len(penalties) == 1


def test_coming_while_shut_out_may_cost() -> None:
    """With ``refuseconnection`` an early connection extends the penalty."""
    penalties = Penalties(PenaltyRules(refuseconnection=10.0))
    penalties.penalize(HOST, Fault.CRASH, 0.0)
    assert penalties.refuses(HOST, 1.0)
    assert penalties.refuses(HOST, 95.0)


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1", "", "/run/socket", "proxy"]
)
def test_addresses_that_are_never_shut_out(host: str) -> None:
    """Loopback addresses and clients without an address, because many share that source."""
    penalties = Penalties()
    assert not any(penalties.penalize(host, Fault.CRASH, 0.0) for _ in range(10))
    assert penalties.refuses(host, 0.0) is None
    assert len(penalties) == 0


def test_exempt_networks() -> None:
    """An operator's own proxies and NATs are exempt."""
    penalties = Penalties(PenaltyRules(exempt=(*LOOPBACK, ip_network("192.0.2.0/29"))))
    assert not penalties.penalize(HOST, Fault.CRASH, 0.0)
    assert penalties.penalize("192.0.2.8", Fault.CRASH, 0.0)


def test_networks_are_one_source() -> None:
    """An IPv6 /64 is one source; mapped IPv4 addresses are the IPv4 addresses that they are."""
    penalties = Penalties()
    penalties.penalize("2001:db8:1:2::1%eth0", Fault.CRASH, 0.0)
    assert penalties.refuses("2001:db8:1:2:ffff::9", 0.0)
    assert penalties.refuses("2001:db8:1:3::1", 0.0) is None
    penalties.penalize("::ffff:192.0.2.7", Fault.CRASH, 0.0)
    assert penalties.refuses(HOST, 0.0)
    wide = Penalties(PenaltyRules(ipv4_bits=24))
    wide.penalize(HOST, Fault.CRASH, 0.0)
    assert wide.refuses("192.0.2.250", 0.0)


def flood(penalties: Penalties, count: int, now: float = 0.0) -> None:
    """Faults of as many sources."""
    for number in range(count):
        penalties.penalize(
            f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", Fault.CRASH, now
        )


@pytest.mark.parametrize("overflow", list(Overflow))
def test_memory_is_bounded(overflow: Overflow) -> None:
    """A botnet is remembered up to the limit, its ends too, and forgotten when it is over."""
    penalties = Penalties(PenaltyRules(max_sources=100, overflow=overflow))
    flood(penalties, 5000)
    flood(penalties, 5000, 1.0)
    assert len(penalties) == 100
    assert len(penalties._ends) <= 2 * 100 + 17
    for _ in range(10_000):
        penalties.penalize("10.0.0.1", Fault.NOAUTH, 2.0)
    assert len(penalties._ends) <= 2 * 100 + 17
    penalties.penalize(HOST, Fault.NOAUTH, 10_000.0)
    assert len(penalties) == 1


def test_overflow() -> None:
    """When full, ``permissive`` forgets the mildest and ``deny-all`` admits no new source."""
    rules = PenaltyRules(max_sources=3, overflow=Overflow.PERMISSIVE)
    for overflow in Overflow:
        penalties = Penalties(evolve(rules, overflow=overflow))
        penalties.penalize(HOST, Fault.CRASH, 0.0)
        penalties.penalize("192.0.2.8", Fault.GRACE_EXCEEDED, 0.0)
        penalties.penalize("192.0.2.9", Fault.CRASH, 0.0)
        penalties.penalize("192.0.2.10", Fault.CRASH, 0.0)
        denies = overflow is Overflow.DENY_ALL
        assert penalties.refuses(HOST, 1.0) is Fault.CRASH
        assert (penalties.refuses("192.0.2.10", 1.0) is Fault.CRASH) is not denies
        assert (penalties.refuses("203.0.113.1", 1.0) is not None) is denies
        assert penalties.refuses("127.0.0.1", 1.0) is None
        assert penalties.refuses("203.0.113.1", 10.0) is None, "one of them has passed"


def test_a_clock_that_goes_back() -> None:
    """A clock that is put right does not confuse the books."""
    penalties = Penalties(PenaltyRules(max_sources=2))
    for now in (1000.0, 10.0, 2000.0, 0.0):
        flood(penalties, 5, now)
    assert len(penalties) == 2
    flood(penalties, 5, 1e6)
    assert len(penalties) == 2
