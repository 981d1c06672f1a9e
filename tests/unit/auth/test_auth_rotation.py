"""Rotation at auth: phases, what holds them up, and what becomes of the keys."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from attrs import evolve
from cryptography import x509

from auth_world import HOST_ID, OTHER_ID, PROXY_ID, Tape, World, result
from tele.auth.authorities import Authorities, StoredAuthority
from tele.auth.local import ROTATION_LEASE
from tele.auth.regular_work import RegularWork
from tele.auth.retention import RetentionRules
from tele.auth.successions import LIMIT, away_of
from tele.certs.certificate import parse_certificate
from tele.certs.keys import parse_line
from tele.certs.rejoin import sign_rejoin
from tele.certs.rotation import Facts, facts_of, facts_wanted
from tele.errors import AccessDenied, Conflict, InvalidInput, Unavailable
from tele.loop import now
from tele.model.api import authorities as api
from tele.model.api import members, table
from tele.model.api.hosts import AddHost
from tele.model.api.operation import Nothing
from tele.model.api.tokens import NewToken
from tele.model.authority import AuthorityKind
from tele.model.cluster_settings import HostCertificates
from tele.model.codec import decode, encode
from tele.model.identity import Caller, HostRole
from tele.model.lifetimes import HOST_LIFETIME, REJOIN_LIMIT
from tele.model.presence import CLOCK, CLOCK_LIMIT, OFFLINE_AFTER, Presence
from tele.model.rotation import Phase, RotatingCa
from tele.rbac.revoking import LONGEST_CERTIFICATE

PROGRESS = (Phase.INIT, Phase.UPDATE_CLIENTS, Phase.UPDATE_SERVERS)
LONG = LONGEST_CERTIFICATE.total_seconds() + 1

AWAY = away_of(HostCertificates())


def rotate(world: World, phase: Phase, *cas: RotatingCa, force: bool = False) -> Any:
    return world.do(table.ROTATE, api.Rotate(phase, cas, force))


def look(world: World, ca: RotatingCa = RotatingCa.HOST) -> Any:
    found = world.do(table.ROTATION, Nothing())
    return next(item for item in found.items if item.ca is ca)


def facts(world: World, certificates: Any) -> Facts:
    """What a host has that has read the state now, with these certificates."""
    ssh = parse_certificate(parse_line(certificates.ssh))
    leaf = x509.load_pem_x509_certificates(certificates.tls.encode())[0]
    return facts_of(world.authorities.trusted, ssh.authority_key, leaf)


class Node:
    """A host of the world that follows, or does not."""

    def __init__(self, world: World, host_id: str = HOST_ID, name: str = "web1") -> None:
        self.world, self.id, self.name = world, host_id, name
        self.certificates = world.join(world.token(), host_id, name=name)
        self.keys = members.PublicKeys(world.ssh.public.line, _tls_public(self.certificates.tls))
        self.announce(facts(world, self.certificates).text)

    def announce(self, text: str) -> None:
        presence = Presence(self.name, HostRole.NODE, rotation=text)
        self.world.do(table.ANNOUNCE, presence, self.world.host(self.id))

    def follow(self) -> None:
        """Renew if another key signs, and report."""
        if any(facts(self.world, self.certificates).behind(self.wanted, ca) for ca in RotatingCa):
            request = members.RenewRequest(self.name, self.keys)
            self.certificates = self.world.do(table.RENEW, request, self.world.host(self.id))
        self.announce(facts(self.world, self.certificates).text)

    @property
    def wanted(self) -> Facts:
        return facts_wanted(self.world.authorities.trusted)


def _tls_public(pem: str) -> str:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    key = x509.load_pem_x509_certificates(pem.encode())[0].public_key()
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def signers(world: World) -> tuple[bytes, bytes]:
    """The keys that sign certificates of users and of hosts."""
    keys = world.authorities
    return keys[AuthorityKind.USER].ssh.public.blob, keys[AuthorityKind.HOST].ssh.public.blob


def through(world: World, *nodes: Node, phases: tuple[Phase, ...] = PROGRESS) -> None:
    for phase in phases:
        rotate(world, phase)
        for node in nodes:
            node.follow()
        world.clock.advance(LONG)
        for node in nodes:
            node.follow()


def test_users_are_signed_first_and_hosts_last(world: World) -> None:
    """Both keys are trusted from init on; at the end the new ones are, and the old retired."""
    node = Node(world)
    old = world.authorities.trusted
    old_user, old_host = signers(world)
    rotate(world, Phase.INIT)
    assert signers(world) == (old_user, old_host)
    for each in world.authorities.trusted:
        assert len(each.ssh_public_keys) == len(each.tls_certificates) == 2
    node.follow()
    rotate(world, Phase.UPDATE_CLIENTS)
    new_user, host = signers(world)
    assert (new_user, host) != (old_user, old_host)
    assert host == old_host
    node.follow()
    world.clock.advance(LONG)
    node.follow()
    rotate(world, Phase.UPDATE_SERVERS)
    new_host = signers(world)[1]
    assert new_host != old_host
    certificate = parse_certificate(parse_line(node.certificates.ssh))
    assert certificate.authority_key == old_host
    node.follow()
    certificate = parse_certificate(parse_line(node.certificates.ssh))
    assert certificate.authority_key == new_host
    rotate(world, Phase.STANDBY)
    for before, after in zip(old, world.authorities.trusted, strict=True):
        assert len(after.ssh_public_keys) == len(after.pins) == 1
        assert after.retired_ssh_keys == before.ssh_public_keys
        assert after.retired_pins == before.pins
    assert signers(world) == (new_user, new_host)
    phases = [(e.fields["ca"], e.fields["phase"]) for e in world.events("ca.rotate")]
    assert len(set(phases)) == len(phases) == 16


def test_one_ca_rotates_alone(world: World) -> None:
    """The keys of the others stay."""
    before = world.authorities.trusted
    rotate(world, Phase.INIT, RotatingCa.TLS_HOST)
    host, user = world.authorities.trusted
    assert (user, host.ssh_public_keys) == (before[1], before[0].ssh_public_keys)
    assert len(host.pins) == 2
    with pytest.raises(InvalidInput, match="the user CA is in phase standby"):
        rotate(world, Phase.UPDATE_CLIENTS, RotatingCa.USER, RotatingCa.TLS_HOST)
    rotate(world, Phase.UPDATE_CLIENTS)  # of those that rotate
    assert look(world, RotatingCa.TLS_HOST).phase is Phase.UPDATE_CLIENTS
    assert look(world).phase is Phase.STANDBY


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_a_rollback_keeps_the_old_keys(world: World, depth: int) -> None:
    """From each phase; hosts return to the old key before the new one is dropped."""
    node = Node(world)
    before, keys = signers(world), world.authorities.trusted
    through(world, node, phases=PROGRESS[:depth])
    rotate(world, Phase.ROLLBACK)
    assert signers(world) == before
    with pytest.raises(InvalidInput, match="only standby can"):
        rotate(world, Phase.UPDATE_CLIENTS)
    if depth == 3:
        with pytest.raises(Conflict, match="web1: its certificate is not signed by the present"):
            rotate(world, Phase.STANDBY)
    world.clock.advance(LONG)
    node.follow()
    rotate(world, Phase.STANDBY)
    after = world.authorities.trusted
    assert [a.ssh_public_keys for a in after] == [a.ssh_public_keys for a in keys]
    # What the new key may have signed meanwhile stays verifiable.
    assert [len(a.retired_ssh_keys) for a in after] == [int(depth > 1)] * 2
    rotate(world, Phase.INIT)


def test_a_phase_waits_for_all_hosts_that_are_online(world: World) -> None:
    """Who holds it up is named; one that is offline does so only where it would be lost."""
    first, _ = Node(world), Node(world, OTHER_ID, "web2")
    rotate(world, Phase.INIT)
    first.follow()
    with pytest.raises(Conflict, match="held up by web2: it does not trust the keys") as caught:
        rotate(world, Phase.UPDATE_CLIENTS)
    assert "web1" not in str(caught.value)
    assert look(world).phase is Phase.INIT
    world.clock.advance(OFFLINE_AFTER.total_seconds() + 1)
    first.follow()
    rotate(world, Phase.UPDATE_CLIENTS)
    (item,) = look(world).next[:1]
    assert [n.what for n in item.notices] == ["web2"]
    first.follow()
    world.clock.advance(LONG)
    first.follow()
    rotate(world, Phase.UPDATE_SERVERS)
    first.follow()
    world.clock.advance(LONG)
    first.follow()
    asked = api.Rotate(Phase.STANDBY, compromised=True)
    with pytest.raises(Conflict, match="held up by web2: it is offline since") as caught:
        world.do(table.ROTATE, asked)
    notices = look(world, RotatingCa.TLS_HOST).next[0].notices
    assert [(n.what, "only within 30d" in n.cost) for n in notices] == [("web2", True)]
    rotate(world, Phase.STANDBY)


def test_a_compromised_key_is_of_tls_host(world: World) -> None:
    """For another CA, and for a rollback, it would mean nothing, and is refused; it is in the
    event, and holds for the phases that follow.
    """
    for phase, cas in ((Phase.INIT, (RotatingCa.HOST,)), (Phase.ROLLBACK, (RotatingCa.TLS_HOST,))):
        with pytest.raises(InvalidInput, match="compromised: "):
            world.do(table.ROTATE, api.Rotate(phase, cas, compromised=True))
    world.do(table.ROTATE, api.Rotate(Phase.INIT, (RotatingCa.TLS_HOST,), compromised=True))
    assert world.events("ca.rotate")[-1].fields["compromised"] is True
    through(world, phases=PROGRESS[1:])
    assert not world.authorities.successions(now(world.clock))
    rotate(world, Phase.STANDBY)
    assert not world.authorities.successions(now(world.clock))


def test_what_old_keys_say_ends(world: World) -> None:
    """From the phase on in which the new key signs, a path leads from the old one to it; after a
    month there is none, and never more than a few keys are on it.
    """
    assert not world.authorities.successions(now(world.clock))
    through(world, phases=PROGRESS[:2])
    assert not world.authorities.successions(now(world.clock))
    (before,) = world.do(table.CLUSTER, Nothing()).authorities[0].tls_certificates[:1]
    rotate(world, Phase.UPDATE_SERVERS, force=True)
    assert [s.former for s in world.authorities.successions(now(world.clock))] == [before]
    rotate(world, Phase.STANDBY, force=True)
    assert world.do(table.CLUSTER, Nothing()).former == (before,)
    for _ in range(LIMIT + 1):
        rotate_all(world)
    found = world.authorities.successions(now(world.clock))
    assert len(found) == LIMIT
    assert before not in [s.former for s in found]
    world.clock.advance((HOST_LIFETIME + REJOIN_LIMIT).total_seconds() - 1)
    assert world.authorities.successions(now(world.clock)) == found
    world.clock.advance(1)
    assert not world.authorities.successions(now(world.clock))


def test_a_rolled_back_key_says_nothing(world: World) -> None:
    """The new key of a rotation that was rolled back is trusted by nobody who was away."""
    through(world)
    assert world.authorities.successions(now(world.clock))
    rotate(world, Phase.ROLLBACK)
    assert not world.authorities.successions(now(world.clock))
    rotate(world, Phase.STANDBY, force=True)
    assert not world.authorities.successions(now(world.clock))


def test_a_certificate_of_a_dropped_key_is_not_valid(world: World) -> None:
    """Its host rejoins at once, although auth took it for online a moment ago; one whose
    certificate is of the present key does not: it may be a copy of its disk.
    """
    node = Node(world)
    proof = sign_rejoin(world.ssh, "c", HOST_ID, HostRole.NODE, node.keys.ssh, node.keys.tls)
    request = members.RejoinRequest(HOST_ID, HostRole.NODE, node.keys, proof)
    world.clock.advance(60)
    for phase in (*PROGRESS, Phase.STANDBY):
        with pytest.raises(Unavailable, match="is online"):
            world.do(table.REJOIN, request, Caller(None, "192.0.2.1:1"))
        rotate(world, phase, force=True)
    world.do(table.REJOIN, request, Caller(None, "192.0.2.1:1"))
    with pytest.raises(Unavailable, match="is online"):
        world.do(table.REJOIN, request, Caller(None, "192.0.2.1:1"))


def test_a_host_that_cannot_report_holds_up(world: World) -> None:
    """One of an older version, and one that reports rubbish; force is in the event."""
    node = Node(world)
    rotate(world, Phase.INIT)
    for text in ("", "1:a.b.c.d:e.f", "\x00" * 64):
        node.announce(text)
        with pytest.raises(Conflict, match="held up by web1"):
            rotate(world, Phase.UPDATE_CLIENTS)
    (hold, *_) = look(world).next[0].holds
    assert "may refuse" in hold.cost
    rotate(world, Phase.UPDATE_CLIENTS, force=True)
    event = world.events("ca.rotate")[-1]
    assert (event.fields["forced"], event.fields["held_by"]) == (True, ["web1"])


def test_a_phase_waits_for_users(world: World) -> None:
    """Their known_hosts and certificates are of their login, and last as long as one can."""
    rotate(world, Phase.INIT)
    rotate(world, Phase.UPDATE_CLIENTS)
    with pytest.raises(Conflict, match="users: who logged in before"):
        rotate(world, Phase.UPDATE_SERVERS, RotatingCa.HOST)
    rotate(world, Phase.UPDATE_SERVERS, RotatingCa.USER, RotatingCa.TLS_USER)
    with pytest.raises(Conflict, match="users: with certificates from before"):
        rotate(world, Phase.STANDBY, RotatingCa.USER)
    world.clock.advance(LONG)
    rotate(world, Phase.UPDATE_SERVERS, RotatingCa.HOST, RotatingCa.TLS_HOST)
    rotate(world, Phase.STANDBY)


def test_clocks_and_ends_of_certificates_are_shown(world: World) -> None:
    """Of each member, as it has said and as auth knows; auth asks hosts that know of it. A host
    says nothing of others, and nothing impossible (attack).
    """
    node = Node(world)
    (row,) = world.do(table.ROTATION, Nothing()).hosts
    assert (row.clock_ahead, row.expires) == (None, node.certificates.expires)
    caller = world.host(node.id)
    presence = Presence(node.name, HostRole.NODE, features=(CLOCK,), clock_ahead=-7380)
    assert world.do(table.ANNOUNCE, presence, caller).wants_clock
    assert not world.do(table.ANNOUNCE, evolve(presence, features=()), caller).wants_clock
    (row,) = world.do(table.ROTATION, Nothing()).hosts
    assert row.clock_ahead == -7380
    for wrong in (CLOCK_LIMIT + 1, -CLOCK_LIMIT - 1):
        with pytest.raises(InvalidInput, match="clock_ahead"):
            world.do(table.ANNOUNCE, evolve(presence, clock_ahead=wrong), caller)


def test_a_step_from_an_old_state_changes_nothing(world: World) -> None:
    """Two administrators at once: one of them is told, and no key is made twice."""
    backend = world.backend
    other = result(Authorities.load(backend, "c", now(world.clock), os.urandom))
    rotate(world, Phase.INIT)
    stale = other.step([RotatingCa.HOST], Phase.INIT, now(world.clock), away=AWAY)
    with pytest.raises(Conflict):
        result(backend.commit(*stale))
    assert look(world).phase is Phase.INIT


def test_another_auth_follows(world: World) -> None:
    """All auths on one store sign with the same key; reprs and answers hold no private one."""
    other = result(Authorities.load(world.backend, "c", now(world.clock), os.urandom))
    result(other.follow())
    seen: list[int] = []
    other.on_change(lambda: seen.append(len(other.trusted[0].pins)))
    rotate(world, Phase.INIT)
    assert other.trusted == world.authorities.trusted
    assert seen
    rotate(world, Phase.UPDATE_CLIENTS)
    user = AuthorityKind.USER
    assert other[user].ssh.public == world.authorities[user].ssh.public
    assert "PRIVATE" not in repr([other[k] for k in AuthorityKind])
    assert b"PRIVATE" not in encode(world.do(table.ROTATION, Nothing()))
    other.stop()
    other.stop()


def test_old_records_are_read_and_written_as_before(world: World) -> None:
    """A cluster that never rotated has the record that an older auth reads."""
    stored = world.authorities[AuthorityKind.HOST].stored
    assert not {b"rotation", b"retired"} & set(encode(stored).replace(b'"', b"_").split(b"_"))
    assert decode(StoredAuthority, encode(stored)) == stored
    assert b"retired" not in encode(world.authorities.trusted[0])


def test_recordings_of_before_stay_verifiable(world: World) -> None:
    """A manifest that arrives after the end of a rotation is of the retired key, and accepted."""
    tape = Tape(world)
    rotate_all(world)
    tape.upload(0, 1)
    manifest = tape.manifest()
    tape.finish(manifest)
    signer = parse_certificate(parse_line(manifest.host_certificate)).authority_key
    trusted = world.authorities[AuthorityKind.HOST].trusted
    assert signer not in {parse_line(line) for line in trusted.ssh_public_keys}


def rotate_all(world: World) -> None:
    for phase in (*PROGRESS, Phase.STANDBY):
        rotate(world, phase, force=True)


def test_a_token_names_both_pins_meanwhile(world: World) -> None:
    """A host may join before auth's certificate is of the new key, or after."""
    assert world.do(table.ADD_TOKEN, NewToken((HostRole.NODE,))).other_ca_pins == ()
    rotate(world, Phase.INIT)
    made = world.do(table.ADD_TOKEN, NewToken((HostRole.NODE,)))
    assert (made.ca_pin, *made.other_ca_pins) == world.authorities[AuthorityKind.HOST].trusted.pins


