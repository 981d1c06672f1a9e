"""Keys are renewed while data flow, and nothing is lost."""

from __future__ import annotations

import os
from typing import Any

import pytest

from ssh_attacker import Attacker, numbers
from tele.admission.limits import REKEY_BURST, REKEY_PER_SECOND, Limits
from tele.conch.transport.transport import Transport
from tele.testing.ssh import Ends, World
from tele.wire import numbers as n
from tele.wire.ciphers import CIPHERS, MACS, needs_mac
from tele.wire.fields import string
from tele.wire.key_agreement import METHODS

CHUNK = 32768


def opened(world: World, **client_attributes: Any) -> Ends:
    client = world.client()
    for name, value in client_attributes.items():
        setattr(client, name, value)
    ends = world.connect(client)
    assert ends.client.isAuthenticated
    return ends


def send(end: Transport, total: bytes) -> None:
    """Send as a pump does: seal while it may, flush, wait to be called."""
    rest = memoryview(total)

    def go_on() -> None:
        nonlocal rest
        while len(rest) and end.can_send():
            size = min(CHUNK, len(rest))
            end.data_buffer[:size] = rest[:size]
            end.seal_data(3, (size,))
            end.flush()
            rest = rest[size:]
        if not len(rest):
            end.ready_observers.discard(go_on)

    end.ready_observers.add(go_on)
    go_on()


@pytest.mark.parametrize("method", METHODS)
def test_every_method(method: bytes) -> None:
    """Both ends speak each key exchange method, first and again."""
    world = World(key_exchanges=(method,))
    ends = opened(world, supportedKeyExchanges=[method])
    for end in (ends.client, ends.server):
        end.sendKexInit()
        ends.settle()
    send(ends.client, b"x" * 100)
    ends.settle()
    assert bytes(world.services[0].data) == b"x" * 100


SUITES = [(c, m) for c in CIPHERS for m in (MACS if needs_mac(c) else MACS[:1])]
suites = pytest.mark.parametrize(
    ("cipher", "mac"), SUITES, ids=lambda name: name.decode().partition("@")[0]
)


def offering(cipher: bytes, mac: bytes, limits: Limits | None = None) -> Ends:
    """Two ends of which the client has only these; the server has all."""
    world = World(limits=limits or Limits())
    client = world.client()
    client.supportedCiphers, client.supportedMACs = [cipher], [mac]
    server = world.server()
    server.supportedCiphers = list(CIPHERS)
    ends = world.connect(client, server)
    assert ends.client.isAuthenticated
    return ends


@suites
def test_every_cipher(cipher: bytes, mac: bytes) -> None:
    """Data arrive whole and in order in both directions, over many exchanges, under each cipher."""
    ends = offering(cipher, mac, Limits(rekey_octets=3 * CHUNK))
    first, second = os.urandom(20 * CHUNK + 7), os.urandom(20 * CHUNK + 9)
    send(ends.client, first)
    send(ends.server, second)
    ends.settle()
    assert bytes(ends.server.service.data) == first
    assert bytes(ends.client.service.data) == second


@suites
def test_the_agreed_cipher_is_the_one_in_use(cipher: bytes, mac: bytes) -> None:
    """Each direction seals and opens with what was agreed on, and with the MAC of it."""
    ends = offering(cipher, mac)
    family = "Etm" if needs_mac(cipher) else "Gcm" if b"gcm" in cipher else "Chacha"
    for end in (ends.client, ends.server):
        assert type(end.outgoing.sealer).__name__ == f"{family}Sealer"
        assert type(end.incoming.opener).__name__ == f"{family}Opener"


def test_a_server_offers_no_chacha_by_default() -> None:
    """A client that has nothing else is refused by default, and accepted if configured."""
    world = World()
    client = world.client()
    client.supportedCiphers = [CIPHERS[-1]]
    assert CIPHERS[-1].startswith(b"chacha20")
    world.connect(client)
    assert client.closing
    assert not client.isAuthenticated
    assert offering(CIPHERS[-1], MACS[0]).client.isAuthenticated


@pytest.mark.parametrize("who", ["server", "client", "both"])
def test_no_loss_when_keys_are_renewed_by_volume(who: str) -> None:
    """Data in both directions arrive whole and in order over many exchanges."""
    often = Limits(rekey_octets=3 * CHUNK)
    world = World(limits=often if who != "client" else Limits())
    client = world.client(limits=often if who != "server" else Limits())
    ends = world.connect(client)
    first, second = os.urandom(40 * CHUNK + 7), os.urandom(40 * CHUNK + 9)
    send(ends.client, first)
    send(ends.server, second)
    ends.settle()
    assert bytes(world.services[0].data) == first
    assert bytes(ends.client.service.data) == second
    assert not ends.client.closing
    assert ends.client.incoming.opener.octets < 10 * CHUNK


def test_messages_wait_for_new_keys_in_order() -> None:
    """What is sent during an exchange, data or not, arrives after it and in order."""
    world = World()
    ends = opened(world)
    client = ends.client
    client.sendKexInit()
    assert not client.can_send()
    client.sendPacket(n.GLOBAL_REQUEST, b"first")
    client.send_data(1, b"second")
    client.data_buffer[:5] = b"third"
    client.seal_data(1, (5,), 1)
    client.sendPacket(n.GLOBAL_REQUEST, b"fourth")
    notified: list[bool] = []
    client.ready_observers.add(lambda: notified.append(client.can_send()))
    ends.settle()
    service = world.services[0]
    assert service.calls == [
        ("started",),
        ("packet", n.GLOBAL_REQUEST, b"first"),
        ("extended", 1, 1, b"third"),
        ("packet", n.GLOBAL_REQUEST, b"fourth"),
    ]
    assert bytes(service.data) == b"second"
    assert notified
    assert all(notified)


