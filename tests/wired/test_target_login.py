"""Logins to a target: steps, host keys, the agent of the client."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from attrs import define, field
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ConnectionRefusedError as Refused
from twisted.internet.interfaces import IStreamClientEndpoint
from zope.interface import implementer

from channel_ends import ChannelEnds, ChannelWorld
from tele.admission.limits import REKEY_BURST, REKEY_PER_SECOND, RekeyPace
from tele.certs.keys import PrivateKey
from tele.conch.client.agent import ANSWER_SECONDS, SIGN_SECONDS, AgentIdentity, open_agent
from tele.conch.client.target import (
    SECONDS,
    Step,
    TargetLogin,
    TargetTransport,
    connect_target,
)
from tele.conch.client.target_connection import TargetConnection
from tele.conch.client.transport import HostVerifier
from tele.conch.connection.channel import Channel
from tele.conch.server.factory import ServerAlgorithms
from tele.errors import AccessDenied, BadCertificate, PeerError, TeleError, Unreachable
from tele.loop import now
from tele.testing.links import LinkEnd
from tele.wire import agent as messages
from tele.wire.fields import Reader, string, uint32


@implementer(IStreamClientEndpoint)
@define
class Endpoint:
    """Leads to a server of ``world`` over a link in memory, or does what ``instead`` does."""

    world: ChannelWorld
    instead: Callable[[Any], Any] | None = None
    links: list[LinkEnd] = field(factory=list)
    protocol: Any = None

    def connect(self, factory: Any) -> Any:
        if self.instead is not None:
            return self.instead(factory)
        self.protocol, server = factory.buildProtocol(None), self.world.server()
        self.links = [LinkEnd(self.protocol), LinkEnd(server)]
        ours, theirs = self.links
        ours.peer, theirs.peer = theirs, ours
        server.makeConnection(theirs)
        self.protocol.makeConnection(ours)
        return succeed(self.protocol)

    def settle(self) -> None:
        moved = True
        while moved:
            moved = False
            for each in self.links:
                moved = each.carry(1 << 20) or moved


@pytest.fixture
def world() -> ChannelWorld:
    """A target's world."""
    return ChannelWorld()


def login(world: ChannelWorld, *identities: Any, **changes: Any) -> TargetLogin:
    options: dict[str, Any] = {
        "name": "db1",
        "login": "root",
        "verifier": world.verifier(),
        "identities": identities or (world.identity(),),
    }
    return TargetLogin(**{**options, **changes})


def attempt(endpoint: Endpoint, login: TargetLogin) -> list[Any]:
    """Log in; what comes of it is in the list, once it is known."""
    results: list[Any] = []
    connect_target(endpoint.world.clock, endpoint, login).addBoth(results.append)
    endpoint.settle()
    return results


def error(results: list[Any], kind: type[TeleError]) -> str:
    (failure,) = results
    assert failure.check(kind), failure
    return str(failure.value)


def test_a_login(world: ChannelWorld) -> None:
    """The target proves its host key, whose fingerprint is known; no timer is left."""
    endpoint = Endpoint(world)
    (service,) = attempt(endpoint, login(world))
    assert isinstance(service, TargetConnection)
    assert service.transport.host_fingerprint == world.host_key.public.fingerprint
    assert service.transport.host.principals
    service.transport.loseConnection()
    endpoint.settle()
    assert service.is_lost


def test_exchanges_of_targets_count_for_their_user(world: ChannelWorld) -> None:
    """Targets that do nothing but exchange keys use the share of the user who logs in to them, over
    all of that user's connections, and not that of another user (attack).
    """
    pace = RekeyPace()

    def target(user: str) -> Endpoint:
        endpoint = Endpoint(world)
        (service,) = attempt(endpoint, login(world, user=user, pace=pace))
        assert isinstance(service, TargetConnection)
        return endpoint

    def exchange(endpoint: Endpoint) -> bool:
        server = endpoint.links[1].protocol
        server.sendKexInit()
        endpoint.settle()
        return server.key_exchange.current is None

    first, second, other = target("alice"), target("alice"), target("bob")
    assert all(exchange(first) for _ in range(REKEY_BURST))
    assert not exchange(second)
    assert all(exchange(other) for _ in range(REKEY_BURST))
    world.clock.advance(1 / REKEY_PER_SECOND)
    second.settle()
    assert second.links[1].protocol.key_exchange.current is None
    for endpoint in (first, second, other):
        endpoint.protocol.transport.loseConnection()
        endpoint.settle()


