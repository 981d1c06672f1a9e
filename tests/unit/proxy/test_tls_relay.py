"""TLS through the proxy: deadlines that bytes do not move, and a share of each source."""

from __future__ import annotations

import ssl
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from attrs import define, field
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from twisted.internet.defer import Deferred, succeed
from twisted.internet.protocol import connectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure

from tele.admission.limits import Limits
from tele.https.limits import Limits as ApiLimits
from tele.model.api.table import OPERATIONS
from tele.proxy.admission import (
    PENDING_LIMIT,
    RELAYS_LIMIT,
    RELAYS_PER_SOURCE,
    AdmissionLimits,
    PortAdmission,
    limits_for,
)
from tele.proxy.tls_records import Handshake, RecordTypes
from tele.proxy.tls_routes import HANDSHAKE_SECONDS, RELAY_IDLE_SECONDS, Relay


class Transport(StringTransport):
    """Notifies its protocol of the end, as a TCP connection does."""

    aborted = False
    protocol: Any = None

    def abortConnection(self) -> None:
        if not self.aborted:
            self.aborted = True
            self.protocol.connectionLost(Failure(connectionDone.value))


@define
class Auth:
    """Auth as an endpoint: records what it receives, and sends what it is given."""

    attempted: bool = True
    protocol: Any = None
    transport: Transport = field(factory=Transport)

    def connect(self, factory: Any) -> Deferred[Any]:
        if not self.attempted:
            return Deferred(lambda _: None)
        self.protocol = self.transport.protocol = factory.buildProtocol(None)
        self.protocol.makeConnection(self.transport)
        return succeed(self.protocol)


@define
class Port:
    """The admission of a proxy's port, with a fake clock."""

    limits: AdmissionLimits = field(factory=AdmissionLimits)
    member_sources: set[str] = field(factory=set)
    turned_away: list[str] = field(factory=list)
    clock: Clock = field(factory=Clock)
    admission: PortAdmission = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.admission = PortAdmission(self.clock, self, self.limits)

    def is_member_source(self, host: str) -> bool:
        return host in self.member_sources

    def refused(self, host: str, why: str) -> None:
        self.turned_away.append(host)

    def relay(self, host: str = "192.0.2.7", attempted: bool = True) -> tuple[Transport, Auth]:
        """Return the client's end of a relay, and auth's."""
        transport, auth = Transport(), Auth(attempted)
        slot = self.admission.add(host, transport.abortConnection)
        endpoint: Any = auth
        relay = Relay(endpoint, slot, self.clock)
        transport.protocol = relay
        relay.makeConnection(transport)
        return transport, auth

    def answered(self, host: str = "192.0.2.7") -> tuple[Transport, Auth]:
        """The same, once the handshake is over."""
        transport, auth = self.relay(host)
        transport.protocol.dataReceived(HELLO)
        auth.protocol.dataReceived(FLIGHT)
        transport.protocol.dataReceived(FINISHED)
        auth.protocol.dataReceived(DATA)
        return transport, auth


def record(kind: int, size: int) -> bytes:
    return bytes((kind, 3, 3)) + size.to_bytes(2, "big") + bytes(size)


HELLO = record(22, 300)
FLIGHT = record(22, 100) + record(20, 1) + record(23, 900)
FINISHED = record(20, 1) + record(23, 70)
DATA = record(23, 200)


@pytest.mark.parametrize(
    "sent",
    [b"", HELLO[:50], HELLO, HELLO + record(20, 1), HELLO + DATA * 3],
    ids=["silence", "half a hello", "hello", "no finished", "data too early"],
)
def test_a_handshake_has_a_deadline(sent: bytes) -> None:
    """A client that does not end its handshake is closed in time, however slow it is (attack)."""
    port = Port()
    transport, auth = port.relay()
    step = HANDSHAKE_SECONDS / 20
    for number in range(19):
        transport.protocol.dataReceived(sent[number : number + 1])
        port.clock.advance(step)
    transport.protocol.dataReceived(sent[19:])
    auth.protocol.dataReceived(FLIGHT)
    assert (port.turned_away, len(port.admission.pending)) == ([], 1)
    port.clock.advance(step)
    assert transport.aborted
    assert auth.transport.disconnecting
    assert (len(port.admission.pending), len(port.admission.relays)) == (0, 0)
    assert not port.clock.getDelayedCalls()


