"""What was done to Conch's own server, done to ours (S1 to S16 of the attack list)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from attrs import evolve
from twisted.internet.defer import Deferred
from twisted.internet.testing import StringTransport
from twisted.logger import ILogObserver, LogEvent, globalLogPublisher
from zope.interface import implementer

from channel_ends import ChannelWorld
from conch_world import ConchWorld
from flooder import Flooder, open_of
from ssh_attacker import Attacker, numbers, request
from tele.admission.limits import Limits
from tele.certs.keys import PrivateKey
from tele.conch.server.userauth import HOSTBOUND
from tele.conch.transport.refusal import Refusal
from tele.errors import AccessDenied
from tele.log import event_text
from tele.testing.ssh import START, Address, World
from tele.wire import numbers as n
from tele.wire.fields import Reader, boolean, string, uint32

ED25519_CERT = b"ssh-ed25519-cert-v01@openssh.com"


@pytest.fixture(params=[World, ConchWorld])
def world(request: pytest.FixtureRequest) -> World:
    """A server of ours, and one of a Conch program on our classes."""
    made: World = request.param()
    return made


@pytest.fixture
def attacker(world: World) -> Attacker:
    return Attacker(world)


@pytest.fixture
def logged() -> Iterator[list[str]]:
    """Everything that is logged, formatted as a text log would."""
    lines: list[str] = []

    @implementer(ILogObserver)
    def observe(event: LogEvent) -> None:
        lines.append(event_text(event))
        json.dumps(lines[-1])

    globalLogPublisher.addObserver(observe)
    yield lines
    globalLogPublisher.removeObserver(observe)


# -- S1: peer text is never a format ---------------------------------------------------
HOSTILE = "{log_source.transport.loseConnection()} {0} %s \r\n\x1b[2Jforged line"


def test_s1_hostile_algorithm_name(attacker: Attacker, logged: list[str]) -> None:
    """An algorithm name with a format string in it is refused as any other, and runs nothing."""
    attacker.ready_to_login()
    for name in (HOSTILE.encode(), b"\xff\xfe", b"{" * 200):
        attacker.send(attacker.query(name, b"blob"))
    assert numbers(attacker.receive()) == [n.USERAUTH_FAILURE] * 3
    assert not attacker.disconnected
    assert not any("\x1b" in line or "\n" in line for line in logged)


@pytest.mark.parametrize("where", ["login", "service", "method", "version", "disconnect"])
def test_s1_hostile_texts_anywhere(
    world: World, attacker: Attacker, logged: list[str], where: str
) -> None:
    """Peer texts reach log and audit only quoted."""
    text = HOSTILE.encode()
    if where == "version":
        attacker.raw(b"SSH-2.0-{log_source}\x1b\r\n")
    else:
        attacker.ready_to_login()
        message = {
            "login": request(text, b"password", boolean(False) + string(b"x")),
            "service": bytes((n.USERAUTH_REQUEST,))
            + string(b"root")
            + string(text)
            + string(b"none"),
            "method": request(b"root", text),
            "disconnect": bytes((n.DISCONNECT, 0, 0, 0, 11)) + string(text) + string(b""),
        }[where]
        attacker.send(message)
    assert not any("\x1b" in line or "\n" in line for line in logged)
    assert all(denied.message.isprintable() for denied in world.denied)


# -- S2: no compression ----------------------------------------------------------------
def test_s2_no_compression(attacker: Attacker) -> None:
    """Nothing but ``none`` is offered, so no packet is ever inflated."""
    attacker.greet()
    kexinit = next(m for m in attacker.receive() if m[0] == n.KEXINIT)
    assert b"zlib" not in kexinit


# -- S3: nothing before its time -------------------------------------------------------
@pytest.mark.parametrize(
    "number", [n.IGNORE, n.DEBUG, n.UNIMPLEMENTED, n.SERVICE_REQUEST, n.USERAUTH_REQUEST, 90, 192]
)
def test_s3_plaintext_messages_before_keys(attacker: Attacker, number: int) -> None:
    """A message before the first KEXINIT, or in the first exchange, ends the connection."""
    attacker.greet()
    attacker.send(bytes((number,)) + string(b"ssh-userauth"), attacker.kexinit().payload)
    assert numbers(attacker.receive()) == [n.KEXINIT, n.DISCONNECT]
    late = Attacker(attacker.world)
    late.greet()
    late.send(late.kexinit().payload, bytes((number,)) + string(b"ssh-userauth"))
    assert numbers(late.receive()) == [n.KEXINIT, n.DISCONNECT]


def test_s3_no_channels_before_login(attacker: Attacker, world: World) -> None:
    """A channel cannot be opened before, or instead of, authentication."""
    attacker.exchange()
    attacker.send(bytes((n.CHANNEL_OPEN,)) + string(b"session") + bytes(12))
    assert attacker.disconnected
    other = Attacker(world)
    other.ready_to_login()
    other.send(bytes((n.CHANNEL_DATA,)) + bytes(4) + string(b"x"))
    assert other.disconnected
    assert not world.services


def test_s3_sequence_numbers_start_again(world: World) -> None:
    """With strict key exchange both sequence numbers are 0 after NEWKEYS; without, they go on."""
    for strict in (True, False):
        attacker = Attacker(world, strict=strict)
        attacker.ready_to_login()
        # After NEWKEYS the server got SERVICE_REQUEST, and sent EXT_INFO and SERVICE_ACCEPT.
        assert attacker.server.incoming.opener.sequence == (1 if strict else 4)
        assert attacker.server.outgoing.sealer.sequence == (2 if strict else 5)


def test_s3_no_rekey_before_login(attacker: Attacker) -> None:
    """An unauthenticated client gets one key exchange."""
    attacker.exchange()
    attacker.send(attacker.kexinit().payload)
    assert attacker.disconnected


# -- S4: limits hold, whatever is pipelined --------------------------------------------
def test_s4_nothing_is_dispatched_after_the_end(world: World, attacker: Attacker) -> None:
    """Sixty attempts in one segment: six are checked, and a good one after them is not."""
    attacker.ready_to_login()
    wrong = request(b"root", b"password", boolean(False) + string(b"guess"))
    attacker.send(*[wrong] * 59, attacker.login_request())
    assert numbers(attacker.receive()) == [n.USERAUTH_FAILURE] * 5 + [n.DISCONNECT]
    assert len(world.denied) == 6
    assert not world.realm.calls
    attacker.send(attacker.login_request())
    assert not attacker.receive()


def test_s4_signed_attempts_are_counted(world: World, attacker: Attacker) -> None:
    """Six bad signatures end the connection."""
    attacker.ready_to_login()
    bad = bytearray(attacker.login_request())
    bad[-1] ^= 1
    attacker.send(*[bytes(bad)] * 10)
    assert numbers(attacker.receive()) == [n.USERAUTH_FAILURE] * 5 + [n.DISCONNECT]
    assert {denied.reason for denied in world.denied} == {"signature"}


# -- S7: authenticated once ------------------------------------------------------------
def test_s7_no_second_authentication(world: World, attacker: Attacker) -> None:
    """A service request after login ends the connection; the user is logged out, once."""
    attacker.login()
    assert world.realm.calls == [("login", "root")]
    attacker.send(bytes((n.SERVICE_REQUEST,)) + string(b"ssh-userauth"))
    assert attacker.disconnected
    attacker.server.connectionLost()
    attacker.server.connectionLost()
    assert world.realm.calls == [("login", "root"), ("logout", "root")]
    assert world.services[0].calls == [("started",), ("stopped",)]


def test_s7_late_requests_are_ignored(world: World, attacker: Attacker) -> None:
    """A request after success is ignored, as RFC 4252 says; the realm is not called again."""
    attacker.ready_to_login()
    attacker.send(attacker.login_request(), attacker.login_request())
    assert numbers(attacker.receive()) == [n.USERAUTH_SUCCESS]
    assert world.realm.calls == [("login", "root")]
    assert [call[0] for call in world.services[0].calls] == ["started"]


@pytest.mark.parametrize("name", [b"ssh-connection", b"shell", b"\xff", b""])
def test_s7_only_one_service(attacker: Attacker, name: bytes) -> None:
    """No service but authentication can be requested."""
    attacker.exchange()
    attacker.send(bytes((n.SERVICE_REQUEST,)) + string(name))
    assert attacker.disconnected


@pytest.mark.parametrize("world", [World], indirect=True)
def test_s7_the_service_is_requested_again(world: World, attacker: Attacker) -> None:
    """Some clients request it before each key: it is the same one, and its counts continue."""
    attacker.ready_to_login()
    again = bytes((n.SERVICE_REQUEST,)) + string(b"ssh-userauth")
    attacker.send(again, *[request(b"root", b"none")] * 15, again)
    assert numbers(attacker.receive()) == [
        n.SERVICE_ACCEPT, *[n.USERAUTH_FAILURE] * 15, n.SERVICE_ACCEPT,
    ]  # fmt: skip
    attacker.send(*[request(b"root", b"none")] * 6)
    assert numbers(attacker.receive()) == [*[n.USERAUTH_FAILURE] * 5, n.DISCONNECT]


# -- S8: questions are checked and counted ---------------------------------------------
@pytest.mark.parametrize("world", [World], indirect=True)  # Conch's checker accepts all
def test_s8_questions_get_real_checks(world: World, attacker: Attacker) -> None:
    """PK_OK is sent for an acceptable certificate, and for nothing else."""
    attacker.ready_to_login()
    good = world.certify().blob
    expired = world.certify(now=START - timedelta(hours=2)).blob
    client = world.certify(authority=PrivateKey.generate()).blob
    attacker.send(
        attacker.query(ED25519_CERT, good),
        attacker.query(ED25519_CERT, expired),
        attacker.query(ED25519_CERT, client),
        attacker.query(b"ssh-ed25519", world.user_key.public.blob),
        attacker.query(ED25519_CERT, good, b"nobody"),
    )
    expected = [n.USERAUTH_PK_OK, n.USERAUTH_BANNER] + [n.USERAUTH_FAILURE] * 4
    assert numbers(attacker.receive()) == expected  # the banner has the dates of the expired one
    assert [denied.reason for denied in world.denied] == ["validity", "principal"]
    assert not world.realm.calls


@pytest.mark.parametrize("world", [World], indirect=True)  # Conch's checker accepts all
@pytest.mark.parametrize(
    ("kind", "most"),
    [("none", 20), ("good", 20), ("plain", 128), ("foreign", 128), ("signed", 128)],
)
def test_s8_questions_are_counted(world: World, kind: str, most: int) -> None:
    """Twenty questions, and 128 keys of other places, for which nothing is verified: that is it."""
    attacker = Attacker(world)
    attacker.ready_to_login()
    question = {
        "none": request(b"root", b"none"),
        "plain": attacker.query(b"ssh-ed25519", world.user_key.public.blob),
        "good": attacker.query(ED25519_CERT, world.certify().blob),
        "foreign": attacker.query(
            ED25519_CERT, world.certify(authority=PrivateKey.generate()).blob
        ),
        "signed": attacker.login_request(
            evolve(world.identity(), certificate=world.certify(authority=PrivateKey.generate()))
        ),
    }[kind]
    attacker.send(*[question] * 150)
    answers = attacker.receive()
    assert len(answers) == most + 1
    assert answers[-1][0] == n.DISCONNECT
    assert (b"IdentitiesOnly=yes" in answers[-1]) == (most == 128)
    attacker.server.connectionLost()
    reasons = {
        "none": ["no_certificate"], "plain": ["not_a_certificate"], "good": [],
        "foreign": ["authority"], "signed": ["authority"],
    }[kind]  # fmt: skip
    assert [d.reason for d in world.denied] == reasons


@pytest.mark.parametrize("world", [World], indirect=True)
def test_s8_a_client_that_offers_all_its_keys_gets_advice(world: World, attacker: Attacker) -> None:
    """Refused attempts after keys of other places end with a message that names both."""
    attacker.ready_to_login()
    plain = attacker.query(b"ssh-ed25519", world.user_key.public.blob)
    expired = attacker.query(ED25519_CERT, world.certify(now=START - timedelta(hours=2)).blob)
    attacker.send(*[plain] * 30, *[expired] * 6)
    reply = attacker.receive()[-1]
    assert reply[0] == n.DISCONNECT
    for words in (b"6 attempts were refused", b"30 keys", b"IdentitiesOnly=yes"):
        assert words in reply


# -- S9: one request at a time ---------------------------------------------------------
def test_s9_pipelined_requests_wait_for_the_decision(world: World, attacker: Attacker) -> None:
    """While the realm decides no request is dispatched; then the first success ends it all."""
    decision: Deferred[Any] = Deferred()
    held: list[Any] = []

    def decide(credentials: Any) -> Deferred[Any]:
        held.append(credentials)
        return decision

    world.realm.answer = decide
    attacker.ready_to_login()
    attacker.send(
        attacker.login_request(world.identity("alice")),
        attacker.login_request(world.identity("root")),
        bytes((n.CHANNEL_OPEN,)) + string(b"session") + bytes(12),
    )
    attacker.send(request(b"root", b"none"))
    assert attacker.receive() == []
    assert [credentials.login for credentials in held] == ["alice"]
    assert attacker.transport.producerState == "paused"
    decision.callback(world.realm.admit(held[0]))
    assert numbers(attacker.receive()) == [n.USERAUTH_SUCCESS]
    assert attacker.server.avatar.credentials.login == "alice"
    assert [call[0] for call in world.services[0].calls] == ["started", "packet"]
    assert world.realm.calls == [("login", "alice")]
    assert attacker.transport.producerState == "producing"


def test_s9_decision_after_the_end(world: World, attacker: Attacker) -> None:
    """A login that succeeds after the disconnect is logged out at once."""
    decision: Deferred[Any] = Deferred()
    held: list[Any] = []

    def decide(credentials: Any) -> Deferred[Any]:
        held.append(credentials)
        return decision

    world.realm.answer = decide
    attacker.ready_to_login()
    attacker.send(attacker.login_request())
    attacker.server.connectionLost()
    decision.callback(world.realm.admit(held[0]))
    assert world.realm.calls == [("login", "root"), ("logout", "root")]
    assert not world.services


def test_s9_a_flood_while_deciding_is_bounded(world: World, attacker: Attacker) -> None:
    """A transport that continues to deliver while messages are held is disconnected."""
    world.realm.answer = lambda credentials: Deferred()
    attacker.ready_to_login()
    attacker.send(attacker.login_request())
    for _ in range(64):
        attacker.raw(bytes(1 << 16))
    assert attacker.disconnected


# -- S10: packets ----------------------------------------------------------------------
@pytest.mark.parametrize("length", [0, 1, 4, 11, 35001, 35004, 1 << 20, 0xFFFFFFFF])
def test_s10_lengths(attacker: Attacker, length: int) -> None:
    """A length that no packet can have ends the connection at once, before and after keys."""
    attacker.greet()
    attacker.raw(length.to_bytes(4, "big"))
    assert attacker.disconnected
    late = Attacker(attacker.world)
    late.exchange()
    late.raw(length.to_bytes(4, "big"))
    assert late.disconnected


@pytest.mark.parametrize("padding", [0, 3, 12, 255])
def test_s10_padding(attacker: Attacker, padding: int) -> None:
    """Padding that leaves no payload, or is too short, ends the connection."""
    attacker.greet()
    attacker.raw((12).to_bytes(4, "big") + bytes((padding,)) + bytes(11))
    assert attacker.disconnected


def test_s10_no_weak_algorithm_is_offered(attacker: Attacker) -> None:
    """No CBC, no MAC-then-anything, no SHA-1, no finite field groups, no DSA, no NIST curves."""
    attacker.greet()
    kexinit = next(m for m in attacker.receive() if m[0] == n.KEXINIT)
    for weak in (
        b"cbc",
        b"md5",
        b"sha1",
        b"group",
        b"dss",
        b"rsa,",
        b"3des",
        b"nistp",
        b"arcfour",
        b"umac",
    ):
        assert weak not in kexinit
    assert b"chacha" not in kexinit
    assert kexinit.count(b"hmac") == kexinit.count(b"-etm@openssh.com") > 0
    reader = Reader(kexinit[17:])
    reader.name_list()
    assert reader.name_list() == (ED25519_CERT, b"ssh-ed25519")


def test_s10_short_strings_are_not_read_past_their_end(attacker: Attacker) -> None:
    """A field that announces more than there is ends the connection."""
    attacker.ready_to_login()
    attacker.send(bytes((n.USERAUTH_REQUEST,)) + b"\0\0\xff\xffroot")
    assert numbers(attacker.receive()) == [n.DISCONNECT]


def test_s10_hostile_shares(world: World) -> None:
    """A point of small order, or a share of a wrong size, ends the exchange."""
    for share in (bytes(32), b"", b"x" * 31, b"x" * 3000):
        attacker = Attacker(world)
        attacker.greet()
        attacker.send(attacker.kexinit().payload)
        attacker.receive()
        attacker.send(bytes((n.KEX_INIT,)) + string(share))
        assert numbers(attacker.receive()) == [n.DISCONNECT]


# -- S11: hostile packets do not flood the log -----------------------------------------
def test_s11_one_line_per_connection(attacker: Attacker, logged: list[str]) -> None:
    """Garbage ends the connection with one short line and no traceback."""
    attacker.ready_to_login()
    before = len(logged)
    attacker.send(*[bytes((n.USERAUTH_REQUEST,)) + b"\xff" * 30000] * 20)
    mine = [line for line in logged[before:] if "disconnecting" not in line]
    assert len(mine) == 1
    assert len(mine[0]) < 400
    assert "Traceback" not in mine[0]


def test_s11_unexpected_data_are_not_logged(logged: list[str]) -> None:
    """Data for a channel that has no use for them leave no trace in the log, at any level."""
    flooder = Flooder(ChannelWorld())
    flooder.login()
    flooder.send(open_of(b"session", 0))
    before = len(logged)
    flooder.send(
        bytes((n.CHANNEL_EXTENDED_DATA,)) + uint32(0) + uint32(7) + string(b"secret"),
        bytes((n.CHANNEL_DATA,)) + uint32(0) + string(b"secret"),
    )
    assert logged[before:] == []


# -- S14, S15, S16: what is disclosed --------------------------------------------------
def test_s14_all_refusals_are_alike(world: World, attacker: Attacker) -> None:
    """A refused certificate gets the same answer, whatever is wrong with it; only of one that the
    authority signed, the dates are sent if they are wrong.
    """
    attacker.ready_to_login()
    expired = world.identity(now=START - timedelta(days=1))
    body, changed = expired.certificate.blob, bytearray(expired.certificate.blob)
    changed[body.index(b"alice")] ^= 1
    for identity in (
        world.identity("nobody"),
        world.identity(authority=PrivateKey.generate()),
        world.identity(cluster="other"),
    ):
        attacker.send(attacker.login_request(identity))
    attacker.send(attacker.query(ED25519_CERT, bytes(changed)))  # names the authority, unsigned
    answers = attacker.receive()
    assert len(answers) == 4
    assert len(set(answers)) == 1
    attacker.send(attacker.query(ED25519_CERT, body))
    banner, answer = attacker.receive()
    assert banner[0] == n.USERAUTH_BANNER
    assert b"it has expired" in banner
    assert answer == answers[0]


def test_s15_the_realms_reason_is_sent_after_a_proof(world: World, attacker: Attacker) -> None:
    """After the signature, and only then, the user reads why; control characters show."""

    def deny(credentials: Any) -> Any:
        raise AccessDenied("role \x1b[31mdev\x07 lacks root", "login")

    world.realm.answer = deny
    attacker.ready_to_login()
    attacker.send(attacker.query(ED25519_CERT, world.certify().blob))
    assert numbers(attacker.receive()) == [n.USERAUTH_PK_OK]
    attacker.send(attacker.login_request())
    banner, failure = attacker.receive()
    assert Reader(banner[1:]).text() == "role \\x1b[31mdev\\x07 lacks root\r\n"
    assert failure[0] == n.USERAUTH_FAILURE
    assert [(d.reason, d.key_id) for d in world.denied] == [("login", "alice")]


def test_s15_version_line_names_no_library(attacker: Attacker) -> None:
    """The version line does not name Twisted."""
    assert attacker.transport.value().startswith(b"SSH-2.0-OpenSSH_tele_")
    assert b"Twisted" not in attacker.transport.value()


def test_s16_disconnect_does_not_echo(attacker: Attacker) -> None:
    """The text of a DISCONNECT is short, printable, and quotes the peer's text."""
    attacker.exchange()
    attacker.send(bytes((n.SERVICE_REQUEST,)) + string(b"\x1b[2J" * 5000))
    reader = Reader(attacker.receive()[-1][1:])
    assert reader.uint32() == n.SERVICE_NOT_AVAILABLE
    text = reader.text()
    assert len(text) <= 256
    assert text.isprintable()