def test_the_next_certificate(world: ChannelWorld) -> None:
    """A certificate that is refused is followed by the next one."""
    foreign = world.identity(authority=PrivateKey.generate())
    (service,) = attempt(Endpoint(world), login(world, foreign, world.identity()))
    assert isinstance(service, TargetConnection)


def test_no_certificate_is_accepted(world: ChannelWorld) -> None:
    """The error says what to check on the target."""
    foreign = world.identity(authority=PrivateKey.generate())
    endpoint = Endpoint(world)
    text = error(attempt(endpoint, login(world, foreign)), AccessDenied)
    assert text.startswith("db1 does not accept the certificate for login 'root': is TrustedUserCA")
    assert endpoint.protocol.closing


@pytest.mark.parametrize(
    ("names", "trusted", "text"),
    [
        (("db2",), None, "the certificate is not for 'db2', but for 'h-1.test', "),
        (("web1",), PrivateKey.generate(), "is not of this cluster"),
    ],
)
def test_another_host(
    world: ChannelWorld, names: tuple[str, ...], trusted: PrivateKey | None, text: str
) -> None:
    """A target that is not the expected one gets nothing of the user's (attack)."""
    authority = trusted or world.host_authority
    verifier = HostVerifier({authority.public.blob}, names)
    endpoint = Endpoint(world)
    shown = error(attempt(endpoint, login(world, verifier=verifier)), BadCertificate)
    assert shown.startswith("the host key of db1 is refused: ")
    assert text in shown
    assert not world.realm.calls


def test_a_plain_host_key(world: ChannelWorld) -> None:
    """It proves nothing, unless host keys are not checked; the error says what to do."""
    keys = world.factory.host_keys()
    keys.certificate = None
    world.factory.host_keys = lambda: keys
    shown = error(attempt(Endpoint(world), login(world)), BadCertificate)
    assert "tele ca sign-host" in shown
    (service,) = attempt(Endpoint(world), login(world, verifier=None))
    assert service.transport.host is None
    assert service.transport.host_fingerprint == world.host_key.public.fingerprint


def test_a_certificate_that_is_not_checked(world: ChannelWorld) -> None:
    """A certificate of any authority is as good as a plain key then."""
    world.host_authority = PrivateKey.generate()
    (service,) = attempt(Endpoint(world), login(world, verifier=None))
    assert service.transport.host_fingerprint == world.host_key.public.fingerprint


def test_another_host_key_later(world: ChannelWorld) -> None:
    """A target that has another key in the next key exchange loses the connection (attack)."""
    endpoint = Endpoint(world)
    (service,) = attempt(endpoint, login(world, verifier=None))
    keys = world.factory.host_keys()
    keys.private, keys.certificate = PrivateKey.generate(), None
    world.factory.host_keys = lambda: keys
    service.transport.sendKexInit()
    endpoint.settle()
    assert service.is_lost


def test_each_step_has_a_limit(world: ChannelWorld) -> None:
    """The error names the target and the step."""
    clock = world.clock
    silent = Endpoint(world, instead=lambda _: Deferred())
    results = attempt(silent, login(world))
    clock.advance(SECONDS[Step.CONNECT])
    assert error(results, Unreachable) == "cannot connect to db1: no answer in 15 seconds"

    def mute(factory: Any) -> Any:
        protocol = factory.buildProtocol(None)
        protocol.makeConnection(LinkEnd(protocol, LinkEnd(None)))
        return succeed(protocol)

    results = attempt(Endpoint(world, instead=mute), login(world))
    clock.advance(SECONDS[Step.KEY_EXCHANGE])
    assert error(results, Unreachable) == (
        "db1 does not complete the SSH key exchange: no answer in 15 seconds"
    )
    world.realm.answer = lambda _: Deferred()
    endpoint = Endpoint(world)
    results = attempt(endpoint, login(world))
    assert not results
    clock.advance(SECONDS[Step.LOGIN])
    assert error(results, Unreachable) == "db1 does not complete the login: no answer in 75 seconds"
    assert endpoint.protocol.closing