def test_both_begin_at_once() -> None:
    """Two KEXINITs that cross are one exchange."""
    world = World()
    ends = opened(world)
    before = ends.server.sessionID
    ends.client.sendKexInit()
    ends.server.sendKexInit()
    ends.settle()
    assert not ends.server.closing
    assert ends.server.can_send()
    assert ends.server.sessionID == ends.client.sessionID == before


def test_keys_are_renewed_after_an_hour() -> None:
    """The first use of a connection after the hour renews its keys; idle ones do nothing."""
    world = World()
    ends = opened(world)
    sealer = ends.server.outgoing.sealer
    world.clock.advance(world.limits.rekey_seconds + 1)
    assert ends.server.outgoing.sealer is sealer
    send(ends.client, b"hello")
    ends.settle()
    assert ends.server.outgoing.sealer is not sealer
    assert bytes(world.services[0].data) == b"hello"


def test_no_data_from_a_peer_that_renews() -> None:
    """Between KEXINIT and NEWKEYS the peer sends no data."""
    attacker = Attacker(World())
    attacker.login()
    data = bytes((n.CHANNEL_DATA,)) + bytes(4) + string(b"x")
    attacker.send(attacker.kexinit().payload, data)
    assert numbers(attacker.receive())[-1] == n.DISCONNECT
    assert not attacker.world.services[0].data


def test_data_may_come_until_the_peer_answers() -> None:
    """Data that were sent before the peer saw our KEXINIT are accepted."""
    attacker = Attacker(World())
    attacker.login()
    attacker.server.sendKexInit()
    attacker.send(bytes((n.CHANNEL_DATA,)) + bytes(4) + string(b"late"))
    assert bytes(attacker.world.services[0].data) == b"late"
    assert not attacker.disconnected


@pytest.mark.parametrize("strict", [True, False])
def test_a_peer_renews_by_hand(strict: bool) -> None:
    """An exchange that a foreign implementation begins keeps the session's identity."""
    attacker = Attacker(World(), strict=strict)
    attacker.login()
    session_id = attacker.session_id
    attacker.exchange()
    attacker.send(bytes((n.CHANNEL_DATA,)) + bytes(4) + string(b"x"))
    assert attacker.server.sessionID == session_id
    assert bytes(attacker.world.services[0].data) == b"x"
    attacker.send(bytes((n.PING,)) + string(b"are you there"))
    assert attacker.receive()[-1] == bytes((n.PONG,)) + string(b"are you there")


def test_endless_exchanges_wait() -> None:
    """A peer that does nothing but exchange keys is not read from until it may again (attack)."""
    world = World()
    attacker = Attacker(world)
    attacker.login()
    for _ in range(REKEY_BURST):
        attacker.exchange()
    attacker.send(attacker.kexinit().payload)
    assert attacker.transport.producerState == "paused"
    world.clock.advance(1 / REKEY_PER_SECOND)
    assert attacker.transport.producerState == "producing"
    assert numbers(attacker.receive()) == [n.KEXINIT]
    attacker.server.connectionLost()
    assert not world.clock.getDelayedCalls()


def test_a_peer_that_leaves_while_an_exchange_waits_leaves_nothing() -> None:
    """No timer is left behind, and nothing is handled any more."""
    world = World()
    attacker = Attacker(world)
    attacker.login()
    for _ in range(REKEY_BURST):
        attacker.exchange()
    attacker.send(attacker.kexinit().payload)
    attacker.server.connectionLost()
    assert not world.clock.getDelayedCalls()


def test_a_flood_of_questions_during_an_exchange_is_bounded() -> None:
    """Answers that wait for new keys have a bound; past it the connection ends."""
    world = World(limits=Limits(waiting_octets=10_000))
    attacker = Attacker(world)
    attacker.login()
    attacker.server.sendKexInit()
    attacker.send(*[bytes((n.PING,)) + string(b"p" * 100)] * 200)
    assert attacker.disconnected


def test_the_host_certificate_may_change_between_exchanges() -> None:
    """A renewed host certificate, or key, is presented in the next exchange."""
    world = World()
    ends = opened(world)
    world.host_certificate = world.certify_host(world.host_key)
    serial = world.host_certificate.serial
    ends.client.sendKexInit()
    ends.settle()
    assert ends.client.host is not None
    assert not ends.client.closing
    assert world.host_certificate.serial == serial


def test_a_wrong_guess_is_skipped() -> None:
    """A client that guessed wrong sends its first message again (RFC 4253, section 7.1)."""
    attacker = Attacker(World(), method=b"curve25519-sha256@libssh.org")
    attacker.greet()
    payload = bytearray(attacker.kexinit().payload)
    payload[-5] = 1
    attacker.send(bytes(payload), bytes((n.KEX_INIT,)) + string(b"guess"))
    attacker.receive()
    assert not attacker.disconnected
    attacker.send(bytes((n.KEX_INIT,)) + string(METHODS[attacker.method].initiate().share))
    assert not attacker.disconnected
    assert attacker.server.sessionID