# -- time, and numbers of clients ------------------------------------------------------
@pytest.mark.parametrize("progress", ["nothing", "version", "keys", "service"])
def test_grace_time(world: World, attacker: Attacker, progress: str) -> None:
    """A client that has not authenticated after the grace time is disconnected."""
    {
        "nothing": lambda: None,
        "version": attacker.greet,
        "keys": attacker.exchange,
        "service": attacker.ready_to_login,
    }[progress]()
    world.clock.advance(world.limits.login_grace - 0.1)
    assert not attacker.disconnected
    world.clock.advance(0.1)
    assert attacker.disconnected


def test_nothing_is_timed_after_login(world: World, attacker: Attacker) -> None:
    """An authenticated connection has no timer of its own."""
    attacker.login()
    assert not world.clock.getDelayedCalls()


def test_a_client_that_does_not_read_our_disconnect_is_cut_off(
    world: World, attacker: Attacker
) -> None:
    """After a DISCONNECT the socket lives on for a few seconds at most."""
    attacker.greet()
    attacker.raw(b"\xff" * 4)
    assert attacker.disconnected
    assert not attacker.transport.disconnected
    world.clock.advance(world.limits.linger)
    assert not world.clock.getDelayedCalls()


def test_messages_before_login_are_counted(attacker: Attacker) -> None:
    """Even harmless messages come to an end before login."""
    attacker.exchange()
    attacker.send(*[bytes((n.IGNORE,)) + string(b"")] * 200)
    assert numbers(attacker.receive()) == [n.DISCONNECT]


