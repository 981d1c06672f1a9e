"""Messages between members: parsed strictly; signed client addresses are accepted once."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from attrs import define, evolve, field
from hypothesis import given
from hypothesis import strategies as st

from tele.certs.issue import HostCertificateRequest, issue_host
from tele.certs.keys import PrivateKey
from tele.conch.client.transport import MemberVerifier
from tele.errors import ProtocolError
from tele.model.identity import HostRole
from tele.tunnel.client_address import (
    LIMIT,
    PREFACE,
    VALID_SECONDS,
    ClientAddressVerifier,
    preface_size,
    sign_client_address,
)
from tele.tunnel.messages import INSTANCE_SIZE, ClientAddress, Hello
from tele.wire.fields import string, uint32

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
SECONDS = NOW.timestamp()
CLIENT = ClientAddress("node-1", ("192.0.2.7", 40000))


@given(st.text(max_size=60), st.integers(0, 65535))
def test_a_client_address_round_trip(host: str, port: int) -> None:
    """What is printable is read as it was written; what is not is refused."""
    client = ClientAddress("id", (host, port))
    try:
        data = client.encode()
    except UnicodeEncodeError:
        return
    if host.isprintable() and len(host.encode()) <= 255:
        assert ClientAddress.decode(data) == client
    else:
        with pytest.raises(ProtocolError):
            ClientAddress.decode(data)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        CLIENT.encode()[:-1],
        CLIENT.encode() + b"x",
        string(b"id") + string(b"host") + uint32(65536),
        string(b"id") + string(b"a\nb") + uint32(1),
        string(b"\xff") + string(b"host") + uint32(1),
        string(b"i" * 256) + string(b"host") + uint32(1),
    ],
)
def test_a_malformed_client_address_is_refused(data: bytes) -> None:
    """Nothing is guessed (attack)."""
    with pytest.raises(ProtocolError):
        ClientAddress.decode(data)


def test_an_instance_has_one_size() -> None:
    """Any other is refused."""
    hello = Hello(b"i" * INSTANCE_SIZE)
    assert Hello.decode(hello.encode()) == hello
    for bad in (b"", string(b"short"), hello.encode() + b"x"):
        with pytest.raises(ProtocolError):
            Hello.decode(bad)


def _proxy_certificate(**changes: Any) -> Callable[[PrivateKey, PrivateKey], Any]:
    def make(authority: PrivateKey, key: PrivateKey) -> Any:
        facts = {"host_id": "p-1", "name": "proxy1", "cluster": "test", "role": HostRole.PROXY}
        request = HostCertificateRequest(**{**facts, **changes})
        return issue_host(authority, key.public.blob, request, NOW, os.urandom)

    return make


@define
class World:
    """A cluster's host authority, a proxy, and a node that verifies its signatures."""

    authority: PrivateKey = field(factory=PrivateKey.generate)
    key: PrivateKey = field(factory=PrivateKey.generate)
    verifier: ClientAddressVerifier = field(init=False)

    def __attrs_post_init__(self) -> None:
        trusted = {self.authority.public.blob}
        self.verifier = ClientAddressVerifier(
            lambda: "node-1", lambda: MemberVerifier(trusted, "test", (HostRole.PROXY,))
        )

    def signed(self, client: ClientAddress = CLIENT, at: float = SECONDS, **changes: Any) -> bytes:
        certificate = _proxy_certificate(**changes)(self.authority, self.key)
        return sign_client_address(client, self.key, certificate, at)


def test_a_signed_client_address() -> None:
    """The node learns the address of its client."""
    world = World()
    line = world.signed()
    assert preface_size(line + b"SSH-2.0-x\r\n") == len(line)
    assert world.verifier.verify(line, SECONDS + 1)[0] == CLIENT


def test_a_signed_client_address_is_accepted_once() -> None:
    """A copy is refused (attack)."""
    world = World()
    line = world.signed()
    world.verifier.verify(line, SECONDS)
    with pytest.raises(ProtocolError, match="before"):
        world.verifier.verify(line, SECONDS + 1)


