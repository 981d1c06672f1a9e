"""A Conch program's own checkers: which clients they accept on our classes, and which not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from twisted.conch.error import ConchError
from twisted.conch.ssh import connection as conchs_connection
from twisted.conch.ssh import factory as conchs_factory
from twisted.conch.ssh import transport as conchs_transport
from twisted.conch.ssh import userauth as conchs_userauth
from twisted.cred.checkers import InMemoryUsernamePasswordDatabaseDontUse
from twisted.cred.credentials import ISSHPrivateKey, IUsernamePassword
from twisted.cred.portal import Portal
from twisted.internet.defer import succeed
from twisted.logger import ILogObserver, LogEvent, globalLogPublisher
from zope.interface import implementer

from conch_world import PASSWORD, AtOnce, ConchWorld, conch_key, key_request, password_request
from ssh_attacker import Attacker, numbers, request
from tele.certs.keys import PrivateKey
from tele.embed.ssh import factory, userauth
from tele.log import event_text
from tele.testing.ssh import RecordingConnection, World
from tele.wire import numbers as n
from tele.wire.fields import Reader, boolean, name_list, string


@pytest.fixture
def world() -> ConchWorld:
    return ConchWorld()


@pytest.fixture
def attacker(world: ConchWorld) -> Attacker:
    """A client that may log in now."""
    attacker = Attacker(world)
    attacker.ready_to_login()
    attacker.receive()
    return attacker


@pytest.fixture
def logged() -> Iterator[list[str]]:
    """Everything that is logged."""
    lines: list[str] = []

    @implementer(ILogObserver)
    def observe(event: LogEvent) -> None:
        lines.append(event_text(event) + repr(event))

    globalLogPublisher.addObserver(observe)
    yield lines
    globalLogPublisher.removeObserver(observe)


class Checker:
    """A checker that answers as the test sets, and counts calls."""

    def __init__(self, interface: Any, answer: Any) -> None:
        self.credentialInterfaces = (interface,)
        self.answer = answer
        self.asked = 0

    def requestAvatarId(self, credentials: Any) -> Any:
        self.asked += 1
        return self.answer(credentials)


def check_with(world: ConchWorld, *checkers: Any) -> None:
    """Give the program these checkers and no others."""
    portal: Any = Portal(world.realm, checkers)
    world.factory.portal = portal


def offered(attacker: Attacker) -> tuple[bytes, ...]:
    """Ask which methods there are."""
    attacker.send(request(b"root", b"none"))
    return Reader(attacker.receive()[-1][1:]).name_list()


# -- passwords ------------------------------------------------------------------------
def test_a_password(world: ConchWorld, attacker: Attacker) -> None:
    """The program has a checker for passwords: they are offered, and the right one logs in."""
    assert offered(attacker) == (b"publickey", b"password")
    attacker.send(password_request(PASSWORD))
    assert numbers(attacker.receive())[-1] == n.USERAUTH_SUCCESS
    assert world.services[-1].calls == [("started",)]
    assert world.realm.calls == [("login", "root")]


@pytest.mark.parametrize(
    "message",
    [
        password_request(b"wrong"),
        password_request(b""),
        password_request(PASSWORD, b"nobody"),
        password_request(PASSWORD, change=True) + string(b"new"),
    ],
)
def test_wrong_passwords(world: ConchWorld, attacker: Attacker, message: bytes) -> None:
    """All refusals are alike, and are reported."""
    attacker.send(message)
    methods = name_list((b"publickey", b"password"))
    assert attacker.receive()[-1] == bytes((n.USERAUTH_FAILURE,)) + methods + boolean(False)
    assert [denied.method for denied in world.denied] == ["password"]


def test_passwords_are_nowhere(world: ConchWorld, attacker: Attacker, logged: list[str]) -> None:
    """Neither a right nor a wrong one is logged or reported."""

    def explode(credentials: Any) -> Any:
        raise RuntimeError("the database failed")

    check_with(world, Checker(IUsernamePassword, explode))
    other = Attacker(world)
    other.ready_to_login()
    other.send(password_request(b"hunter22"))
    attacker.send(password_request(PASSWORD), password_request(b"sesame77"))
    said = json.dumps(logged) + repr(world.denied)
    assert "hunter22" not in said
    assert "sesame77" not in said
    assert PASSWORD.decode() not in said


def test_a_client_that_guesses_waits(world: ConchWorld) -> None:
    """A wrong password is answered a second later; a client that disconnects meanwhile leaves
    nothing.
    """
    services: Any = world.factory
    services.services = services.services | {b"ssh-userauth": userauth.SSHUserAuthServer}
    attacker = Attacker(world)
    attacker.ready_to_login()
    attacker.send(password_request(b"wrong"), password_request(PASSWORD))
    assert n.USERAUTH_FAILURE not in numbers(attacker.receive())
    world.clock.advance(1)
    assert numbers(attacker.receive())[-2:] == [n.USERAUTH_FAILURE, n.USERAUTH_SUCCESS]
    leaving = Attacker(world)
    leaving.ready_to_login()
    leaving.send(password_request(b"wrong"))
    leaving.server.connectionLost(None)
    assert len(world.denied) == 2
    attacker.server.connectionLost(None)
    assert not world.clock.getDelayedCalls()


def test_guesses_are_counted(world: ConchWorld, attacker: Attacker) -> None:
    """As many as the limits allow, in one packet or not; the right one comes too late."""
    guesses = [password_request(b"wrong")] * world.limits.attempts
    attacker.send(*guesses, password_request(PASSWORD))
    replies = numbers(attacker.receive())
    assert replies.count(n.USERAUTH_FAILURE) == world.limits.attempts - 1
    assert replies[-1] == n.DISCONNECT
    assert world.realm.calls == []


# -- plain keys -----------------------------------------------------------------------
def test_a_plain_key(world: ConchWorld, attacker: Attacker) -> None:
    """The query is answered, the signature logs in."""
    key = world.plain_key
    attacker.send(attacker.query(key.public.type, key.public.blob))
    assert numbers(attacker.receive())[-1] == n.USERAUTH_PK_OK
    attacker.send(key_request(key, attacker.session_id))
    assert numbers(attacker.receive())[-1] == n.USERAUTH_SUCCESS


@pytest.mark.parametrize("kind", ["other key", "other session", "other login", "garbage", "none"])
def test_signatures_that_prove_nothing(world: ConchWorld, kind: str) -> None:
    """A wrong signature reaches no checker; whose key it is, the checker decides."""
    checker = Checker(ISSHPrivateKey, lambda credentials: succeed(credentials.username))
    check_with(world, checker)
    attacker = Attacker(world)
    attacker.ready_to_login()
    key, session = world.plain_key, attacker.session_id
    good = key_request(key, session)
    attacker.send(
        {
            "other key": key_request(key, session, signature=world.user_key.sign(b"x")),
            "other session": key_request(key, b"\0" * 32),
            "other login": good.replace(b"root", b"toor"),
            "garbage": key_request(key, session, signature=b"\xff" * 40),
            "none": key_request(key, session, signature=b""),
        }[kind]
    )
    assert numbers(attacker.receive())[-1] == n.USERAUTH_FAILURE
    assert checker.asked == 0
    assert len(world.denied) == 1


def test_keys_that_the_checker_does_not_know(world: ConchWorld, attacker: Attacker) -> None:
    """A valid signature by an unknown key is not enough."""
    attacker.send(key_request(PrivateKey.generate(), attacker.session_id))
    assert numbers(attacker.receive())[-1] == n.USERAUTH_FAILURE


def test_sha1_is_not_accepted(world: ConchWorld, attacker: Attacker) -> None:
    """The algorithm ``ssh-rsa`` is refused, whatever a checker would answer."""
    check_with(world, Checker(ISSHPrivateKey, lambda credentials: succeed(credentials.username)))
    other = Attacker(world)
    other.ready_to_login()
    key = PrivateKey.generate("ssh-rsa")
    body = attacker.query(b"ssh-rsa", key.public.blob).replace(b"publickey\0", b"publickey\1")
    signed = string(other.session_id) + body
    other.send(body + string(key.sign(signed)))
    assert numbers(other.receive())[-1] == n.USERAUTH_FAILURE


def test_a_checker_that_forgets_the_signature(world: ConchWorld, logged: list[str]) -> None:
    """A checker that accepts a key without a signature authenticates no client."""
    check_with(world, Checker(ISSHPrivateKey, lambda credentials: succeed(credentials.username)))
    attacker = Attacker(world)
    attacker.ready_to_login()
    key = world.user_key.public
    attacker.send(attacker.query(key.type, key.blob))
    assert numbers(attacker.receive())[-1] == n.USERAUTH_FAILURE
    assert world.realm.calls == [("login", "root"), ("logout", "")]
    assert any("without a signature" in line for line in logged)


def test_questions_are_counted(world: ConchWorld, attacker: Attacker) -> None:
    """Conch's checker answers queries about keys, up to a limit."""
    question = attacker.query(world.plain_key.public.type, world.plain_key.public.blob)
    attacker.send(*[question] * (world.limits.queries + 1))
    replies = numbers(attacker.receive())
    assert replies.count(n.USERAUTH_PK_OK) == world.limits.queries
    assert replies[-1] == n.DISCONNECT