def test_version_line_is_bounded(attacker: Attacker) -> None:
    """A version line that does not end is not waited for."""
    attacker.raw(b"SSH-2.0-" + b"x" * 300)
    assert attacker.disconnected


def test_too_many_unauthenticated_connections(world: World) -> None:
    """At the limit of unauthenticated connections new ones get the reason and are closed:
    a message that OpenSSH shows; a flood of them is not answered at all.
    """
    limits = Limits(startups=(2, 50, 4), startups_per_source=3)
    crowded = World(limits=limits)
    protocols = [crowded.factory.buildProtocol(Address(host=f"198.51.100.{i}")) for i in range(9)]
    inside = [p for p in protocols if not isinstance(p, Refusal)]
    assert len(inside) == 4  # each is alone: none is refused by chance
    inside[0].makeConnection(StringTransport())
    inside[0].connectionLost()
    assert not isinstance(crowded.factory.buildProtocol(Address(host="203.0.113.1")), Refusal)
    refusal: Any = next(p for p in protocols if isinstance(p, Refusal))
    refusal.makeConnection(transport := StringTransport())
    line, _, packet = transport.value().partition(b"\r\n")
    assert line.startswith(b"SSH-2.0-")
    reader = Reader(packet[5 : 4 + int.from_bytes(packet[:4], "big") - packet[4] + 1])
    assert (reader.byte(), reader.uint32()) == (n.DISCONNECT, n.TOO_MANY_CONNECTIONS)
    assert b"too many unauthenticated connections" in reader.string()
    assert len(packet) % 8 == 0
    assert transport.disconnecting
    hosts = [f"192.0.2.{number}" for number in range(200)]
    flood = [crowded.factory.buildProtocol(Address(host=host)) for host in hosts]
    assert None in flood


