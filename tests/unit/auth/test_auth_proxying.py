"""What auth certifies for proxies that end users' SSH."""

from __future__ import annotations

import os
import uuid
from datetime import timedelta
from typing import Any

import pytest
from attrs import define, evolve

from auth_world import HOST_ID, OTHER_ID, PROXY_ID, World, result
from tele.audit.chain import event
from tele.auth.local import LocalAuthority
from tele.auth.proxied_sessions import LOGIN_PERIOD, LOGINS_BURST, START_GRACE
from tele.auth.target_keys import TargetKeys
from tele.certs.certificate import Certificate, parse_certificate
from tele.certs.check import check_host, check_member, check_user
from tele.certs.device import check_device, prove_device
from tele.certs.issue import UserCertificateRequest, issue_user
from tele.certs.key_sealing import KeySeal
from tele.certs.keys import PrivateKey, parse_line
from tele.certs.suites import SignatureSuite
from tele.certs.x509 import TlsKey
from tele.errors import (
    AccessDenied,
    BadCertificate,
    Conflict,
    NotFound,
    TeleError,
    Unavailable,
)
from tele.loop import now
from tele.model.api import audit, proxying, sessions, table
from tele.model.api.hosts import AddHost
from tele.model.api.locks import PutLock
from tele.model.api.members import PublicKeys
from tele.model.api.paging import ById
from tele.model.api.roles import PutRole
from tele.model.api.users import DeleteUser
from tele.model.authority import AuthorityKind
from tele.model.event import Event
from tele.model.identity import Caller, HostIdentity, HostRole
from tele.model.presence import Presence
from tele.model.recording_modes import ProxyLogin
from tele.model.resources import (
    Conditions,
    Lock,
    LockSpec,
    LockTarget,
    Metadata,
    RecordingMode,
    RecordingSettings,
    Role,
    RoleOptions,
    RoleSpec,
)
from tele.rbac.decision import locked
from tele.rbac.logins import is_login
from tele.store.memory import MemoryBackend
from tele.wire.fields import boolean, string
from tele.wire.key_agreement import exchange_hash, exchange_transcript

SESSION = "11111111-2222-4333-8444-555555555555"
ALGORITHM = b"ssh-ed25519-cert-v01@openssh.com"
EXCHANGE = b"x" * 32
THIRD_ID = "5b8b6f2e-6a0c-4c8e-9a53-2f7d5d2d9a44"


@define
class Alice:
    """A user with a certificate for root, who logs in at a proxy."""

    world: World
    key: PrivateKey
    certificate: Certificate
    #: The certificate of the proxy for the node.
    host_key: bytes = b""

    def request(
        self,
        exchange: bytes = EXCHANGE,
        *,
        method: bytes = b"publickey-hostbound-v00@openssh.com",
        host_key: bytes = b"",
        **words: Any,
    ) -> proxying.MintSession:
        signed = (
            b"\x32"
            + string(words.get("login", "root").encode())
            + string(b"ssh-connection")
            + string(method)
            + boolean(True)
            + string(ALGORITHM)
            + string(self.certificate.blob)
            + (string(host_key or self.host_key) if method.startswith(b"publickey-") else b"")
        )
        made = proxying.MintSession(
            session_id=SESSION,
            host_id=HOST_ID,
            login="root",
            certificate=self.certificate.line,
            exchange=exchange,
            request=signed,
            signature=self.key.sign(string(exchange) + signed, b"ssh-ed25519"),
            remote_addr="192.0.2.7:1",
            ssh_public_key=PrivateKey.generate().public.line,
        )
        return evolve(made, **words)


def set_mode(world: World, mode: RecordingMode) -> None:
    """Record sessions in a mode from now on."""
    set_recording(world, RecordingSettings(mode))


def set_recording(world: World, settings: RecordingSettings) -> None:
    """Record sessions like this from now on."""
    state: Any = world.parts.state
    for name in ("configured", "_recording"):
        if hasattr(state, name):
            setattr(state, name, settings)