def test_only_administrators_rotate(world: World) -> None:
    """Neither a user without a rule, nor a host, nor a proxy may read or begin a phase."""
    world.add_user("bob", "access")
    proxy = world.proxy()
    for caller in (world.user("bob", "access"), proxy, world.host(PROXY_ID)):
        for operation, request in (
            (table.ROTATION, Nothing()),
            (table.ROTATE, api.Rotate(Phase.INIT, (), True)),
        ):
            with pytest.raises(AccessDenied):
                world.do(operation, request, caller)
    assert look(world).phase is Phase.STANDBY


def test_machines_with_sshd_are_named(world: World) -> None:
    """They report nothing: their operator updates their files before the new key is used."""
    request = AddHost("db1", "192.0.2.5:22")
    world.do(table.ADD_HOST, request)
    rotate(world, Phase.INIT)
    with pytest.raises(Conflict, match="db1: it runs OpenSSH's sshd"):
        rotate(world, Phase.UPDATE_CLIENTS, RotatingCa.USER)
    rotate(world, Phase.UPDATE_CLIENTS, RotatingCa.HOST)
    world.clock.advance(timedelta(days=2).total_seconds())
    rotate(world, Phase.UPDATE_SERVERS, RotatingCa.HOST)
    with pytest.raises(Conflict, match="db1: it runs OpenSSH's sshd"):
        rotate(world, Phase.STANDBY, RotatingCa.HOST)