def test_a_locked_proxy_signs_nothing() -> None:
    """Its certificate is valid for hours more; its signatures are not (attack)."""
    world = World()
    proxies = world.verifier._verifier()
    refusing = evolve(proxies, refuses=lambda host: f"locked: {host.host_id}")
    verifier = ClientAddressVerifier(lambda: "node-1", lambda: refusing)
    with pytest.raises(ProtocolError, match="locked: p-1"):
        verifier.verify(world.signed(), SECONDS)


@pytest.mark.parametrize(
    ("off", "how"),
    [(-VALID_SECONDS - 1, "5 min 1 s behind"), (3 * 3600, "3 h ahead of")],
)
def test_an_old_signature_is_refused(off: float, how: str) -> None:
    """It is valid for minutes; the error names the difference of the two clocks."""
    world = World()
    with pytest.raises(ProtocolError, match=f"this machine's clock is {how} the proxy's"):
        world.verifier.verify(world.signed(), SECONDS + off)


def test_what_is_remembered_is_bounded_by_time() -> None:
    """Lines are forgotten when they are too old to be used again."""
    world = World()
    for number in range(20):
        at = SECONDS + number * VALID_SECONDS
        world.verifier.verify(world.signed(ClientAddress("node-1", ("h", number)), at), at)
    assert len(world.verifier._seen) <= 4


@pytest.mark.parametrize(
    "changes", [{"role": HostRole.NODE}, {"cluster": "other"}], ids=["node", "cluster"]
)
def test_only_proxies_sign_client_addresses(changes: dict[str, Any]) -> None:
    """Not a node, nor a proxy of another cluster (attack)."""
    world = World()
    with pytest.raises(ProtocolError, match="not signed by a proxy"):
        world.verifier.verify(world.signed(**changes), SECONDS)


def test_a_client_address_for_another_node_is_refused() -> None:
    """A signed client address cannot be used at another node (attack)."""
    world = World()
    with pytest.raises(ProtocolError, match="another node"):
        world.verifier.verify(world.signed(ClientAddress("node-2", ("h", 1))), SECONDS)


def test_a_forged_client_address_is_refused() -> None:
    """Another authority, another key, any changed byte: refused (attack)."""
    world, rogue = World(), World()
    for line in (
        rogue.signed(),
        sign_client_address(CLIENT, rogue.key, rogue_certificate(world), SECONDS),
    ):
        with pytest.raises(ProtocolError):
            world.verifier.verify(line, SECONDS)
    line = world.signed()
    for place in range(len(PREFACE), len(line) - 2, 7):
        changed = bytes((line[place] ^ 1,))
        with pytest.raises(ProtocolError):
            world.verifier.verify(line[:place] + changed + line[place + 1 :], SECONDS)


def rogue_certificate(world: World) -> Any:
    """The proxy's own certificate, which is no secret."""
    return _proxy_certificate()(world.authority, world.key)


def test_a_line_of_another_version() -> None:
    """It is refused as soon as it shows, and the error says which side to upgrade."""
    for piece in (b"TELE-", b"TELE-C", b"TELE-VISITOR"):
        assert preface_size(piece) is None
    with pytest.raises(ProtocolError, match="older version than this host: upgrade the proxy"):
        preface_size(b"TELE-VISITOR x")
    for line in (b"TELE-X", b"TELE-CLIENT2 x\r\n", b"TELE-\r\nSSH-2.0-x\r\n"):
        with pytest.raises(ProtocolError, match="newer version than this host: upgrade this host"):
            preface_size(line)
    assert preface_size(b"TELNET") == 0


def test_where_a_preface_ends() -> None:
    """Other data has none; one without an end is refused."""
    assert preface_size(b"SSH-2.0-x\r\n") == 0
    assert preface_size(b"") is None
    assert preface_size(PREFACE[:5]) is None
    assert preface_size(PREFACE + b"abc") is None
    with pytest.raises(ProtocolError, match="longer than 4096 bytes"):
        preface_size(PREFACE + b"x" * LIMIT)