@pytest.fixture
def proxy(world: World) -> Caller:
    """A proxy of a cluster whose sessions end at proxies, with a node."""
    set_mode(world, RecordingMode.PROXY)
    world.join(world.token())
    presence = Presence("web1", HostRole.NODE, ("192.0.2.1:3022",), {"env": "prod"})
    world.do(table.ANNOUNCE, presence, world.host())
    role = Role(Metadata("dev"), RoleSpec(Conditions(("root",), {"env": ("prod",)})))
    world.do(table.PUT_ROLE, PutRole("dev", role))
    return world.proxy()


@pytest.fixture
def alice(world: World, proxy: Caller) -> Alice:
    """A user who may log in to the node."""
    return issue(world, proxy)


def target(world: World, proxy: Caller, host_id: str = HOST_ID) -> Certificate:
    """The certificate with which a proxy answers for a host."""
    request = proxying.CertifyTarget(host_id, PrivateKey.generate().public.line)
    made: proxying.CertifiedKey = world.do(table.CERTIFY_TARGET, request, proxy)
    return parse_certificate(parse_line(made.certificate))


def issue(world: World, proxy: Caller, **words: Any) -> Alice:
    key = PrivateKey.generate()
    request = UserCertificateRequest(
        "alice", "c", ("root",), ("dev",), "s1", timedelta(hours=1), {"team": ("db",)},
        port_forwarding=True,
    )  # fmt: skip
    authority = world.authorities[AuthorityKind.USER].ssh
    moment = now(world.clock)
    made = issue_user(authority, key.public.blob, evolve(request, **words), moment, os.urandom)
    return Alice(world, key, made, target(world, proxy).blob)


def mint(world: World, proxy: Caller, request: proxying.MintSession) -> proxying.CertifiedKey:
    answer: proxying.CertifiedKey = world.do(table.MINT_SESSION, request, proxy)
    return answer


def users(world: World) -> set[bytes]:
    trusted = world.authorities[AuthorityKind.USER].trusted
    return {parse_line(key) for key in trusted.ssh_public_keys}


# -- sessions -------------------------------------------------------------------------
def test_one_login_is_certified(world: World, proxy: Caller, alice: Alice) -> None:
    """The certificate is for the user, one login and minutes, and names its session; who got it for
    whom is in the audit, and the session is the proxy's from now on.
    """
    world.clock.advance(600)
    request = alice.request()
    made = mint(world, proxy, request)
    certificate = parse_certificate(parse_line(made.certificate))
    assert certificate.key.blob == parse_line(request.ssh_public_key)
    assert made.expires == now(world.clock) + timedelta(minutes=5)
    checked = check_user(
        certificate, ALGORITHM, users(world), "root", "192.0.2.7", now(world.clock), "c"
    )
    assert checked.session == SESSION
    identity = checked.identity
    assert (identity.user, identity.logins, identity.roles) == ("alice", ("root",), ("dev",))
    assert (identity.login_session, identity.traits) == ("s1", {"team": ("db",)})
    assert checked.limits.port_forwarding
    assert not checked.limits.x11_forwarding
    event = world.events("cert.issue")[-1]
    assert (event.user, event.login, event.session_id) == ("alice", "root", SESSION)
    assert event.fields["kind"] == "session"
    assert event.fields["node"] == "web1"


def test_it_is_revoked_with_the_users_own(world: World, proxy: Caller, alice: Alice) -> None:
    """It counts as issued when the user's certificate was: a role that the user has lost, or got,
    since then is lost, or denies, with both.
    """
    world.clock.advance(600)
    made = mint(world, proxy, alice.request())
    checked = check_user(
        parse_certificate(parse_line(made.certificate)), ALGORITHM, users(world), "root", "",
        now(world.clock),
    )  # fmt: skip
    own = check_user(alice.certificate, ALGORITHM, users(world), "root", "", now(world.clock))
    assert checked.identity.issued == own.identity.issued


def test_a_lock_on_the_users_certificate_holds_for_it(
    world: World, proxy: Caller, alice: Alice
) -> None:
    """A node ends a session of a proxy that was taken over, which does not end it, when the user's
    own certificate is locked by its serial (attack).
    """
    made = mint(world, proxy, alice.request())
    certificate = parse_certificate(parse_line(made.certificate))
    checked = check_user(certificate, ALGORITHM, users(world), "root", "", now(world.clock))
    assert checked.serial == certificate.serial != alice.certificate.serial
    target = LockTarget(certificate=str(alice.certificate.serial))
    lock = Lock(Metadata("lost"), LockSpec(target))
    assert locked([lock], checked.identity, now(world.clock)) is lock