def test_an_auth_that_does_not_answer_has_the_same_deadline() -> None:
    """While auth is dialled the client waits, and not for ever."""
    port = Port()
    transport, _ = port.relay(attempted=False)
    transport.protocol.dataReceived(HELLO)
    assert transport.producerState == "paused"
    port.clock.advance(HANDSHAKE_SECONDS)
    assert transport.aborted
    assert not port.clock.getDelayedCalls()


def test_what_auth_answered_goes_on() -> None:
    """A connection with traffic now and then stays; one that is idle is closed."""
    port = Port()
    transport, auth = port.answered()
    for _ in range(10):
        port.clock.advance(RELAY_IDLE_SECONDS - 1)
        auth.protocol.dataReceived(DATA)
        port.clock.advance(RELAY_IDLE_SECONDS - 1)
        transport.protocol.dataReceived(DATA)
    assert auth.transport.value() == HELLO + FINISHED + DATA * 10
    assert transport.value() == FLIGHT + DATA * 11
    assert (len(port.admission.pending), len(port.admission.relays)) == (0, 1)
    port.clock.advance(RELAY_IDLE_SECONDS)
    assert transport.aborted
    assert len(port.admission.relays) == 0
    assert not port.clock.getDelayedCalls()


def test_silence_is_longer_than_any_that_the_api_allows() -> None:
    """No call, stream or idle connection of the API is closed for being idle."""
    api = ApiLimits()
    slowest = max(operation.timeout for operation in OPERATIONS.values())
    for allowed in (slowest, api.idle, api.keepalive):
        assert allowed.total_seconds() < RELAY_IDLE_SECONDS


def test_a_client_that_does_not_read_the_end_is_closed() -> None:
    """Auth closed; a client that leaves the rest unread does not keep its place (attack)."""
    port = Port()
    transport, auth = port.answered()
    auth.protocol.connectionLost(Failure(connectionDone.value))
    assert transport.disconnecting
    port.clock.advance(HANDSHAKE_SECONDS - 1)
    assert len(port.admission.relays) == 1
    port.clock.advance(1)
    assert transport.aborted
    assert not port.clock.getDelayedCalls()


def test_one_source_has_a_share_of_handshakes() -> None:
    """Half handshakes from one address end each other, and no other client's (attack)."""
    port = Port(AdmissionLimits(pending=100, pending_per_source=5))
    other, _ = port.relay("192.0.2.9")
    mine = [port.relay("192.0.2.7")[0] for _ in range(8)]
    assert [each.aborted for each in mine] == [True] * 3 + [False] * 5
    assert not other.aborted
    assert port.turned_away == ["192.0.2.7"] * 3


def test_one_source_has_a_share_of_relays() -> None:
    """What auth has answered is not ended by others of the same address; they are refused."""
    port = Port(AdmissionLimits(relays=100, relays_per_source=3))
    mine = [port.answered()[0] for _ in range(5)]
    assert [each.aborted for each in mine] == [False] * 3 + [True] * 2
    other, _ = port.answered("192.0.2.9")
    assert not other.aborted
    assert len(port.admission.relays) == 4


def test_a_full_proxy_takes_from_the_fullest_source() -> None:
    """Unauthenticated clients that hold all relays of one address exclude no others (attack)."""
    port = Port(AdmissionLimits(relays=6, relays_per_source=6))
    crowd = [port.answered("192.0.2.7")[0] for _ in range(6)]
    other, _ = port.answered("192.0.2.9")
    assert not other.aborted
    assert [each.aborted for each in crowd] == [True] + [False] * 5


def test_a_fleet_behind_one_address_has_a_larger_share() -> None:
    """Where members come from, four times as many connect at once; a neighbour has one share."""
    port = Port(AdmissionLimits(pending=100, pending_per_source=5), member_sources={"192.0.2.7"})
    fleet = [port.relay("192.0.2.7")[0] for _ in range(20)]
    assert not any(each.aborted for each in fleet)
    attackers = [port.relay("192.0.2.8")[0] for _ in range(6)]
    assert [each.aborted for each in attackers] == [True] + [False] * 5