def test_what_fails_is_named(world: ChannelWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """A refused connection, a lost one, no common algorithm."""
    refused = Endpoint(world, instead=lambda _: fail(Refused()))
    assert "cannot connect to db1: " in error(attempt(refused, login(world)), Unreachable)

    endpoint = Endpoint(world)
    world.realm.answer = lambda _: Deferred()
    results = attempt(endpoint, login(world))
    endpoint.links[1].close()
    endpoint.settle()
    assert error(results, Unreachable) == (
        "db1 does not complete the login: connection lost during the login"
    )
    curve, mixed = b"curve25519-sha256", b"sntrup761x25519-sha512@openssh.com"
    world.factory.algorithms = ServerAlgorithms(key_exchanges=[curve])
    monkeypatch.setattr(TargetTransport, "supportedKeyExchanges", [mixed])
    text = error(attempt(Endpoint(world), login(world)), PeerError)
    assert text.startswith("db1 does not complete the SSH key exchange: ")
    assert "no common key exchange method" in text


def test_a_login_that_is_cancelled(world: ChannelWorld) -> None:
    """The connection ends; nothing is left."""
    world.realm.answer = lambda _: Deferred()
    endpoint = Endpoint(world)
    results: list[Any] = []
    coming = connect_target(world.clock, endpoint, login(world))
    coming.addBoth(results.append)
    endpoint.settle()
    coming.cancel()
    endpoint.settle()
    assert len(results) == 1
    assert endpoint.links[0].closed


# -- the client's agent ---------------------------------------------------------------
class FakeAgent(Channel):
    """The agent of a client, on the client's end of a channel; ``answer`` is the test's."""

    def __init__(self, answer: Callable[[bytes], bytes | None], **named: Any) -> None:
        super().__init__(**named)
        self._answer = answer
        self._got = bytearray()

    def data_view(self, view: memoryview) -> None:
        self._got += view
        self.consumed(len(view))
        while (message := messages.take_message(self._got)) is not None:
            del self._got[: 4 + len(message)]
            answer = self._answer(message)
            if answer is not None:
                self.write(answer)


@define
class Keys:
    """An agent with certificates and their keys."""

    held: list[tuple[bytes, PrivateKey]] = field(factory=list)
    asked: list[int] = field(factory=list)
    algorithm: bytes | None = None

    def answer(self, message: bytes) -> bytes:
        self.asked.append(message[0])
        if message[0] == messages.REQUEST_IDENTITIES:
            body = uint32(len(self.held))
            for blob, _ in self.held:
                body += string(blob) + string(b"a comment")
            return string(bytes((messages.IDENTITIES_ANSWER,)) + body)
        reader = Reader(message[1:])
        blob, data, flags = reader.string(), reader.string(), reader.uint32()
        for each, key in self.held:
            if each == blob:
                kind = self.algorithm
                if kind is None and flags:
                    kind = b"rsa-sha2-512" if flags == messages.RSA_SHA2_512 else b"rsa-sha2-256"
                signature = key.sign(data, kind)
                return string(bytes((messages.SIGN_RESPONSE,)) + string(signature))
        return string(bytes((messages.FAILURE,)))


class Acceptor:
    """Opens the agent on the client's end."""

    def __init__(self, answer: Callable[[bytes], bytes | None]) -> None:
        self._answer = answer

    def accept(self, kind: bytes, data: bytes, remoteWindow: int, remoteMaxPacket: int) -> Any:
        assert kind == b"auth-agent@openssh.com"
        return succeed(
            FakeAgent(self._answer, remoteWindow=remoteWindow, remoteMaxPacket=remoteMaxPacket)
        )


def forwarding(world: ChannelWorld, answer: Callable[[bytes], bytes | None]) -> ChannelEnds:
    """A client that forwards an agent to a server."""
    near = world.link(TargetConnection)
    near.client.service.acceptor = Acceptor(answer)
    return near


def run(near: ChannelEnds, work: Any) -> list[Any]:
    results: list[Any] = []
    Deferred.fromCoroutine(work).addBoth(results.append)
    near.settle()
    return results


def found(near: ChannelEnds, world: ChannelWorld) -> list[Any]:
    async def work() -> Any:
        agent = await open_agent(world.clock, near.server.service)
        trusted = {world.user_authority.public.blob}
        return await agent.identities("root", trusted, now(world.clock))

    return run(near, work())


@pytest.mark.parametrize("kind", ["ssh-ed25519", "ecdsa-sha2-nistp256", "ssh-rsa"])
def test_the_agent_of_the_client(kind: str) -> None:
    """It signs the login to the target with a certificate of the cluster for the login, and is not
    asked to sign with any other key.
    """
    world = ChannelWorld(user_key=PrivateKey.generate(kind))
    other, plain = PrivateKey.generate(), PrivateKey.generate()
    keys = Keys(
        [
            (plain.public.blob, plain),
            (world.certify(other, authority=plain).blob, other),
            (world.certify(other, logins=("bob",)).blob, other),
            (world.certify().blob, world.user_key),
            (b"nonsense", plain),
        ]
    )
    near = forwarding(world, keys.answer)
    ((identity,),) = found(near, world)
    assert isinstance(identity, AgentIdentity)
    endpoint = Endpoint(world)
    results = attempt(endpoint, login(world, identity))
    near.settle()
    endpoint.settle()
    assert isinstance(results[0], TargetConnection)
    assert keys.asked == [messages.REQUEST_IDENTITIES, messages.SIGN_REQUEST]
    near.client_link.close()


def test_an_agent_that_does_not_answer(world: ChannelWorld) -> None:
    """Each request has a limit, after which the channel is closed."""
    near = forwarding(world, lambda _: None)
    results = found(near, world)
    world.clock.advance(ANSWER_SECONDS)
    near.settle()
    assert "did not list its keys in 15 seconds" in error(results, Unreachable)
    assert not near.server.service.channels

    keys = Keys([(world.certify().blob, world.user_key)])

    def only_lists(message: bytes) -> bytes | None:
        return keys.answer(message) if message[0] == messages.REQUEST_IDENTITIES else None

    near = forwarding(world, only_lists)
    ((identity,),) = found(near, world)
    endpoint = Endpoint(world)
    results = attempt(endpoint, login(world, identity))
    near.settle()
    world.clock.advance(SIGN_SECONDS)
    assert "did not sign in 60 seconds" in error(results, Unreachable)
    near.client_link.close()


def test_an_agent_that_is_not_forwarded(world: ChannelWorld) -> None:
    """The client refuses the channel, or never answers."""
    near = world.link(TargetConnection)
    assert "the client forwards no agent" in error(found(near, world), Unreachable)
    near.client.service.acceptor = Acceptor(lambda _: None)
    near.client.service.acceptor.accept = lambda *_: Deferred()
    results = found(near, world)
    world.clock.advance(ANSWER_SECONDS)
    assert "did not open its agent in 15 seconds" in error(results, Unreachable)
    near.client_link.close()


@pytest.mark.parametrize(
    "answer",
    [
        string(bytes((messages.FAILURE,))),
        string(bytes((messages.SIGN_RESPONSE,)) + string(b"x")),
        string(bytes((messages.IDENTITIES_ANSWER,)) + uint32(1 << 31)),
        string(bytes((messages.IDENTITIES_ANSWER,)) + uint32(1)),
    ],
)
def test_an_agent_that_lies(world: ChannelWorld, answer: bytes) -> None:
    """An answer that is not one is an error of this request (attack)."""
    near = forwarding(world, lambda _: answer)
    error(found(near, world), PeerError)
    near.client_link.close()


@pytest.mark.parametrize("answer", [uint32(1 << 30), uint32(0), string(b"\5") * 2])
def test_an_agent_that_floods(world: ChannelWorld, answer: bytes) -> None:
    """What is longer than an answer, or more than one, ends the connection (attack)."""
    near = forwarding(world, lambda _: answer)
    error(found(near, world), Unreachable)
    assert near.server.closing


def test_an_agent_that_signs_with_less(world: ChannelWorld) -> None:
    """A signature of another algorithm than was asked for is not sent (attack)."""
    world.user_key = PrivateKey.generate("ssh-rsa")
    keys = Keys([(world.certify().blob, world.user_key)], algorithm=b"rsa-sha2-256")
    near = forwarding(world, keys.answer)
    ((identity,),) = found(near, world)
    results = attempt(Endpoint(world), login(world, identity))
    near.settle()
    assert "another algorithm than it was asked for" in error(results, PeerError)
    near.client_link.close()