def test_it_does_not_outlive_the_users_own(world: World, proxy: Caller, alice: Alice) -> None:
    """A minute before the end it is valid for a minute; afterwards there is none."""
    world.clock.advance(3540)
    made = mint(world, proxy, alice.request())
    assert made.expires == now(world.clock) + timedelta(seconds=60)
    world.clock.advance(60)
    with pytest.raises(AccessDenied, match="expired"):
        mint(world, proxy, alice.request())


def test_what_is_withheld_stays_withheld(world: World, proxy: Caller) -> None:
    """Neither the proxy nor the host gets what the user's certificate does not permit."""
    forced = issue(world, proxy, force_command="date", port_forwarding=False, pty=False)
    made = mint(world, proxy, forced.request())
    checked = check_user(
        parse_certificate(parse_line(made.certificate)), ALGORITHM, users(world), "root", "",
        now(world.clock),
    )  # fmt: skip
    assert checked.force_command == "date"
    assert not checked.limits.port_forwarding
    assert not checked.limits.permit_pty


def test_a_session_is_registered_without_a_certificate(
    world: World, proxy: Caller, alice: Alice
) -> None:
    """A proxy that uses the user's own agent registers what it will report."""
    made = mint(world, proxy, alice.request(ssh_public_key=""))
    assert made.certificate == ""
    assert [e for e in world.events("cert.issue") if e.fields["kind"] == "session"] == []


def test_a_session_may_log_in_again(world: World, proxy: Caller, alice: Alice) -> None:
    """The host may restart while the client stays connected."""
    first, second = (mint(world, proxy, alice.request()) for _ in range(2))
    assert first.certificate != second.certificate


def report(world: World, proxy: Caller, name: str) -> None:
    """Report the start or the end of the session."""
    words = {"server_id": PROXY_ID, "user": "alice", "login": "root", "session_id": SESSION}
    made = event(name, str(uuid.uuid4()), now(world.clock), "c", **words)
    world.do(table.EMIT_EVENTS, audit.EmitEvents((made,)), proxy)


def sessions_certified(world: World) -> list[Event]:
    """The events of certificates for sessions."""
    return [each for each in world.events("cert.issue") if each.fields["kind"] == "session"]


def test_logins_of_a_session_have_a_limit(world: World, proxy: Caller, alice: Alice) -> None:
    """A proxy that was taken over gets a bounded number of certificates for one login of a user,
    and each is in the audit with session, host and number (attack).
    """
    for _ in range(LOGINS_BURST):
        mint(world, proxy, alice.request())
    with pytest.raises(AccessDenied, match="logged in to web1 20 times"):
        mint(world, proxy, alice.request())
    report(world, proxy, "session.start")
    world.clock.advance(LOGIN_PERIOD.total_seconds() * 2)
    for _ in range(2):
        mint(world, proxy, alice.request())
    with pytest.raises(AccessDenied):
        mint(world, proxy, alice.request())
    events = sessions_certified(world)
    assert sorted(each.fields["number"] for each in events) == list(range(1, 23))
    assert {(each.session_id, each.fields["node"]) for each in events} == {(SESSION, "web1")}
    denied = world.events("auth.denied")[-1]
    assert (denied.server_id, denied.fields["reason"]) == (PROXY_ID, "session")


@pytest.mark.parametrize("again", [False, True])
def test_after_its_end_a_session_logs_in_no_more(
    world: World, proxy: Caller, alice: Alice, again: bool
) -> None:
    """A proxy that was taken over later gets nothing for the sessions that were, not even when it
    reports that they began again (attack).
    """
    mint(world, proxy, alice.request())
    report(world, proxy, "session.start")
    report(world, proxy, "session.end")
    if again:
        report(world, proxy, "session.start")
    with pytest.raises(AccessDenied, match="has ended"):
        mint(world, proxy, alice.request())
    assert len(sessions_certified(world)) == 1