def hours(world: World, count: int, *nodes: Node) -> list[Phase]:
    """Let time pass; nodes follow a minute before auth looks. Returns the phases of the host CA."""
    phases = []
    for _ in range(count):
        world.clock.advance(3540)
        for node in nodes:
            node.follow()
        world.clock.advance(60)
        phases.append(look(world).phase)
    return phases


@pytest.fixture
def automatic(world: World) -> Iterator[World]:
    """A world that looks at rotations by itself."""
    work = at_work(world, "auth-1")
    yield world
    result(work.stop())
    result(work.stop())


def at_work(world: World, owner: str) -> RegularWork:
    """What begins phases in one auth of the store."""
    _, work = world.auth.regular_work(RetentionRules, world.backend, owner)
    work.start()
    return work


def test_an_automatic_rotation_ends_after_its_time(automatic: World) -> None:
    """Each phase has a third; no certificate of a user is refused meanwhile."""
    node = Node(automatic)
    old = automatic.authorities.trusted
    automatic.do(table.ROTATE, api.Rotate(Phase.INIT, grace=timedelta(hours=48)))
    assert look(automatic).automatic == now(automatic.clock) + timedelta(hours=16)
    phases = hours(automatic, 49, node)
    assert list(dict.fromkeys(phases)) == [*PROGRESS, Phase.STANDBY]
    assert [phases.count(each) for each in PROGRESS] == [15, 16, 16]
    assert all(
        a.ssh_public_keys != b.ssh_public_keys
        for a, b in zip(old, automatic.authorities.trusted, strict=True)
    )
    events = automatic.events("ca.rotate")
    assert [e.fields.get("automatic") for e in events] == [None] * 4 + [True] * 12
    assert all(e.ok for e in events)
    assert set(hours(automatic, 3, node)) == {Phase.STANDBY}


