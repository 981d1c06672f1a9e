"""The table of a rotation: in no reachable state does a part sign with what another refuses."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from attrs import evolve, frozen
from cryptography import x509
from OpenSSL import crypto

from tele.certs.keys import PrivateKey
from tele.certs.pins import pin
from tele.certs.rotation import (
    TABLE,
    Key,
    check_step,
    facts_of,
    facts_wanted,
    read_facts,
    signing_key,
)
from tele.certs.x509 import TlsKey, certify_successor, issue_tls, make_authority
from tele.errors import InvalidInput
from tele.model.authority import AuthorityKind, TrustedAuthority
from tele.model.identity import HostIdentity, HostRole
from tele.model.rotation import Phase, RotatingCa

NOW = datetime(2026, 11, 30, tzinfo=UTC)


@frozen
class Moment:
    """A phase, with the numbers of its keys."""

    phase: Phase
    old: int
    new: int

    def number(self, key: Key) -> int:
        return self.old if key is Key.OLD else self.new

    def signs(self, kind: AuthorityKind) -> int:
        return self.number(signing_key(self.phase, kind))

    @property
    def trusted(self) -> set[int]:
        return {self.number(key) for key in TABLE[self.phase].trusted}


def following(moment: Moment) -> Iterator[Moment]:
    for phase in TABLE[moment.phase].following:
        if phase is Phase.INIT:
            yield Moment(phase, moment.old, max(moment.old, moment.new) + 1)
        elif phase is Phase.STANDBY:
            kept = moment.old if moment.phase is Phase.ROLLBACK else moment.new
            yield Moment(phase, kept, max(moment.old, moment.new))
        else:
            yield evolve(moment, phase=phase)


def histories(length: int) -> Iterator[tuple[Moment, ...]]:
    """All histories of two rotations, with rollbacks from each phase."""
    waiting: list[tuple[Moment, ...]] = [(Moment(Phase.STANDBY, 0, 0),)]
    while waiting:
        history = waiting.pop()
        yield history
        if len(history) < length:
            waiting += [(*history, each) for each in following(history[-1])]


def refused(history: tuple[Moment, ...], lag: int) -> bool:
    """Whether one part, at most ``lag`` phases behind, refuses what another one presents."""
    views = history[-1 - lag :]
    return any(
        presenting.signs(kind) not in verifying.trusted
        for kind in AuthorityKind
        for presenting, verifying in itertools.product(views, views)
    )


def test_a_part_one_phase_behind_is_trusted_and_trusts() -> None:
    """Auth, its peers, hosts, and users who logged in a phase ago: in any pair, in any state."""
    assert {h[-1].phase for h in histories(10)} == set(Phase)
    assert not [h for h in histories(12) if refused(h, 1)]


def test_two_phases_behind_is_too_far() -> None:
    """The gate is needed, and the check above can fail."""
    assert [h for h in histories(8) if refused(h, 2)]


def test_each_rotation_can_be_rolled_back_until_it_ends() -> None:
    """From any phase in progress, and the old key stays."""
    progress = [p for p in Phase if p not in (Phase.STANDBY, Phase.ROLLBACK)]
    assert all(Phase.ROLLBACK in TABLE[phase].following for phase in progress)
    for history in histories(8):
        if len(history) > 1 and history[-2].phase is Phase.ROLLBACK:
            assert history[-1].old == history[-2].old


def test_a_step_that_does_not_follow_is_refused() -> None:
    """The error names what can."""
    with pytest.raises(InvalidInput, match="only init can"):
        check_step(RotatingCa.HOST, Phase.STANDBY, Phase.UPDATE_SERVERS)
    check_step(RotatingCa.HOST, Phase.STANDBY, Phase.INIT)


class Keys:
    """A host CA with one key after another."""

    def __init__(self) -> None:
        self.ssh = [PrivateKey.generate(), PrivateKey.generate()]
        self.tls = [TlsKey.generate(), TlsKey.generate()]
        self.certificates = [
            make_authority("c", AuthorityKind.HOST, key, NOW, os.urandom) for key in self.tls
        ]

    def trusted(self, *order: int) -> tuple[TrustedAuthority, ...]:
        pems = tuple(self.certificates[each] for each in order)
        lines = tuple(self.ssh[each].public.line for each in order)
        host = TrustedAuthority(AuthorityKind.HOST, lines, pems, tuple(map(pin, pems)))
        return host, evolve(host, kind=AuthorityKind.USER)


def test_a_host_reports_what_it_has() -> None:
    """It is behind while it lacks a key, or has a certificate of the one that signs no more."""
    keys = Keys()
    old = x509.load_pem_x509_certificate(keys.certificates[0].encode())  # it has signed itself
    new = x509.load_pem_x509_certificate(keys.certificates[1].encode())
    before, after = keys.trusted(0), keys.trusted(1, 0)
    lagging = facts_of(before, keys.ssh[0].public.blob, old)
    assert len(lagging.text) <= 64
    assert read_facts(lagging.text) == lagging
    wanted = facts_wanted(after)
    assert "does not trust" in lagging.behind(wanted, RotatingCa.HOST)
    informed = facts_of(after, keys.ssh[0].public.blob, old)
    assert not informed.behind(wanted, RotatingCa.USER)
    for ca in (RotatingCa.HOST, RotatingCa.TLS_HOST):
        assert "certificate" in informed.behind(wanted, ca)
        assert not facts_of(after, keys.ssh[1].public.blob, new).behind(wanted, ca)
    # The order is who signs: those who trust both need not be told twice.
    assert facts_wanted(keys.trusted(0, 1)).trusts == wanted.trusts


@pytest.mark.parametrize("text", ["", "2:a.b.c.d:e.f", "1:a.b:c", "1", "1:a.b.c.d:e.f.g", ":::"])
def test_other_reports_are_no_facts(text: str) -> None:
    """Hosts of older versions report nothing; a host may report anything."""
    assert read_facts(text) is None


def _accepts(trusted: str, leaf: str, *path: str) -> bool:
    """Whether OpenSSL finds a path from the CA ``trusted``."""
    store = crypto.X509Store()
    store.add_cert(crypto.X509.from_cryptography(x509.load_pem_x509_certificate(trusted.encode())))
    store.set_time(NOW.replace(tzinfo=None))
    sent = [
        crypto.X509.from_cryptography(x509.load_pem_x509_certificate(pem.encode()))
        for pem in (leaf, *path)
    ]
    try:
        crypto.X509StoreContext(store, sent[0], sent[1:]).verify_certificate()
    except crypto.X509StoreContextError:
        return False
    return True


def test_a_path_leads_from_each_old_key_to_the_present_one() -> None:
    """Over two rotations, and only forwards: the present key says nothing of an old one, and
    without one of the two certificates there is no path.
    """
    keys = [TlsKey.generate() for _ in range(3)]
    kind = AuthorityKind.HOST
    cas = [make_authority("c", kind, key, NOW, os.urandom) for key in keys]
    ends = NOW + timedelta(days=30)
    first, second = (
        certify_successor(cas[n], keys[n], cas[n + 1], NOW, ends, os.urandom) for n in (0, 1)
    )
    host = HostIdentity("11111111-1111-4111-8111-111111111111", "auth", "c", HostRole.AUTH, ends)
    public = TlsKey.generate().public_pem
    leaves = [
        issue_tls(ca, key, public, host, NOW, os.urandom) for ca, key in zip(cas, keys, strict=True)
    ]
    assert _accepts(cas[0], leaves[2], second, first)
    assert _accepts(cas[1], leaves[2], second, first)
    assert _accepts(cas[2], leaves[2], second, first)
    assert not _accepts(cas[0], leaves[2], second)
    assert not _accepts(cas[0], leaves[2], first)
    assert not _accepts(cas[0], leaves[2])
    for old in leaves[:2]:
        assert not _accepts(cas[2], old, second, first)


def test_a_key_certifies_none_of_another_name() -> None:
    """One of another cluster, or of users, is no successor."""
    key, other = TlsKey.generate(), TlsKey.generate()
    ours = make_authority("c", AuthorityKind.HOST, key, NOW, os.urandom)
    for cluster, kind in (("d", AuthorityKind.HOST), ("c", AuthorityKind.USER)):
        theirs = make_authority(cluster, kind, other, NOW, os.urandom)
        with pytest.raises(InvalidInput, match="same name"):
            certify_successor(ours, key, theirs, NOW, NOW + timedelta(days=1), os.urandom)