def test_a_session_that_is_not_listed_logs_in_no_more(
    world: World, proxy: Caller, alice: Alice
) -> None:
    """A proxy that gets certificates for longer than the event of a start may take shows the
    session to administrators, who can end it (attack).
    """
    mint(world, proxy, alice.request())
    world.clock.advance(START_GRACE.total_seconds())
    mint(world, proxy, alice.request())
    world.clock.advance(1)
    with pytest.raises(AccessDenied, match="does not run"):
        mint(world, proxy, alice.request())
    report(world, proxy, "session.start")
    mint(world, proxy, alice.request())
    lock = Lock(Metadata("stop"), LockSpec(LockTarget(session=SESSION)))
    world.do(table.PUT_LOCK, PutLock("stop", lock))
    with pytest.raises(AccessDenied, match="ended by"):
        mint(world, proxy, alice.request())


def test_a_session_that_its_proxy_does_not_report_logs_in_no_more(
    world: World, proxy: Caller, alice: Alice
) -> None:
    """A proxy that was started again has none of the sessions from before."""
    mint(world, proxy, alice.request())
    report(world, proxy, "session.start")
    world.clock.advance(START_GRACE.total_seconds() + 1)
    world.do(table.REPORT_SESSIONS, sessions.ReportSessions(now(world.clock)), proxy)
    with pytest.raises(AccessDenied, match="does not run"):
        mint(world, proxy, alice.request())


def test_a_proof_is_good_for_one_session(world: World, proxy: Caller, alice: Alice) -> None:
    """A proxy that was taken over turns one login into no second session, on this host or on
    another one, nor does another proxy (attack).
    """
    mint(world, proxy, alice.request())
    changed: tuple[dict[str, Any], ...] = (
        {"session_id": str(uuid.uuid4())},
        {"remote_addr": "192.0.2.8:1"},
    )
    for words in changed:
        with pytest.raises(Conflict):
            mint(world, proxy, alice.request(**words))
    mint(world, proxy, alice.request(b"y" * 32, session_id=str(uuid.uuid4())))


def test_a_proof_that_was_kept_back(world: World, proxy: Caller) -> None:
    """What a user has signed, and a proxy that was taken over has shown to no one, is good for as
    long as the proxy's certificate for the host, and no longer (attack).
    """
    alice = issue(world, proxy, lifetime=timedelta(hours=30))
    world.clock.advance(timedelta(hours=23).total_seconds())
    mint(world, proxy, alice.request())
    world.clock.advance(timedelta(hours=2).total_seconds())
    assert isinstance(proxy.identity, HostIdentity)
    renewed = evolve(proxy.identity, expires=now(world.clock) + timedelta(hours=24))
    with pytest.raises(AccessDenied, match="it has expired"):
        mint(
            world, evolve(proxy, identity=renewed),
            alice.request(b"y" * 32, session_id=str(uuid.uuid4())),
        )  # fmt: skip


@pytest.mark.parametrize("number", range(8))
def test_without_the_user_there_is_no_certificate(
    world: World, proxy: Caller, alice: Alice, number: int
) -> None:
    """A proxy that was taken over cannot log in as a user who is not there (attack)."""
    good = alice.request()
    other = issue(world, proxy)
    bad = (
        evolve(good, signature=b""),
        evolve(good, exchange=b"z" * 32),
        evolve(good, request=good.request[:-1]),
        evolve(good, login="admin"),
        evolve(good, certificate=other.certificate.line),
        evolve(good, certificate="x"),
        other.request(signature=good.signature),
        evolve(good, session_id="../x"),
    )[number]
    with pytest.raises(TeleError):
        mint(world, proxy, bad)
    assert [e for e in world.events("cert.issue") if e.fields["kind"] == "session"] == []