def test_an_automatic_rotation_that_is_held_up_goes_on_by_hand(automatic: World) -> None:
    """It waits for some hours, then there is an event that names the host, and no phase begins."""
    first, second = Node(automatic), Node(automatic, OTHER_ID, "web2")
    automatic.do(table.ROTATE, api.Rotate(Phase.INIT, grace=timedelta(hours=48)))
    second.announce("")
    assert set(hours(automatic, 15, first)) == {Phase.INIT}
    for _ in range(10 * 3600 // 80):  # both stay online
        first.announce(facts(automatic, first.certificates).text)
        second.announce("")
        automatic.clock.advance(80)
    assert look(automatic).phase is Phase.INIT
    assert look(automatic).automatic is None
    failed = [e for e in automatic.events("ca.rotate") if not e.ok]
    assert len(failed) == 4
    assert all("held up by web2" in e.error for e in failed)
    second.follow()
    first.follow()
    rotate(automatic, Phase.UPDATE_CLIENTS)


def test_a_hold_of_an_automatic_rotation_may_pass(automatic: World) -> None:
    """A host that follows within the patience, also from being offline, costs some hours alone."""
    node = Node(automatic)
    automatic.do(table.ROTATE, api.Rotate(Phase.INIT, grace=timedelta(hours=48)))
    for _ in range(18):
        automatic.clock.advance(3540)
        node.announce("")
        automatic.clock.advance(60)
    assert look(automatic).phase is Phase.INIT
    assert hours(automatic, 1, node) == [Phase.UPDATE_CLIENTS]


def test_a_call_ends_an_automatic_rotation(automatic: World) -> None:
    """A rollback, or any phase begun by hand: nothing happens by itself after it."""
    automatic.do(table.ROTATE, api.Rotate(Phase.INIT, grace=timedelta(hours=48)))
    rotate(automatic, Phase.ROLLBACK)
    assert set(hours(automatic, 60)) == {Phase.ROLLBACK}


def test_a_clock_that_was_set_forward_begins_no_phase(world: World) -> None:
    """By it certificates would seem to have expired that have not."""
    work = at_work(world, "auth-1")
    world.do(table.ROTATE, api.Rotate(Phase.INIT, grace=timedelta(hours=48)))
    world.clock.set_wall(90 * 3600)
    work.clock_was_set(90 * 3600)
    assert set(hours(world, 23)) == {Phase.INIT}
    result(work.stop())


def leader(world: World) -> bytes:
    """Which auth begins phases."""
    item = result(world.backend.get(ROTATION_LEASE))
    return b"" if item is None else item.value


def test_one_auth_begins_the_phases(world: World) -> None:
    """One of several on a store does, as long as it is there; then another one. While no CA rotates
    by itself nobody has the lease.
    """
    first, other = at_work(world, "auth-1"), at_work(world, "auth-2")
    hours(world, 2)
    assert leader(world) == b""
    world.do(table.ROTATE, api.Rotate(Phase.INIT, grace=timedelta(hours=48)))
    hours(world, 49)
    events = [e for e in world.events("ca.rotate") if e.fields.get("automatic")]
    assert len(events) == 12
    world.do(table.ROTATE, api.Rotate(Phase.INIT, grace=timedelta(hours=48)))
    hours(world, 1)
    assert leader(world) == b"auth-1"
    result(first.stop())
    world.clock.pump([30.0] * 8)
    assert leader(world) == b"auth-2"
    result(other.stop())


@pytest.mark.parametrize(
    ("phase", "length", "why"),
    [
        (Phase.INIT, timedelta(hours=44), "it has to be"),
        (Phase.INIT, timedelta(days=91), "it has to be"),
        (Phase.INIT, timedelta(0), "it has to be"),
        (Phase.ROLLBACK, timedelta(hours=48), "begins with init"),
    ],
)
def test_a_grace_time_that_cannot_be_is_refused(
    world: World, phase: Phase, length: timedelta, why: str
) -> None:
    """Too short for certificates of users, or of no beginning."""
    with pytest.raises(InvalidInput, match=why):
        world.do(table.ROTATE, api.Rotate(phase, grace=length))
    assert look(world).phase is Phase.STANDBY