def test_the_oldest_are_closed_when_all_places_are_taken() -> None:
    """Many sources with one connection each shut out no other source: of the source that
    has most, or of all that have one, the oldest that has not logged in ends (attack).
    """
    world = World(limits=Limits(startups=(2, 100, 4)))

    def come(host: str) -> Any:
        protocol = world.factory.buildProtocol(Address(host=host))
        if protocol is not None:
            protocol.makeConnection(StringTransport())
        return protocol

    held = [come(f"198.51.100.{number}") for number in range(4)]
    assert all(held)
    newcomer = come("203.0.113.1")
    assert newcomer is not None
    assert [each.transport.disconnecting for each in held] == [True, False, False, False]
    assert come("203.0.113.1").incoming.held  # a source with a place gets no other's
    crowded = World(limits=Limits(startups=(4, 100, 4)))
    world = crowded
    first, second, third = come("198.51.100.1"), come("198.51.100.2"), come("198.51.100.2")
    assert come("198.51.100.3") is not None
    assert come("203.0.113.1") is not None
    ended = [each.transport.disconnecting for each in (first, second, third)]
    assert ended == [False, True, False]
    assert world.factory.admission.startups.held("198.51.100.2") == 1


def test_too_many_from_one_source() -> None:
    """One source cannot take all places: one too many waits, and nothing is done for it,
    until a login or an end frees a place; they come in the order in which they came.
    """
    world = World(limits=Limits(startups_per_source=2, waiting_per_source=3))
    first, second, third, fourth, fifth = (Attacker(world) for _ in range(5))
    assert isinstance(world.factory.buildProtocol(Address()), Refusal)
    assert not isinstance(world.factory.buildProtocol(Address(host="203.0.113.1")), Refusal)
    for waiting in (third, fourth, fifth):
        waiting.greet()
        waiting.send(waiting.kexinit().payload)
        assert waiting.server.key_exchange.current.theirs is None
    fourth.server.connectionLost()
    first.login()
    world.clock.advance(0)
    assert third.server.key_exchange.current.theirs is not None
    assert fifth.server.key_exchange.current.theirs is None
    second.server.connectionLost()
    world.clock.advance(0)
    assert fifth.server.key_exchange.current.theirs is not None