def test_a_login_elsewhere_is_no_login_to_the_host(
    world: World, proxy: Caller, alice: Alice
) -> None:
    """What a user signs to log in to the proxy itself, to another host, or through another proxy,
    is not used for this host; nor is what a client signs that does not say where (attack).
    """
    own = parse_certificate(parse_line(world.joined[PROXY_ID][0].ssh)).blob
    node = parse_certificate(parse_line(world.joined[HOST_ID][0].ssh)).blob
    world.join(world.token(), OTHER_ID, name="web2")
    web2 = Presence("web2", HostRole.NODE, ("192.0.2.2:3022",), {"env": "prod"})
    world.do(table.ANNOUNCE, web2, world.host(OTHER_ID))
    other_host = target(world, proxy, OTHER_ID).blob
    world.join(world.token((HostRole.PROXY,)), THIRD_ID, name="gate2", role=HostRole.PROXY)
    other_proxy = target(world, world.host(THIRD_ID, HostRole.PROXY)).blob
    plain = alice.key.public.blob
    for host_key in (own, node, other_host, other_proxy, plain):
        with pytest.raises(AccessDenied):
            mint(world, proxy, alice.request(host_key=host_key))
        with pytest.raises(AccessDenied):
            mint(world, proxy, unbound(alice, host_key))
    with pytest.raises(AccessDenied, match="a host key without a certificate"):
        mint(world, proxy, unbound(alice, plain))
    with pytest.raises(AccessDenied, match="transcript is of another"):
        mint(world, proxy, alice.request(method=b"publickey"))


def unbound(alice: Alice, host_key: bytes) -> proxying.MintSession:
    """A login of a client that does not name the host key, which it has seen."""
    rest = dict.fromkeys(("client_share", "server_share", "secret"), b"x")
    transcript = exchange_transcript(
        client_version=b"SSH-2.0-Go", server_version=b"SSH-2.0-x", client_kexinit=b"\x14",
        server_kexinit=b"\x14", host_key=host_key, **rest,
    )  # fmt: skip
    made = alice.request(exchange_hash(transcript), method=b"publickey")
    return evolve(made, transcript=transcript)


def test_a_login_that_names_no_host_key(world: World, proxy: Caller, alice: Alice) -> None:
    """What was hashed in the key exchange shows which host the client has seen: clients that do not
    bind their logins get in, too. The transcript is in no event.
    """
    mint(world, proxy, unbound(alice, alice.host_key))
    (made,) = sessions_certified(world)
    assert "transcript" not in made.fields


def plain_key(world: World, proxy: Caller, host_id: str = HOST_ID) -> bytes:
    """The key that auth makes for a proxy and a host."""
    made = world.do(table.CERTIFY_TARGET, proxying.CertifyTarget(host_id), proxy)
    key = PrivateKey.from_openssh(made.private_key).public
    assert parse_certificate(parse_line(made.certificate)).key.blob == key.blob
    assert "PRIVATE" not in repr(made)
    return key.blob


def test_a_client_that_has_seen_a_plain_key(world: World, proxy: Caller, alice: Alice) -> None:
    """With the key that auth has made for this proxy and host it gets in, whether it names the key
    or not; the key is the same whenever it is asked for, and no event has it.
    """
    set_recording(world, RecordingSettings(RecordingMode.PROXY, proxy_plain_keys=True))
    key = plain_key(world, proxy)
    assert plain_key(world, proxy) == key
    mint(world, proxy, unbound(alice, key))
    mint(world, proxy, alice.request(b"y" * 32, host_key=key, session_id=str(uuid.uuid4())))
    assert len(sessions_certified(world)) == 2
    assert all("PRIVATE" not in repr(event) for event in world.events("cert.issue"))


