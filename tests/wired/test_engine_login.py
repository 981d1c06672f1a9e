"""Two ends exchange keys, check certificates and log in."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from attrs import evolve
from twisted.conch.ssh import transport as conch
from twisted.internet.defer import Deferred, fail
from twisted.internet.error import ConnectError
from twisted.internet.testing import StringTransport
from zope.interface.verify import verifyObject

from ssh_attacker import Attacker
from tele.admission.limits import Limits
from tele.certs.keys import PrivateKey
from tele.conch.client.login_request import login_algorithm
from tele.conch.client.transport import ClientIdentity, SSHClientTransport, connect
from tele.conch.transport.datapath import IDataTransport
from tele.errors import AccessDenied, BadCertificate, PeerError, Unreachable
from tele.testing.ssh import START, RecordingConnection, World
from tele.wire import numbers as n
from tele.wire.fields import string, uint32


def result_of(waiting: Deferred[Any]) -> Any:
    """The result, or the error, that is there already."""
    results: list[Any] = []
    waiting.addBoth(results.append)
    assert results, "no result yet"
    return getattr(results[0], "value", results[0])


def test_login_with_certificates() -> None:
    """A client that trusts the host's authority logs in with a user certificate."""
    world = World()
    ends = world.connect()
    service = result_of(ends.ready)
    assert service.transport is ends.client
    assert service.calls == [("started",)]
    assert ends.server.avatar.credentials.login == "root"
    assert ends.server.avatar.credentials.checked.identity.user == "alice"
    assert ends.server.avatar.credentials.remote_addr == ("192.0.2.1", 1)
    assert ends.client.host.principals[0] == "h-1.test"
    assert world.services[0].calls == [("started",)]
    assert not world.denied
    assert not world.clock.getDelayedCalls()


def test_conch_classes_stay_conch_classes() -> None:
    """Both ends are what Conch's code expects, and both carry bulk data."""
    ends = World().connect()
    assert isinstance(ends.server, conch.SSHServerTransport)
    assert isinstance(ends.client, conch.SSHClientTransport)
    end: Any
    for end in (ends.server, ends.client):
        assert verifyObject(IDataTransport, end)
        assert end.isEncrypted("both")
        assert end.isVerified("in")
        assert end.getPeer().address.host == "192.0.2.1"


def test_one_round_trip() -> None:
    """Service request and signed request leave together, right after the keys."""
    world = World()
    client = world.client()
    sent: list[int] = []
    original = client.sendPacket

    def watch(number: int, payload: bytes) -> None:
        sent.append(number)
        original(number, payload)

    client.sendPacket = watch
    world.connect(client)
    assert sent == [n.SERVICE_REQUEST, n.USERAUTH_REQUEST]


@pytest.mark.parametrize("algorithm", ["ssh-ed25519", "ecdsa-sha2-nistp256", "ssh-rsa"])
def test_every_kind_of_key(algorithm: str) -> None:
    """Hosts and users may have keys of each kind."""
    key = PrivateKey.generate(algorithm)
    world = World(user_key=key, host_key=key)
    assert result_of(world.connect().ready).calls == [("started",)]


def changed_world(world: World, change: str) -> None:
    """Make the host one that must not be believed."""
    if change == "plain":
        world.host_certificate = None  # type: ignore[assignment]
    elif change == "name":
        world.host_certificate = world.certify_host(world.host_key, "other")
    elif change == "user":
        world.host_certificate = world.certify(world.host_key)
    elif change == "stolen":
        world.host_certificate = world.certify_host(PrivateKey.generate())
    elif change == "expired":
        world.clock.advance(timedelta(days=2).total_seconds())


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ("plain", PeerError),
        ("name", BadCertificate),
        ("user", BadCertificate),
        ("stolen", BadCertificate),
        ("expired", BadCertificate),
    ],
)
def test_a_host_that_is_not_the_right_one(change: str, error: type[Exception]) -> None:
    """Without a good certificate and its key the client sends nothing of the user's."""
    world = World()
    changed_world(world, change)
    ends = world.connect()
    assert isinstance(result_of(ends.ready), error)
    assert ends.client.closing
    assert not world.realm.calls
    assert not world.services
    assert world.factory.admission.startups._count == 0


def test_a_host_of_another_authority() -> None:
    """A certificate of an authority that we do not trust is refused."""
    world = World()
    verifier = evolve(world.verifier(), trusted={PrivateKey.generate().public.blob})
    ends = world.connect(world.client(verifier=verifier))
    error = result_of(ends.ready)
    assert isinstance(error, BadCertificate)
    assert error.reason == "authority"


def test_denied_by_the_realm() -> None:
    """The client gets the realm's reason as the text of the error."""
    world = World()
    world.realm.answer = lambda _: fail(AccessDenied("denied: role dev lacks root", "login"))
    ends = world.connect()
    error = result_of(ends.ready)
    assert isinstance(error, AccessDenied)
    assert str(error) == "denied: role dev lacks root"
    assert [attempt.reason for attempt in world.denied] == ["login"]


