"""A client learns the host's plain key after it is in, and gets no signature but that proof."""

from __future__ import annotations

from typing import Any

import pytest

from ssh_attacker import Attacker
from tele.certs.keys import PrivateKey
from tele.conch.connection.connection import SSHConnection
from tele.conch.connection.host_key_proofs import ANNOUNCE, PROOFS_LIMIT, PROVE
from tele.conch.transport.exchange import HostKeys
from tele.testing.ssh import World
from tele.wire import numbers as n
from tele.wire.fields import Reader, boolean, string
from tele.wire.negotiation import KexInit


@pytest.fixture
def attacker() -> Attacker:
    """An authenticated client."""
    world = World()
    world.factory.connection = SSHConnection
    found = Attacker(world)
    found.login()
    return found


def announced(attacker: Attacker) -> list[bytes]:
    """The host keys that the server named."""
    start = bytes((n.GLOBAL_REQUEST,)) + string(ANNOUNCE) + boolean(False)
    return [m.removeprefix(start) for m in attacker.received if m.startswith(start)]


def asked(attacker: Attacker, request: bytes) -> bytes:
    """The one answer to a request for proofs."""
    attacker.receive()
    attacker.send(bytes((n.GLOBAL_REQUEST,)) + string(PROVE) + boolean(True) + request)
    (answer,) = attacker.receive()
    return answer


def test_the_plain_key_is_named_once_and_proved(attacker: Attacker) -> None:
    """The server names its plain key, and signs what only this session can request."""
    attacker.receive()
    key = attacker.world.host_key.public
    assert announced(attacker) == [string(key.blob)]
    answer = asked(attacker, string(key.blob))
    assert answer[0] == n.REQUEST_SUCCESS
    reader = Reader(answer[1:])
    signature = reader.string()
    reader.end()
    text = string(PROVE) + string(attacker.session_id) + string(key.blob)
    key.verify(signature, text, (b"ssh-ed25519",))
    attacker.exchange()
    attacker.receive()
    assert len(announced(attacker)) == 1


@pytest.mark.parametrize("kind", [b"rsa-sha2-256", b"rsa-sha2-512"])
def test_an_rsa_key_signs_as_in_the_exchange(kind: bytes) -> None:
    """OpenSSH takes an RSA proof only with the hash of the exchange."""

    class Plain(Attacker):
        def kexinit(self, **changes: Any) -> KexInit:
            return super().kexinit(**{"host_keys": (kind,), **changes})

    world = World(host_key=PrivateKey.generate("ssh-rsa"))
    world.factory.connection = SSHConnection
    attacker = Plain(world)
    attacker.login()
    key = world.host_key.public
    answer = asked(attacker, string(key.blob))
    text = string(PROVE) + string(attacker.session_id) + string(key.blob)
    key.verify(Reader(answer[1:]).string(), text, (kind,))


@pytest.mark.parametrize(
    "request_of",
    [
        lambda own: b"",
        lambda own: string(PrivateKey.generate().public.blob),
        lambda own: string(own) + string(own),
        lambda own: string(own) + string(PrivateKey.generate().public.blob),
        lambda own: string(own)[:-1],
        lambda own: b"\xff\xff\xff\xff",
        lambda own: string(own + b"x"),
        lambda own: string(own) * 2000,
    ],
    ids=["none", "foreign", "twice", "one too many", "cut", "huge", "longer", "many"],
)
def test_nothing_else_is_signed(attacker: Attacker, request_of: object) -> None:
    """A request that is not exactly for our key is refused, and the connection stays."""
    assert callable(request_of)
    own = attacker.world.host_key.public.blob
    assert asked(attacker, request_of(own)) == bytes((n.REQUEST_FAILURE,))
    assert asked(attacker, string(own))[0] == n.REQUEST_SUCCESS


def test_the_certificate_is_no_plain_key(attacker: Attacker) -> None:
    """A proof for the certificate's blob is refused: it is not what was named."""
    blob = attacker.world.host_certificate.blob
    assert asked(attacker, string(blob)) == bytes((n.REQUEST_FAILURE,))


def test_proofs_are_few(attacker: Attacker) -> None:
    """A server is no source of signatures for others."""
    own = string(attacker.world.host_key.public.blob)
    answers = [asked(attacker, own)[0] for _ in range(PROOFS_LIMIT + 2)]
    assert answers == [n.REQUEST_SUCCESS] * PROOFS_LIMIT + [n.REQUEST_FAILURE] * 2
    assert not attacker.disconnected


def test_a_key_that_changed_is_proved_no_more(attacker: Attacker) -> None:
    """The proof is by the key that the host has now."""
    old, new = attacker.world.host_key, PrivateKey.generate()
    attacker.world.factory.host_keys = lambda: HostKeys(new, None)
    assert asked(attacker, string(old.public.blob)) == bytes((n.REQUEST_FAILURE,))
    assert asked(attacker, string(new.public.blob))[0] == n.REQUEST_SUCCESS


def test_unauthenticated_clients_get_nothing() -> None:
    """Before authentication there is no announcement, and a request ends the connection."""
    world = World()
    world.factory.connection = SSHConnection
    attacker = Attacker(world)
    attacker.ready_to_login()
    attacker.send(bytes((n.GLOBAL_REQUEST,)) + string(PROVE) + boolean(True) + b"")
    attacker.receive()
    assert attacker.disconnected
    assert not announced(attacker)