# -- what else a program may do -------------------------------------------------------
def test_two_checkers_both_needed(world: ConchWorld) -> None:
    """``NotEnoughAuthentication`` is a partial success; the second one logs in."""
    from twisted.conch.checkers import SSHProtocolChecker

    class Both(SSHProtocolChecker):
        def areDone(self, avatarId: Any) -> bool:
            return len(self.successfulCredentials[avatarId]) == 2

    both: Any = Both()  # type: ignore[no-untyped-call]
    both.registerChecker(InMemoryUsernamePasswordDatabaseDontUse(root=PASSWORD), IUsernamePassword)
    both.registerChecker(
        Checker(ISSHPrivateKey, lambda credentials: succeed(credentials.username)), ISSHPrivateKey
    )
    check_with(world, both)
    attacker = Attacker(world)
    attacker.ready_to_login()
    attacker.send(password_request(PASSWORD))
    assert attacker.receive()[-1][-1:] == boolean(True)
    attacker.send(key_request(world.plain_key, attacker.session_id))
    assert numbers(attacker.receive())[-1] == n.USERAUTH_SUCCESS


def test_a_method_of_the_programs_own(world: ConchWorld) -> None:
    """A program adds one as in Conch: ``auth_<name>`` and ``supportedAuthentications``."""

    class Knock(AtOnce):
        def serviceStarted(self) -> None:
            super().serviceStarted()
            self.supportedAuthentications.append(b"knock-knock")

        def auth_knock_knock(self, packet: bytes) -> Any:
            if packet != b"who is there":
                raise ConchError("no")
            realm: Any = world.realm
            return realm.requestAvatar(b"guest", None)

    services: Any = world.factory
    services.services = services.services | {b"ssh-userauth": Knock}
    attacker = Attacker(world)
    attacker.ready_to_login()
    assert offered(attacker)[-1] == b"knock-knock"
    attacker.send(request(b"x", b"knock-knock", b"nobody"))
    assert numbers(attacker.receive())[-1] == n.USERAUTH_FAILURE
    attacker.send(request(b"x", b"knock-knock", b"who is there"))
    assert numbers(attacker.receive())[-1] == n.USERAUTH_SUCCESS