def test_a_realm_that_breaks() -> None:
    """An error in the realm refuses, is not disclosed to the user, and is audited."""
    world = World()
    world.realm.answer = lambda _: fail(ZeroDivisionError("secret"))
    ends = world.connect()
    error = result_of(ends.ready)
    assert isinstance(error, AccessDenied)
    assert "secret" not in str(error)
    assert [attempt.reason for attempt in world.denied] == ["unavailable"]


def test_an_expired_user_certificate() -> None:
    """A refused certificate is an AccessDenied for the client and a reason for the audit."""
    world = World()
    ends = world.connect(world.client(world.identity(now=START - timedelta(hours=3))))
    assert isinstance(result_of(ends.ready), AccessDenied)
    (attempt,) = world.denied
    assert (attempt.reason, attempt.key_id, attempt.login) == ("validity", "alice", "root")
    assert attempt.fingerprint == world.user_key.public.fingerprint
    assert attempt.serial


@pytest.mark.parametrize(
    ("hours", "why"), [(-3, "it has expired: it ended at"), (3, "which clock is wrong?")]
)
def test_a_wrong_date_is_sent(hours: int, why: str) -> None:
    """A user refused because of a date reads both dates, and suspects a clock and no key."""
    world = World()
    ends = world.connect(world.client(world.identity(now=START + timedelta(hours=hours))))
    error = result_of(ends.ready)
    assert isinstance(error, AccessDenied)
    assert "this server does not accept the certificate" in str(error)
    assert why in str(error)
    assert f"here it is {START:%F %T} UTC" in str(error)


def test_any_login_where_the_realm_checks() -> None:
    """A jump host takes the certificate for any name, and the realm gets the name."""
    world = World()
    world.factory.match_login = False
    ends = world.connect(world.client(world.identity("anything")))
    assert result_of(ends.ready).calls == [("started",)]
    assert ends.server.avatar.credentials.login == "anything"


def test_a_server_that_is_silent() -> None:
    """A client does not wait for ever."""
    world = World()
    client = world.client()
    ready = client.ready()
    transport = StringTransport()
    client.makeConnection(transport)
    world.clock.advance(Limits().login_grace)
    assert isinstance(result_of(ready), Unreachable)


def test_a_connection_that_is_lost_during_the_login() -> None:
    """A connection that ends early is an error, once."""
    world = World()
    client = world.client()
    ready = client.ready()
    transport = StringTransport()
    client.makeConnection(transport)
    client.connectionLost()
    assert isinstance(result_of(ready), Unreachable)
    assert not world.clock.getDelayedCalls()


def test_a_server_that_disconnects() -> None:
    """The server's reason is in the error, quoted."""
    world = World()
    client = world.client()
    ready = client.ready()
    transport = StringTransport()
    client.makeConnection(transport)
    goodbye = bytes((n.DISCONNECT,)) + uint32(12) + string(b"too \x1b many") + string(b"")
    client.dataReceived(b"SSH-2.0-x\r\n" + Attacker(world).seal(goodbye))
    error = result_of(ready)
    assert isinstance(error, PeerError)
    assert "\x1b" not in str(error)
    assert "too" in str(error)


def test_cancelling() -> None:
    """Cancelling closes the connection."""
    world = World()
    client = world.client()
    ready = client.ready()
    transport = StringTransport()
    client.makeConnection(transport)
    ready.addErrback(lambda _: None)
    ready.cancel()
    assert transport.disconnecting


def test_an_endpoint_that_fails() -> None:
    """What an endpoint fails with becomes Unreachable."""

    class Endpoint:
        def connect(self, factory: object) -> Deferred[Any]:
            return fail(ConnectError("refused"))

    world = World()
    error = result_of(
        connect(
            world.clock,
            Endpoint(),  # type: ignore[arg-type]
            verify_host=world.verifier(),
            identity=world.identity(),
            connection=RecordingConnection,
        )
    )
    assert isinstance(error, Unreachable)
    assert "refused" in str(error)


def test_a_host_check_of_another_program() -> None:
    """A Conch program overrides verifyHostKey, and its answer may take time."""
    world = World()
    answer: Deferred[Any] = Deferred()
    secure: list[bool] = []

    class Client(SSHClientTransport):
        def verifyHostKey(self, hostKey: bytes, fingerprint: bytes) -> Deferred[Any]:
            assert hostKey == world.host_certificate.blob
            assert fingerprint.startswith(b"SHA256:")
            return answer

        def connectionSecure(self) -> None:
            secure.append(True)

        def ready(self) -> Deferred[Any]:
            return answer

    ends = world.connect(Client(world.clock))
    assert not secure
    answer.callback(True)
    ends.settle()
    assert secure
    assert ends.server.sessionID == ends.client.sessionID


def test_a_client_without_a_host_verifier() -> None:
    """A client without a verifier accepts no host."""
    world = World()

    class Client(SSHClientTransport):
        def ready(self) -> Deferred[Any]:
            return Deferred()

    ends = world.connect(Client(world.clock))
    assert ends.client.closing
    assert ends.client.sessionID is None


def test_identity_signs_with_its_certificate() -> None:
    """An RSA certificate is offered with SHA-2, never with SHA-1."""
    key = PrivateKey.generate("ssh-rsa")
    world = World(user_key=key)
    identity = ClientIdentity(key, world.certify(), "root")
    assert login_algorithm(identity.certificate) == b"rsa-sha2-512-cert-v01@openssh.com"
