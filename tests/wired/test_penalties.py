"""Faults of an unauthenticated client give penalties to its address."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from twisted.internet.defer import fail
from twisted.internet.testing import StringTransport

from ssh_attacker import Attacker, request
from tele.admission.limits import Limits
from tele.admission.penalties import Fault, PenaltyRules
from tele.errors import AccessDenied
from tele.testing.ssh import START, Address, World
from tele.wire.fields import boolean, string

HOST = Address().host


@pytest.fixture
def world() -> World:
    return World(limits=Limits(penalties=PenaltyRules(min=0.0)))


def leave(world: World, client: Attacker) -> Fault | None:
    """The connection ends; for what may its address not come again?"""
    client.server.connectionLost()
    return world.factory.admission.penalties.refuses(HOST, world.clock.seconds())


def nothing(client: Attacker) -> None:
    pass


def garbage(client: Attacker) -> None:
    client.raw(b"GET / HTTP/1.0\r\n\r\n")


def a_plain_key(client: Attacker) -> None:
    client.ready_to_login()
    blob = client.world.user_key.public.blob
    client.send(client.query(b"ssh-ed25519", blob))


def a_password(client: Attacker) -> None:
    client.ready_to_login()
    client.send(request(b"root", b"password", boolean(False) + string(b"guess")))


def an_expired_certificate(client: Attacker) -> None:
    client.ready_to_login()
    identity = client.world.identity(now=START - timedelta(days=1))
    client.send(client.login_request(identity))


def a_stolen_certificate(client: Attacker) -> None:
    client.ready_to_login()
    bad = bytearray(client.login_request())
    bad[-1] ^= 1
    client.send(bytes(bad))


def patience(client: Attacker) -> None:
    client.ready_to_login()
    client.world.clock.advance(client.world.limits.login_grace)


@pytest.mark.parametrize(
    ("act", "fault"),
    [
        (nothing, Fault.NOAUTH),
        (garbage, Fault.NOAUTH),
        (a_plain_key, Fault.NOAUTH),
        (a_password, Fault.AUTHFAIL),
        (an_expired_certificate, Fault.AUTHFAIL),
        (a_stolen_certificate, Fault.AUTHFAIL),
        (patience, Fault.GRACE_EXCEEDED),
    ],
)
def test_faults(world: World, act: Callable[[Attacker], None], fault: Fault) -> None:
    """What was done decides for what, and so for how long, the address is shut out."""
    client = Attacker(world)
    act(client)
    assert leave(world, client) is fault
    refused = world.factory.buildProtocol(Address())
    refused.makeConnection(transport := StringTransport())
    assert b"failed logins from your address; try again later" in transport.value()
    assert transport.disconnecting
    assert world.factory.buildProtocol(Address(host="203.0.113.1")) is not None
    world.clock.advance(world.limits.penalties.seconds(fault))
    assert world.factory.buildProtocol(Address()) is not None


def test_a_message_that_we_fail_at(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that found an error of the server gets little time to use it."""

    def broken(packet: bytes) -> None:
        raise RuntimeError("a mistake")

    client = Attacker(world)
    monkeypatch.setattr(client.server, "ssh_KEXINIT", broken)
    client.greet()
    client.send(client.kexinit().payload)
    assert client.disconnected
    assert leave(world, client) is Fault.CRASH


def test_a_client_that_logged_in_is_not_penalized(world: World) -> None:
    """Failures before a login are forgiven, and so are faults after it."""
    client = Attacker(world)
    a_stolen_certificate(client)
    client.send(client.login_request())
    client.raw(bytes(64))
    assert client.disconnected
    assert leave(world, client) is None


def test_a_known_user_who_is_denied_is_not_shut_out(world: World) -> None:
    """A colleague whose roles do not allow a login does not shut out the office."""

    def deny(credentials: Any) -> Any:
        return fail(AccessDenied("no role of alice allows root", "login"))

    world.realm.answer = deny
    client = Attacker(world)
    client.ready_to_login()
    client.send(client.login_request())
    assert leave(world, client) is None


def test_an_established_connection_is_left_alone(world: World) -> None:
    """Authenticated connections stay, whatever others at their address do."""
    inside, client = Attacker(world), Attacker(world)
    inside.login()
    a_password(client)
    assert leave(world, client) is Fault.AUTHFAIL
    assert not inside.disconnected