def test_a_connection_that_waits_in_vain_gets_a_reason(world: World) -> None:
    """After the grace time a connection without a place gets the reason and no penalty."""
    world = World(limits=Limits(startups_per_source=1))
    Attacker(world)
    world.clock.advance(1)
    waiting = Attacker(world)
    waiting.greet()
    world.clock.advance(world.limits.login_grace - 1)
    world.clock.advance(1)
    assert waiting.disconnected
    assert waiting.server.fault is None


def test_a_waiting_connection_displaces_the_oldest_client() -> None:
    """Clients from many addresses that hold all places do not stop waiting connections: when their
    source holds no place any more, the oldest client is closed for the next one (attack).
    """
    limits = Limits(startups=(2, 100, 4), startups_per_source=3, startups_per_member=3)
    world = World(limits=limits)
    clients = [Attacker(world, host=f"198.51.100.{number}") for number in range(3)]
    first, second, third = (Attacker(world) for _ in range(3))
    assert [each.server.incoming.held for each in (first, second, third)] == [False, True, True]
    first.login()
    clients.append(Attacker(world, host="198.51.100.9"))
    for attacker in (second, third):
        world.clock.advance(0)
        attacker.login()
        assert attacker.server.isAuthenticated
        clients.append(Attacker(world, host=f"198.51.100.{10 + len(clients)}"))