def test_addresses_of_one_network_are_one_source() -> None:
    """A /64 of IPv6 is one source, as it is for SSH."""
    port = Port(AdmissionLimits(pending_per_source=3))
    mine = [port.relay(f"2001:db8::{n}")[0] for n in range(1, 5)]
    assert [each.aborted for each in mine] == [True, False, False, False]


def test_a_client_that_left_is_forgotten() -> None:
    """Nothing of a connection is left behind, whatever state it was in."""
    port = Port()
    for attempted in (True, False):
        transport, _ = port.relay(attempted=attempted)
        transport.protocol.connectionLost(Failure(connectionDone.value))
    transport, auth = port.answered()
    transport.protocol.connectionLost(Failure(connectionDone.value))
    assert auth.transport.disconnecting
    assert (len(port.admission.pending), len(port.admission.relays)) == (0, 0)
    assert not port.clock.getDelayedCalls()


@pytest.mark.parametrize("descriptors", [256, 1024, 20_000, 1 << 20])
def test_unauthenticated_clients_never_have_all_descriptors(descriptors: int) -> None:
    """Half of the process' descriptors stay for SSH, members and files, however few it has."""
    limits = limits_for(Limits(), descriptors)
    assert limits.pending + 2 * limits.relays <= descriptors // 2
    assert limits.pending <= PENDING_LIMIT
    assert limits.relays <= RELAYS_LIMIT
    assert limits.relays_per_source <= RELAYS_PER_SOURCE
    assert limits.member_weight == 4


# -- types of records -----------------------------------------------------------------
@pytest.mark.parametrize("step", [1, 3, 7, 10_000])
def test_a_real_handshake_is_answered_at_its_end(step: int, tmp_path: Path) -> None:
    """OpenSSL's own handshake, cut anywhere, counts when the server answers the client's end."""
    watched = Handshake()
    server, client = tls_ends(tmp_path)

    def pass_on(sender: End, receiver: End, receive: Any) -> None:
        data = sender.outgoing.read()
        for at in range(0, len(data), step):
            receive(data[at : at + step])
        receiver.incoming.write(data)

    client.shake()
    pass_on(client, server, watched.client_sent)
    server.shake()
    pass_on(server, client, watched.server_sent)
    client.shake()
    assert client.made
    pass_on(client, server, watched.client_sent)
    assert not watched.answered
    server.shake()
    assert server.made
    server.tls.write(b"hello")
    pass_on(server, client, watched.server_sent)
    assert watched.answered


@define
class End:
    """One end of a TLS connection in memory."""

    tls: ssl.SSLObject
    incoming: ssl.MemoryBIO
    outgoing: ssl.MemoryBIO
    made: bool = False

    def shake(self) -> None:
        """Go on with the handshake as far as possible."""
        with suppress(ssl.SSLWantReadError):
            self.tls.do_handshake()
            self.made = True


def tls_ends(folder: Path) -> tuple[End, End]:
    """Return a server and a client that have not spoken yet."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "auth")])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(datetime(2020, 1, 1, tzinfo=UTC))
        .not_valid_after(datetime(2120, 1, 1, tzinfo=UTC))
        .sign(key, hashes.SHA256())
    )
    pem = folder / "both.pem"
    pem.write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        + made.public_bytes(Encoding.PEM)
    )
    server_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_side.load_cert_chain(pem)
    client_side = ssl.create_default_context()
    client_side.check_hostname = False
    client_side.verify_mode = ssl.CERT_NONE

    def end(context: ssl.SSLContext, serves: bool) -> End:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        return End(context.wrap_bio(incoming, outgoing, server_side=serves), incoming, outgoing)

    return end(server_side, True), end(client_side, False)


def test_records_cost_their_length() -> None:
    """Each byte is read once, however small records are and however they are cut."""

    class Counted(bytes):
        read = 0

        def __getitem__(self, key: Any) -> Any:
            found = super().__getitem__(key)
            if isinstance(key, slice):
                Counted.read += len(found)
            return found

    def cost(records: int) -> int:
        Counted.read = 0
        types = RecordTypes()
        types.feed(Counted(record(22, 1) * records))
        return Counted.read

    assert 0 < cost(2000) <= 2 * cost(1000)