def test_attack_a_plain_key_of_another_host(world: World, proxy: Caller, alice: Alice) -> None:
    """A proxy that was taken over cannot use a login to one host for another, nor one to its own
    port, to a member, to another proxy or to any server outside: no key but the one that auth has
    made for this host and this proxy shows anything, whatever the proxy has had certified.
    """
    set_recording(world, RecordingSettings(RecordingMode.PROXY, proxy_plain_keys=True))
    world.join(world.token(), OTHER_ID, name="web2")
    web2 = Presence("web2", HostRole.NODE, ("192.0.2.2:3022",), {"env": "prod"})
    world.do(table.ANNOUNCE, web2, world.host(OTHER_ID))
    world.join(world.token((HostRole.PROXY,)), THIRD_ID, name="gate2", role=HostRole.PROXY)
    outside = PrivateKey.generate().public
    world.do(table.CERTIFY_TARGET, proxying.CertifyTarget(HOST_ID, outside.line), proxy)
    for host_key in (
        parse_certificate(parse_line(world.joined[PROXY_ID][0].ssh)).key.blob,
        parse_certificate(parse_line(world.joined[HOST_ID][0].ssh)).key.blob,
        plain_key(world, proxy, OTHER_ID),
        plain_key(world, world.host(THIRD_ID, HostRole.PROXY)),
        outside.blob,
    ):
        with pytest.raises(AccessDenied, match="a host key without a certificate"):
            mint(world, proxy, unbound(alice, host_key))
        with pytest.raises(AccessDenied, match="a host key without a certificate"):
            mint(world, proxy, alice.request(host_key=host_key))


def test_plain_keys_are_switched_on(world: World, proxy: Caller, alice: Alice) -> None:
    """By default auth makes no key, and takes none; switched off again it takes none, either."""
    with pytest.raises(AccessDenied, match="proxy_plain_keys"):
        plain_key(world, proxy)
    set_recording(world, RecordingSettings(RecordingMode.PROXY, proxy_plain_keys=True))
    key = plain_key(world, proxy)
    set_mode(world, RecordingMode.PROXY)
    with pytest.raises(AccessDenied, match="proxy_plain_keys"):
        mint(world, proxy, unbound(alice, key))


def test_keys_of_each_suite_are_made(world: World) -> None:
    """Also for a cluster in FIPS mode, or of RSA, whose keys are not derived; two clusters have
    other keys for the same ids.
    """
    made = set()
    for keys in (TargetKeys(world.backend), TargetKeys(MemoryBackend(world.clock))):
        for suite in SignatureSuite:
            key = result(keys.key(PROXY_ID, HOST_ID, suite, KeySeal()))
            assert key.public.type.decode() == suite.quick_key_type
            key.public.verify(key.sign(b"data"), b"data", {key.public.type})
            made.add(key.public.blob)
    assert len(made) == 2 * len(SignatureSuite)


def test_the_roles_of_now_decide(world: World, proxy: Caller, alice: Alice) -> None:
    """A login that no role allows any more is not certified."""
    role = Role(Metadata("dev"), RoleSpec(Conditions(("root",), {"env": ("test",)})))
    world.do(table.PUT_ROLE, PutRole("dev", role))
    with pytest.raises(AccessDenied, match="no role of alice"):
        mint(world, proxy, alice.request())


def test_a_minted_certificate_mints_nothing(world: World, proxy: Caller, alice: Alice) -> None:
    """What a proxy got for one login leads to no other one (attack)."""
    key = PrivateKey.generate()
    made = mint(world, proxy, alice.request(ssh_public_key=key.public.line))
    certificate = parse_certificate(parse_line(made.certificate))
    stolen = Alice(world, key, certificate, alice.host_key).request(
        b"y" * 32, session_id=str(uuid.uuid4())
    )
    with pytest.raises(AccessDenied, match="session of a proxy"):
        mint(world, proxy, stolen)


def test_only_the_proxy_of_the_session_asks(world: World, proxy: Caller, alice: Alice) -> None:
    """Neither a node nor a user gets such certificates."""
    for caller in (world.host(), world.user("alice", "dev"), Caller(None, "192.0.2.1:1")):
        with pytest.raises(TeleError):
            mint(world, caller, alice.request())
        target = proxying.CertifyTarget(HOST_ID, PrivateKey.generate().public.line)
        with pytest.raises(TeleError):
            world.do(table.CERTIFY_TARGET, target, caller)


@pytest.mark.parametrize("mode", [RecordingMode.NODE, RecordingMode.NODE_SYNC, RecordingMode.OFF])
def test_sessions_do_not_end_at_proxies_elsewhere(
    world: World, proxy: Caller, alice: Alice, mode: RecordingMode
) -> None:
    """While nodes record, a proxy that was taken over gets no certificates (attack)."""
    set_mode(world, mode)
    target = proxying.CertifyTarget(HOST_ID, PrivateKey.generate().public.line)
    for operation, request in (
        (table.MINT_SESSION, alice.request()),
        (table.CERTIFY_TARGET, target),
    ):
        with pytest.raises(AccessDenied, match="do not end at proxies"):
            world.do(operation, request, proxy)