def test_waiting_connections_get_places_at_once() -> None:
    """After a flood all that wait get a place that there is, and not one after the other."""
    world = World(limits=Limits(startups=(2, 100, 8), startups_per_source=6, startups_per_member=6))
    clients = [Attacker(world, host="198.51.100.1") for _ in range(2)]
    crowd = [Attacker(world) for _ in range(6)]
    world.clock.advance(0)
    assert [each.server.incoming.held for each in crowd] == [False, *[True] * 5]
    for client in clients:
        client.server.connectionLost()
    crowd[0].login()
    for _ in crowd:
        world.clock.advance(0)
    assert sum(not each.server.incoming.held for each in crowd[1:]) >= 2


def test_one_user_with_many_addresses_does_not_fill_a_node() -> None:
    """When those that proxies bring hold all places, the oldest of a source that has most makes
    a place for one that is alone, and for one that was called and finds none (attack).
    """
    world = World(limits=Limits(startups=(2, 100, 4), startups_per_member=3))

    def bring(host: str) -> Attacker:
        attacker = Attacker(world)
        attacker.server.vouched_for((host, 1), None)
        return attacker

    clients = [bring(f"198.51.100.{number}") for number in range(3)]
    first, second = bring("192.0.2.7"), bring("192.0.2.7")
    assert second.server.incoming.held
    first.login()
    newcomer = bring("198.51.100.9")
    world.clock.advance(0)
    assert not second.server.incoming.held
    last = bring("198.51.100.10")
    assert [client.disconnected for client in clients] == [True, True, False]
    for attacker in (second, newcomer, last):
        attacker.login()
        assert attacker.server.isAuthenticated
    assert len(world.factory.relayed) == 1