def test_an_unknown_service_is_a_refusal(world: ConchWorld, attacker: Attacker) -> None:
    """A client that requests an unknown service is logged out again, and may continue."""
    attacker.send(password_request(PASSWORD).replace(b"ssh-connection", b"ssh-nonsense!!"))
    assert numbers(attacker.receive())[-1] == n.USERAUTH_FAILURE
    assert world.realm.calls == [("login", "root"), ("logout", "")]
    attacker.send(password_request(PASSWORD))
    assert numbers(attacker.receive())[-1] == n.USERAUTH_SUCCESS


def test_a_service_that_fails_as_it_starts(world: ConchWorld, logged: list[str]) -> None:
    """An authenticated client is not refused afterwards: the connection ends, and the avatar is
    logged out.
    """

    class Broken(RecordingConnection):
        def serviceStarted(self) -> None:
            raise RuntimeError("a bug of the program")

    services: Any = world.factory
    services.services = services.services | {b"ssh-connection": Broken}
    attacker = Attacker(world)
    attacker.ready_to_login()
    attacker.send(password_request(PASSWORD))
    assert numbers(attacker.receive())[-2:] == [n.USERAUTH_SUCCESS, n.DISCONNECT]
    attacker.server.connectionLost(None)
    assert world.realm.calls == [("login", "root"), ("logout", "")]
    assert world.denied == []