# -- hosts ----------------------------------------------------------------------------
def test_a_proxy_answers_for_a_host(world: World, proxy: Caller) -> None:
    """Clients accept its key for the names of the host, and members for nothing: it is not the
    host's membership (attack).
    """
    key = PrivateKey.generate()
    request = proxying.CertifyTarget(HOST_ID, key.public.line)
    made = world.do(table.CERTIFY_TARGET, request, proxy)
    certificate = parse_certificate(parse_line(made.certificate))
    assert certificate.key.blob == key.public.blob
    trusted, moment = world.host_keys, now(world.clock)
    for name in ("web1.c", "web1", HOST_ID):
        assert check_host(certificate, trusted, (name,), moment).identity is None
    with pytest.raises(BadCertificate):
        check_host(certificate, trusted, ("proxy.c", PROXY_ID, "web2.c"), moment)
    for role in HostRole:
        with pytest.raises(BadCertificate):
            check_member(certificate, trusted, "c", (role,), moment)
    event = world.events("cert.issue")[-1]
    assert (event.fields["kind"], event.fields["name"]) == ("target", "web1")


def test_only_for_hosts_that_are_there(world: World, proxy: Caller) -> None:
    """Not for a proxy, an unknown host or one that was removed."""
    line = PrivateKey.generate().public.line
    for host_id in (PROXY_ID, str(uuid.uuid4()), ""):
        with pytest.raises(NotFound):
            world.do(table.CERTIFY_TARGET, proxying.CertifyTarget(host_id, line), proxy)
    world.do(table.DELETE_HOST, ById(HOST_ID))
    with pytest.raises(NotFound):
        world.do(table.CERTIFY_TARGET, proxying.CertifyTarget(HOST_ID, line), proxy)


def test_a_certificate_names_its_host(world: World, proxy: Caller, alice: Alice) -> None:
    """A node refuses one that is for another host, so that a proxy that was taken over cannot use a
    login of a user to one host for another one (attack).
    """
    made = mint(world, proxy, alice.request())
    certificate = parse_certificate(parse_line(made.certificate))
    assert certificate.principals == ("root",)
    assert certificate.extensions["tele-target"] == HOST_ID.encode()
    assert certificate.extensions["tele-proxy"] == PROXY_ID.encode()


def test_a_machine_with_sshd(world: World, proxy: Caller) -> None:
    """The proxy answers for all of its names; what it logs in with has a principal for this machine
    alone, which no user's certificate can have.
    """
    world.next_id = THIRD_ID
    names = ("db.example.org",)
    world.do(table.ADD_HOST, AddHost("legacy", "10.0.0.9:22", {"env": "prod"}, names))
    answers = target(world, proxy, THIRD_ID)
    assert {"legacy.c", "legacy", "db.example.org", THIRD_ID} <= set(answers.principals)
    alice = issue(world, proxy)
    made = mint(world, proxy, alice.request(host_id=THIRD_ID, host_key=answers.blob))
    certificate = parse_certificate(parse_line(made.certificate))
    assert certificate.principals == ("root", "session:root@legacy")
    assert not is_login("session:root@legacy")
    world.do(table.DELETE_HOST, ById("legacy"))
    with pytest.raises(NotFound):
        mint(world, proxy, alice.request(host_id=THIRD_ID, host_key=answers.blob))