def test_waiting_connections_of_one_source_displace_no_others() -> None:
    """When as many wait as may, the last one of the source that has most is displaced by one of a
    source that has fewer, and gets a reason; no other is (attack).
    """
    world = World(limits=Limits(startups_per_source=1, waiting=4, waiting_per_source=3))
    hosts = [*["198.51.100.1"] * 4, *["198.51.100.2"] * 2]
    clients = [Attacker(world, host=host) for host in hosts]
    first, second = Attacker(world), Attacker(world)
    assert [each.disconnected for each in clients] == [False] * 3 + [True] + [False] * 2
    assert clients[3].server.fault is None
    assert second.server.incoming.held
    assert isinstance(world.factory.buildProtocol(Address()), Refusal)
    first.login()
    world.clock.advance(0)
    second.login()
    assert second.server.isAuthenticated


def test_a_waiting_client_may_send_little() -> None:
    """A client that waits for a place has a few packets kept, not what one read takes (attack)."""
    world = World(limits=Limits(startups_per_source=1))
    Attacker(world)
    waiting = Attacker(world)
    waiting.greet()
    waiting.raw(bytes(2 * world.limits.packet_before_auth))
    assert not waiting.disconnected
    waiting.raw(bytes(1000))
    assert waiting.disconnected


def test_clients_of_a_proxy_wait_too(world: World) -> None:
    """Many users behind a proxy and one address log in at once: all succeed, in turn."""
    world = World(limits=Limits(startups_per_source=1, startups_per_member=2))
    attackers = []
    for number in range(6):
        attacker = Attacker(world)
        world.clock.advance(0)
        attacker.server.vouched_for(("192.0.2.7", number), None)
        attackers.append(attacker)
    assert [each.server.incoming.held for each in attackers] == [False] * 2 + [True] * 4
    for attacker in attackers:
        attacker.login()
        world.clock.advance(0)
    assert all(each.server.isAuthenticated for each in attackers)


