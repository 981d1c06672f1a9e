"""The host keys with which a proxy answers for targets."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta

import pytest
from attrs import evolve
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from tele.certs.issue import HostCertificateRequest, issue_host
from tele.certs.keys import PrivateKey, parse_line
from tele.errors import TeleError, Unavailable
from tele.loop import now
from tele.model.identity import HostRole
from tele.proxy.terminating import certificates
from tele.proxy.terminating.certificates import IssuedCertificate, TargetCertificates, TargetKey

HOUR = timedelta(hours=1)


class Authority:
    """Issues certificates of an hour, or fails; its answers may be held back."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.key = PrivateKey.generate()
        self.asked: list[str] = []
        self.away = False
        self.other_key: PrivateKey | None = None
        self.held: Deferred[None] | None = None

    async def issue(self, host_id: str, line: str) -> IssuedCertificate:
        self.asked.append(host_id)
        if self.held is not None:
            await self.held
        if self.away:
            raise Unavailable("auth is away")
        blob = parse_line(line) if self.other_key is None else self.other_key.public.blob
        request = HostCertificateRequest(host_id, "db", "c", HostRole.NODE)
        made = issue_host(self.key, blob, request, datetime.now(UTC), os.urandom)
        return IssuedCertificate(made.line, now(self.clock) + HOUR)


@pytest.fixture
def authority() -> Authority:
    """Auth, with a clock of its own."""
    return Authority(Clock())


@pytest.fixture
def targets(authority: Authority) -> TargetCertificates:
    """The keys of a proxy."""
    return TargetCertificates(authority.clock, authority.issue, PrivateKey.generate)


def get(targets: TargetCertificates, host_id: str = "h-1") -> list[TargetKey | TeleError]:
    """Ask for a key; the list gets it, or the error."""
    found: list[TargetKey | TeleError] = []
    asking = Deferred.fromCoroutine(targets.get(host_id))
    asking.addCallbacks(found.append, lambda failure: found.append(failure.value))
    return found


def key_of(targets: TargetCertificates, host_id: str = "h-1") -> TargetKey:
    (found,) = get(targets, host_id)
    assert isinstance(found, TargetKey)
    return found


def test_a_certificate_serves_many_connections(
    authority: Authority, targets: TargetCertificates
) -> None:
    """Auth is asked once for each target, and the key is certified as it is offered."""
    first = key_of(targets)
    assert key_of(targets) is first
    assert key_of(targets, "h-2") is not first
    assert authority.asked == ["h-1", "h-2"]
    keys = first.host_keys()
    assert keys.certificate is not None
    assert keys.certificate.key.blob == keys.private.public.blob


def test_auth_makes_the_keys_where_clients_accept_plain_ones(authority: Authority) -> None:
    """The change holds from the next connection on, both ways; a key that auth does not send is an
    error, and no other one is used. So does a key that replaces one.
    """
    made = PrivateKey.generate()
    plain: int | None = 0

    async def issue(host_id: str, line: str) -> IssuedCertificate:
        if line:
            return await authority.issue(host_id, line)
        issued = await authority.issue(host_id, made.public.line)
        return evolve(issued, private=None if authority.other_key else made)

    targets = TargetCertificates(authority.clock, issue, PrivateKey.generate, lambda: plain)
    assert key_of(targets).host_keys().private is made
    authority.clock.advance(3601)
    assert key_of(targets).host_keys().private is made
    plain = None
    own = key_of(targets).host_keys().private
    assert own is not made
    plain = 0
    assert key_of(targets).host_keys().private is made
    before, made, plain = made, PrivateKey.generate(), 1
    assert key_of(targets).host_keys().private is made is not before
    authority.other_key = PrivateKey.generate()
    (found,) = get(targets, "h-2")
    assert isinstance(found, Unavailable)
    assert "made no key" in str(found)


def test_many_clients_wait_for_one(authority: Authority, targets: TargetCertificates) -> None:
    """A crowd that arrives at once costs auth one certificate."""
    authority.held = Deferred()
    waiting = [get(targets) for _ in range(50)]
    assert not any(waiting)
    authority.held.callback(None)
    assert len({id(found) for (found,) in waiting}) == 1
    assert authority.asked == ["h-1"]


def test_it_is_renewed_in_time(authority: Authority, targets: TargetCertificates) -> None:
    """The present certificate serves while a new one is made, and the key stays."""
    before = key_of(targets).host_keys()
    authority.clock.advance(2401)
    authority.held = Deferred()
    assert key_of(targets).host_keys() is before
    authority.held.callback(None)
    after = key_of(targets).host_keys()
    assert after is not before
    assert after.private is before.private
    assert len(authority.asked) == 2


def test_without_auth_it_is_used_to_its_end(
    authority: Authority, targets: TargetCertificates
) -> None:
    """Auth is not asked for each connection meanwhile; after the end the reason is told."""
    before = key_of(targets).host_keys()
    authority.away = True
    authority.clock.advance(2401)
    for _ in range(10):
        assert key_of(targets).host_keys() is before
    assert len(authority.asked) == 2
    authority.clock.advance(certificates.AGAIN_SECONDS)
    assert key_of(targets).host_keys() is before
    assert len(authority.asked) == 3
    authority.clock.advance(1300)
    (error,) = get(targets)
    assert isinstance(error, Unavailable)
    assert "auth is away" in str(error)
    authority.away = False
    assert key_of(targets).host_keys() is not before


def test_another_key_is_not_used(authority: Authority, targets: TargetCertificates) -> None:
    """What is not a certificate of our key is refused, and asked for again."""
    authority.other_key = PrivateKey.generate()
    (error,) = get(targets)
    assert isinstance(error, Unavailable)
    assert "another key" in str(error)
    authority.other_key = None
    key_of(targets)


def test_what_is_kept_is_bounded(
    authority: Authority, targets: TargetCertificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The target that was used least lately goes; a connection of it keeps its key."""
    monkeypatch.setattr(certificates, "TARGETS_LIMIT", 2)
    first = key_of(targets, "h-1")
    key_of(targets, "h-2")
    key_of(targets, "h-1")
    key_of(targets, "h-3")
    assert len(targets) == 2
    assert key_of(targets, "h-1") is first
    assert authority.asked == ["h-1", "h-2", "h-3"]
    targets.forget("h-1")
    assert first.host_keys().certificate is not None


def test_a_rotation_replaces_certificates(authority: Authority) -> None:
    """One of a key that signs no more is renewed on use; one of a dropped key is not offered."""
    old, new = authority.key, PrivateKey.generate()
    trusted = [old.public.blob]
    targets = TargetCertificates(
        authority.clock, authority.issue, PrivateKey.generate, authorities=lambda: trusted
    )
    idle, used = key_of(targets, "h-1").host_keys(), key_of(targets, "h-2").host_keys()
    authority.key, trusted[:] = new, [new.public.blob, old.public.blob]
    assert key_of(targets, "h-2").host_keys() is not used  # renewed at once, as auth answers
    asked = len(authority.asked)
    key_of(targets, "h-2")
    assert len(authority.asked) == asked
    trusted[:] = [new.public.blob]
    authority.held = Deferred()
    waiting = get(targets, "h-1")
    assert not waiting
    authority.held.callback(None)
    (found,) = waiting
    assert isinstance(found, TargetKey)
    certificate = found.host_keys().certificate
    assert certificate is not None
    assert certificate.authority_key == new.public.blob
    assert found.host_keys() is not idle