def test_agents_log_in_and_no_proxies(world: World, proxy: Caller) -> None:
    """Where users log in with their own agents, a proxy that was taken over gets no certificates;
    it registers sessions (attack).
    """
    world.next_id = THIRD_ID
    world.do(table.ADD_HOST, AddHost("legacy", "10.0.0.9:22", {"env": "prod"}))
    blob, alice = target(world, proxy, THIRD_ID).blob, issue(world, proxy)
    set_recording(world, RecordingSettings(RecordingMode.PROXY, proxy_login=ProxyLogin.AGENT))
    request = alice.request(host_id=THIRD_ID, host_key=blob)
    with pytest.raises(AccessDenied, match="with their agents"):
        mint(world, proxy, request)
    assert mint(world, proxy, evolve(request, ssh_public_key="")).certificate == ""
    # Nodes accept no user's certificate while proxies record.
    own = issue(world, proxy)
    assert mint(world, proxy, own.request(b"y" * 32, session_id=THIRD_ID)).certificate


def test_a_command_that_a_role_forces_is_in_the_certificate(world: World, proxy: Caller) -> None:
    """An sshd knows no roles; it runs what the certificate forces, whatever the proxy asks for."""
    alice = issue(world, proxy)
    spec = RoleSpec(
        Conditions(("root",), {"env": ("prod",)}), options=RoleOptions(force_command="uptime")
    )
    world.do(table.PUT_ROLE, PutRole("dev", Role(Metadata("dev"), spec)))
    made = mint(world, proxy, alice.request())
    certificate = parse_certificate(parse_line(made.certificate))
    assert certificate.critical["force-command"] == b"uptime"
    assert "permit-port-forwarding" not in certificate.extensions


def test_one_user_begins_so_many_sessions(
    world: World, proxy: Caller, alice: Alice, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One who begins session after session uses up what the proxy may ask for in the name of
    others (attack).
    """
    monkeypatch.setattr("tele.auth.operations.proxying.USER_BURST", 3.0)
    auth = LocalAuthority(world.parts, world.clock)

    def ask(request: proxying.MintSession) -> None:
        result(auth.handle(table.MINT_SESSION, request, proxy))

    for _ in range(3):
        ask(alice.request())
    with pytest.raises(Unavailable, match="alice begins too many"):
        ask(alice.request())
    ask(issue(world, proxy, user="bob").request(b"y" * 32, session_id=str(uuid.uuid4())))


def test_what_a_proxy_got_is_no_device_of_the_user(
    world: World, proxy: Caller, alice: Alice
) -> None:
    """It does not exempt a proxy that was taken over from delays for wrong passwords (attack)."""
    key = PrivateKey.generate()
    made = mint(world, proxy, alice.request(ssh_public_key=key.public.line))
    keys = PublicKeys(key.public.line, TlsKey.generate().public_pem)
    for line, private in ((alice.certificate.line, alice.key), (made.certificate, key)):
        signature = prove_device(private, "alice", keys)
        trusted: dict[str, Any] = {"trusted": users(world), "cluster": "c", "remote_addr": ""}
        if private is alice.key:
            check_device(line, signature, "alice", keys, **trusted, now=now(world.clock))
        else:
            with pytest.raises(BadCertificate, match="proxy's"):
                check_device(line, signature, "alice", keys, **trusted, now=now(world.clock))


@pytest.mark.parametrize("what", ["user", "login", "role", "login_session", "host_id", "removed"])
def test_a_user_without_access_gets_no_session(
    world: World, proxy: Caller, alice: Alice, what: str
) -> None:
    """A proof that is valid gives nothing to a user who is locked or removed, in whatever way, nor
    does a proxy that was taken over (attack).
    """
    world.add_user("alice", "dev")
    if what == "removed":
        world.clock.advance(60)
        world.do(table.DELETE_USER, DeleteUser("alice"))
    else:
        targets = {
            "user": "alice", "login": "root", "role": "dev",
            "login_session": "11111111-2222-4333-8444-555555555556", "host_id": HOST_ID,
        }  # fmt: skip
        if what == "login_session":
            alice = issue(world, proxy, login_session=targets[what])
        lock = Lock(Metadata("stop"), LockSpec(LockTarget(**{what: targets[what]})))
        world.do(table.PUT_LOCK, PutLock("stop", lock))
    with pytest.raises(AccessDenied):
        mint(world, proxy, alice.request())
    assert [e for e in world.events("cert.issue") if e.fields["kind"] == "session"] == []
    denied = world.events("auth.denied")[-1]
    assert (denied.server_id, denied.fields["operation"]) == (PROXY_ID, "mint_session")