# -- host-bound logins -----------------------------------------------------------------
def hostbound(attacker: Attacker, host_key: bytes) -> bytes:
    """A login request that is bound to a host key."""
    identity = attacker.world.identity()
    body = (
        string(b"root")
        + string(b"ssh-connection")
        + string(HOSTBOUND)
        + boolean(True)
        + string(ED25519_CERT)
        + string(identity.certificate.blob)
        + string(host_key)
    )
    message = bytes((n.USERAUTH_REQUEST,)) + body
    return message + string(identity.private.sign(string(attacker.session_id) + message))


def test_hostbound_login(world: World, attacker: Attacker) -> None:
    """A login that names the host key of the first exchange is good."""
    attacker.ready_to_login()
    attacker.send(hostbound(attacker, attacker.host_key))
    assert numbers(attacker.receive()) == [n.USERAUTH_SUCCESS]


def test_login_that_is_bound_to_another_host(world: World, attacker: Attacker) -> None:
    """A login that was made for another host is not good here."""
    attacker.ready_to_login()
    attacker.send(hostbound(attacker, PrivateKey.generate().public.blob))
    assert numbers(attacker.receive()) == [n.USERAUTH_FAILURE]
    assert world.denied[0].reason == "host_bound"


def test_a_signature_is_good_for_one_session(world: World) -> None:
    """A request that was signed for another connection is refused."""
    first, second = Attacker(world), Attacker(world)
    first.ready_to_login()
    second.ready_to_login()
    second.send(first.login_request())
    assert numbers(second.receive()) == [n.USERAUTH_FAILURE]
    assert world.denied[0].reason == "signature"


def test_certificate_of_another_key(world: World, attacker: Attacker) -> None:
    """A certificate is of no use without its key."""
    attacker.ready_to_login()
    stolen = evolve(world.identity(), private=PrivateKey.generate())
    attacker.send(attacker.login_request(stolen))
    assert numbers(attacker.receive()) == [n.USERAUTH_FAILURE]
