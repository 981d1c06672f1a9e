"""Probes of hosts that do not announce themselves."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from attrs import evolve
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from tele.certs.certificate import FOREVER
from tele.errors import BadCertificate, Unavailable
from tele.model.identity import HostRole
from tele.model.presence import NEVER, Host, Mode, Status
from tele.proxy.terminating import probes
from tele.proxy.terminating.probes import LastingVerifier, Probed, Probes

SEEN = datetime(2026, 1, 1, tzinfo=UTC)


def host(number: int) -> Host:
    return Host(
        f"h-{number}", f"db{number}", HostRole.NODE, ("192.0.2.1:22",), {}, Mode.DIRECT,
        Status.OFFLINE, SEEN, sshd=True,
    )  # fmt: skip


class Fleet:
    """Hosts that answer as the test says, and auth, which takes reports."""

    def __init__(self, count: int) -> None:
        self.clock = Clock()
        self.hosts = [host(number) for number in range(count)]
        self.asked: list[str] = []
        self.waiting: dict[str, Deferred[None]] = {}
        self.reports: list[Sequence[Probed]] = []
        self.error: Exception | None = None
        self.dice = iter([number / max(count, 1) for number in range(count)] * 1000)
        self.probes = Probes(
            self.clock, lambda: self.hosts, self.check, self.report, lambda: next(self.dice)
        )

    async def check(self, host: Host) -> None:
        self.asked.append(host.id)
        waiting = self.waiting[host.id] = Deferred()
        await waiting

    async def report(self, found: Sequence[Probed]) -> None:
        if self.error is not None:
            raise self.error
        self.reports.append(found)

    def pass_time(self, seconds: float) -> None:
        for _ in range(int(seconds * 4)):
            self.clock.advance(0.25)

    @property
    def told(self) -> dict[str, str]:
        return {each.host_id: each.problem for found in self.reports for each in found}


def test_what_is_found_is_reported() -> None:
    """A host that proves itself is there; another one is not, with the reason."""
    fleet = Fleet(3)
    fleet.probes.start()
    fleet.pass_time(1)
    fleet.waiting["h-0"].callback(None)
    fleet.pass_time(10)
    fleet.waiting["h-1"].errback(BadCertificate("its authority is not of this cluster", "a"))
    fleet.pass_time(10)
    fleet.waiting["h-2"].errback(OSError("no route"))
    fleet.pass_time(3)
    assert fleet.told == {
        "h-0": "",
        "h-1": "its authority is not of this cluster",
        "h-2": "no route",
    }
    assert {each.address for found in fleet.reports for each in found} == {"192.0.2.1:22"}
    fleet.probes.stop()
    assert not fleet.clock.getDelayedCalls()


def test_one_that_does_not_answer_delays_no_other() -> None:
    """It is given up in time, and reported."""
    fleet = Fleet(1)
    fleet.probes.start()
    fleet.pass_time(probes.PROBE_SECONDS + probes.GATHER_SECONDS + 1)
    assert fleet.told == {"h-0": "it does not answer within 10 s"}
    fleet.probes.stop()
    assert not fleet.clock.getDelayedCalls()


def test_a_fleet_is_probed_bit_by_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Probes are spread over the period, and so many run at once at most."""
    monkeypatch.setattr(probes, "AT_ONCE", 4)
    fleet = Fleet(60)
    fleet.probes.start()
    fleet.pass_time(5)
    assert len(fleet.asked) == 4
    fleet.pass_time(120)
    assert len(fleet.told) > 20
    assert len(fleet.probes._running) <= 60 + 3  # one for each host, and the three loops
    fleet.probes.stop()
    assert not fleet.clock.getDelayedCalls()


def test_hosts_that_are_registered_later_are_probed() -> None:
    """The list is asked for in each period, and a removed host is probed no more."""
    fleet = Fleet(1)
    fleet.probes.start()
    fleet.pass_time(1)
    fleet.waiting["h-0"].callback(None)
    fleet.hosts = [host(7)]
    fleet.pass_time(probes.PERIOD_SECONDS + 1)
    assert fleet.asked == ["h-0", "h-7"]
    fleet.probes.stop()


def test_a_newly_registered_host_is_probed_at_once() -> None:
    """The administrator sees within seconds whether proxies reach it; then it is probed
    once in each period, as others are.
    """
    fleet = Fleet(1)
    fleet.probes.start()
    fleet.pass_time(4)
    fleet.waiting["h-0"].callback(None)
    fleet.hosts.append(evolve(host(7), last_seen=NEVER))
    fleet.pass_time(probes.NEW_HOSTS_SECONDS)
    assert fleet.asked == ["h-0", "h-7"]
    fleet.waiting["h-7"].errback(OSError("no route"))
    fleet.pass_time(probes.GATHER_SECONDS)
    assert fleet.told["h-7"] == "no route"
    fleet.pass_time(10)
    assert fleet.asked == ["h-0", "h-7"]
    fleet.probes.stop()
    assert not fleet.clock.getDelayedCalls()


def test_without_auth_probes_go_on() -> None:
    """What cannot be reported is left out: the next result follows."""
    fleet = Fleet(1)
    fleet.error = Unavailable("auth is away")
    fleet.probes.start()
    fleet.pass_time(1)
    fleet.waiting["h-0"].callback(None)
    fleet.pass_time(3)
    assert fleet.reports == []
    fleet.error = None
    fleet.pass_time(probes.PERIOD_SECONDS)
    fleet.waiting["h-0"].callback(None)
    fleet.pass_time(3)
    assert fleet.told == {"h-0": ""}
    fleet.probes.stop()


def test_a_problem_is_the_same_text_in_each_probe() -> None:
    """Why a certificate that has expired is refused does not name the present time, so that auth
    need not store it again; other reasons are as they are.
    """

    class Strict:
        reason = "validity"

        def verify(self, certificate: Any, at: datetime) -> Any:
            raise BadCertificate(f"here it is {at}", self.reason)

    strict = Strict()
    begin = int(SEEN.timestamp())
    shown: Any = SimpleNamespace(valid_after=begin, valid_before=begin + 60)
    texts = set()
    for number in range(3):
        with pytest.raises(BadCertificate, match="2026-01-01T00:01:00") as caught:
            LastingVerifier(strict).verify(shown, SEEN + timedelta(hours=number))
        texts.add(str(caught.value))
    assert len(texts) == 1
    shown.valid_before = FOREVER
    with pytest.raises(BadCertificate, match="to 9999"):
        LastingVerifier(strict).verify(shown, SEEN)
    strict.reason = "authority"
    with pytest.raises(BadCertificate, match="here it is"):
        LastingVerifier(strict).verify(shown, SEEN)