def test_conchs_getservice(world: ConchWorld) -> None:
    """A factory that overrides it as Conch has it gives no second authentication away."""
    made: Any = world.factory

    def get_service(transport: Any, service: bytes) -> Any:
        if service == b"ssh-userauth" or hasattr(transport, "avatar"):
            return made.services[service]
        return None

    made.getService = get_service
    attacker = Attacker(world)
    attacker.ready_to_login()
    attacker.send(password_request(PASSWORD))
    assert numbers(attacker.receive())[-1] == n.USERAUTH_SUCCESS
    attacker.send(bytes((n.SERVICE_REQUEST,)) + string(b"ssh-userauth"))
    assert attacker.disconnected


# -- the factory ----------------------------------------------------------------------
@pytest.mark.parametrize(
    ("name", "made"),
    [
        ("ssh-userauth", conchs_userauth.SSHUserAuthServer),
        ("ssh-connection", type("Mine", (conchs_connection.SSHConnection,), {})),
        ("protocol", conchs_transport.SSHServerTransport),
    ],
)
def test_conchs_own_classes_do_not_serve(name: str, made: Any) -> None:
    """An import of Conch's own class is reported when the factory starts."""
    program: Any = factory.SSHFactory()
    key = conch_key(PrivateKey.generate())
    program.publicKeys = program.privateKeys = {b"ssh-ed25519": key}
    if name == "protocol":
        program.protocol = made
    else:
        program.services = program.services | {name.encode(): made}
    with pytest.raises(ConchError, match=f"{name}: .* is Conch's; import it from tele.embed"):
        program.startFactory()


def test_host_keys(world: ConchWorld) -> None:
    """Gotten by Conch's methods; the best comes first; old kinds and nothing are refused."""

    class Program(factory.SSHFactory):
        def getPublicKeys(self) -> Any:
            return {name: key.public() for name, key in self.getPrivateKeys().items()}

        def getPrivateKeys(self) -> Any:
            kinds = ("ssh-rsa", "ecdsa-sha2-nistp256", "ssh-ed25519")
            return {kind.encode(): conch_key(PrivateKey.generate(kind)) for kind in kinds}

    program = Program()
    assert isinstance(program, conchs_factory.SSHFactory)
    program.startFactory()
    transport = program.protocol()
    transport.factory = program
    assert transport.host_key_algorithms() == (
        b"ssh-ed25519", b"ecdsa-sha2-nistp256", b"rsa-sha2-512", b"rsa-sha2-256",
    )  # fmt: skip
    empty: Any = factory.SSHFactory()
    empty.publicKeys = empty.privateKeys = {}
    with pytest.raises(ConchError, match="no host keys"):
        empty.startFactory()


# -- never in tele's own --------------------------------------------------------------
def test_a_server_of_tele_takes_certificates_only() -> None:
    """Whatever checkers a portal has: no method but certificates is offered or accepted."""
    world = World()
    portal: Any = world.factory.portal
    portal.registerChecker(InMemoryUsernamePasswordDatabaseDontUse(root=PASSWORD))
    portal.registerChecker(Checker(ISSHPrivateKey, lambda c: succeed(c.username)))
    attacker = Attacker(world)
    attacker.ready_to_login()
    assert offered(attacker) == (b"publickey",)
    attacker.send(
        password_request(PASSWORD),
        key_request(world.user_key, attacker.session_id),
    )
    assert numbers(attacker.receive())[-2:] == [n.USERAUTH_FAILURE] * 2
    assert world.realm.calls == []
