"""What members say to each other: read strictly, vouched for once."""

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
from tele.tunnel.messages import INSTANCE_SIZE, Hello, Visitor
from tele.tunnel.vouching import LASTS, LIMIT, PREFACE, Vouching, take_preface, vouch
from tele.wire.fields import string, uint32

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
SECONDS = NOW.timestamp()
VISITOR = Visitor("node-1", ("192.0.2.7", 40000))


@given(st.text(max_size=60), st.integers(0, 65535))
def test_a_visitor_survives_the_wire(host: str, port: int) -> None:
    """What is printable is read as it was written; what is not is refused."""
    visitor = Visitor("id", (host, port))
    try:
        data = visitor.encode()
    except UnicodeEncodeError:
        return
    if host.isprintable() and len(host.encode()) <= 255:
        assert Visitor.decode(data) == visitor
    else:
        with pytest.raises(ProtocolError):
            Visitor.decode(data)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        VISITOR.encode()[:-1],
        VISITOR.encode() + b"x",
        string(b"id") + string(b"host") + uint32(65536),
        string(b"id") + string(b"a\nb") + uint32(1),
        string(b"\xff") + string(b"host") + uint32(1),
        string(b"i" * 256) + string(b"host") + uint32(1),
    ],
)
def test_a_malformed_visitor_is_refused(data: bytes) -> None:
    """Nothing is guessed (attack)."""
    with pytest.raises(ProtocolError):
        Visitor.decode(data)


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
    """A cluster's host authority, a proxy, and a node that takes its word."""

    authority: PrivateKey = field(factory=PrivateKey.generate)
    key: PrivateKey = field(factory=PrivateKey.generate)
    vouching: Vouching = field(init=False)

    def __attrs_post_init__(self) -> None:
        trusted = {self.authority.public.blob}
        self.vouching = Vouching(
            lambda: "node-1", lambda: MemberVerifier(trusted, "test", (HostRole.PROXY,))
        )

    def word(self, visitor: Visitor = VISITOR, at: float = SECONDS, **changes: Any) -> bytes:
        certificate = _proxy_certificate(**changes)(self.authority, self.key)
        return vouch(visitor, self.key, certificate, at)


def test_the_word_of_a_proxy() -> None:
    """The node learns where its visitor comes from."""
    world = World()
    line = world.word()
    assert take_preface(line + b"SSH-2.0-x\r\n") == len(line)
    assert world.vouching.take(line, SECONDS + 1)[0] == VISITOR


def test_a_word_counts_once() -> None:
    """Whoever overheard it cannot come in its name (attack)."""
    world = World()
    line = world.word()
    world.vouching.take(line, SECONDS)
    with pytest.raises(ProtocolError, match="before"):
        world.vouching.take(line, SECONDS + 1)


def test_a_locked_proxy_has_no_word() -> None:
    """Its certificate is good for hours more; what it says is not (attack)."""
    world = World()
    verifier = world.vouching._verifier()
    refusing = evolve(verifier, refuses=lambda host: f"locked: {host.host_id}")
    vouching = Vouching(lambda: "node-1", lambda: refusing)
    with pytest.raises(ProtocolError, match="locked: p-1"):
        vouching.take(world.word(), SECONDS)


@pytest.mark.parametrize(
    ("off", "how"),
    [(-LASTS - 1, "5 min 1 s behind"), (3 * 3600, "3 h ahead of")],
)
def test_an_old_word_is_none(off: float, how: str) -> None:
    """It lasts minutes; the text says how the two clocks stand to each other."""
    world = World()
    with pytest.raises(ProtocolError, match=f"this machine's clock is {how} the proxy's"):
        world.vouching.take(world.word(), SECONDS + off)


def test_what_is_remembered_is_bounded_by_time() -> None:
    """Words are forgotten once they are too old to be said again."""
    world = World()
    for number in range(20):
        at = SECONDS + number * LASTS
        world.vouching.take(world.word(Visitor("node-1", ("h", number)), at), at)
    assert len(world.vouching._seen) <= 4


@pytest.mark.parametrize(
    "changes", [{"role": HostRole.NODE}, {"cluster": "other"}], ids=["node", "cluster"]
)
def test_others_have_no_word(changes: dict[str, Any]) -> None:
    """A node, or a proxy of another cluster, cannot say who comes (attack)."""
    world = World()
    with pytest.raises(ProtocolError, match="not the word of a proxy"):
        world.vouching.take(world.word(**changes), SECONDS)


def test_a_word_for_another_node_is_none() -> None:
    """A node that is lied to by its proxy's word cannot use it at another (attack)."""
    world = World()
    with pytest.raises(ProtocolError, match="another node"):
        world.vouching.take(world.word(Visitor("node-2", ("h", 1))), SECONDS)


def test_a_forged_word_is_none() -> None:
    """Another authority, another key, any changed byte: refused (attack)."""
    world, rogue = World(), World()
    for line in (rogue.word(), vouch(VISITOR, rogue.key, rogue_certificate(world), SECONDS)):
        with pytest.raises(ProtocolError):
            world.vouching.take(line, SECONDS)
    line = world.word()
    for place in range(len(PREFACE), len(line) - 2, 7):
        changed = bytes((line[place] ^ 1,))
        with pytest.raises(ProtocolError):
            world.vouching.take(line[:place] + changed + line[place + 1 :], SECONDS)


def rogue_certificate(world: World) -> Any:
    """The proxy's own certificate, which anybody may have seen."""
    return _proxy_certificate()(world.authority, world.key)


def test_where_a_preface_ends() -> None:
    """Other beginnings have none; one that never ends is refused."""
    assert take_preface(b"SSH-2.0-x\r\n") == 0
    assert take_preface(b"") is None
    assert take_preface(PREFACE[:5]) is None
    assert take_preface(PREFACE + b"abc") is None
    with pytest.raises(ProtocolError, match="does not end"):
        take_preface(PREFACE + b"x" * LIMIT)
