"""Nodes in a network that lets nobody out but through a proxy of its own."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from twisted.internet.defer import CancelledError
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from gateways import Gateway, HttpGateway, SocksGateway
from own_reactor import OwnReactor, own_reactor
from small_cluster import ME, SmallCluster, small_cluster
from tele.config.values import Address, JoinConfig
from tele.embed.egress import way_out
from tele.errors import InvalidInput, Unreachable
from tele.https.file_certificate import FileCertificate
from tele.outbound.dialer import Dialer
from tele.outbound.egress import always, read_via
from tele.sockets.direct import DirectSocket

KINDS = pytest.mark.parametrize(
    ("make", "scheme"), [(HttpGateway, "http"), (SocksGateway, "socks5")], ids=["http", "socks5"]
)
Make = Callable[[Gateway], Protocol]


@pytest.fixture
def reactor() -> Iterator[OwnReactor]:
    """A reactor of one's own."""
    with own_reactor() as made:
        yield made


def any_of(value: Any) -> Any:
    """Forget a type that Twisted annotates in part."""
    return value


class Beyond(Protocol):
    """A destination that speaks first and then repeats what it hears."""

    def connectionMade(self) -> None:
        self.transport.write(b"hello")  # type: ignore[union-attr]

    def dataReceived(self, data: bytes) -> None:
        self.transport.write(data)  # type: ignore[union-attr]


class Here(Protocol):
    """Our end."""

    def __init__(self) -> None:
        self.received = b""
        self.lost = False

    def dataReceived(self, data: bytes) -> None:
        self.received += data

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost = True


@pytest.fixture
def beyond(reactor: OwnReactor) -> Iterator[int]:
    """The port of a destination."""
    factory = Factory.forProtocol(Beyond)
    factory.noisy = False
    port = any_of(reactor).listenTCP(0, factory, interface="127.0.0.1")
    yield port.getHost().port
    reactor.wait(port.stopListening())


def dialled(endpoint: IStreamClientEndpoint) -> Any:
    factory = Factory.forProtocol(Here)
    factory.noisy = False
    return endpoint.connect(factory)


@KINDS
@pytest.mark.parametrize("together", [False, True])
def test_a_connection_through(
    reactor: OwnReactor, beyond: int, make: Make, scheme: str, together: bool
) -> None:
    """The gateway resolves the name; ours is a socket of ours, and nothing is lost or between."""
    gateway = Gateway(reactor, make, {"node.test": "127.0.0.1"}, together=together).start()
    out = Dialer(reactor, always(read_via(f"{scheme}://127.0.0.1:{gateway.port}")))
    here = reactor.wait(dialled(out.dial(f"node.test:{beyond}", 10)))
    socket = here.transport
    assert (isinstance(socket, DirectSocket), socket.protocol is here) == (True, True)
    reactor.until(lambda: here.received == b"hello")
    data = os.urandom(300_000)
    here.transport.write(data)
    reactor.until(lambda: here.received == b"hello" + data)
    assert gateway.asked == [("node.test", beyond)]
    gateway.stop()
    reactor.until(lambda: here.lost)


@KINDS
def test_a_gateway_that_wants_a_login(
    reactor: OwnReactor, beyond: int, make: Make, scheme: str, tmp_path: Path
) -> None:
    """The login is read from its file for each connection, and its password is told to nobody."""
    gateway = Gateway(reactor, make, {"n": "127.0.0.1"}, login=("me", "rïght")).start()
    file = tmp_path / "login"
    join = JoinConfig(
        proxy=Address("n", beyond),
        via=read_via(f"{scheme}://127.0.0.1:{gateway.port}"),
        via_login_file=file,
    )
    out = way_out(reactor, join, {})
    problems = []
    for content in (None, "me", "me:wrong\n"):
        if content is not None:
            file.touch(0o600)
            file.write_text(content)
        with pytest.raises(Unreachable) as caught:
            reactor.wait(dialled(out.endpoint("n", beyond)))
        problems.append(str(caught.value))
    assert "No such file" in problems[0]
    assert "expected user:password" in problems[1]
    assert "wrong" not in problems[2]
    assert "user and password" in problems[2] or "407 Proxy Authentication" in problems[2]
    file.write_text("me:rïght\n")
    file.chmod(0o644)
    with pytest.raises(Unreachable, match=f"others can read it .*chmod 600 {file}"):
        reactor.wait(dialled(out.endpoint("n", beyond)))
    with pytest.raises(InvalidInput, match=r"via_login_file .*others can read it"):
        way_out(reactor, join, {})
    file.chmod(0o600)
    here = reactor.wait(dialled(out.endpoint("n", beyond)))
    reactor.until(lambda: here.received == b"hello")
    gateway.stop()
    reactor.until(lambda: here.lost)


@KINDS
def test_refusals_and_silence(reactor: OwnReactor, make: Make, scheme: str) -> None:
    """A refusal has the gateway's words; what is closed or silent ends in time."""
    gateway = Gateway(reactor, make).start()
    via = f"{scheme}://127.0.0.1:{gateway.port}"
    out = Dialer(reactor, always(read_via(via)))
    words = "refused nobody.test:22: ('403 Not on my watch'|connection not allowed by ruleset)"
    with pytest.raises(Unreachable, match=words) as caught:
        reactor.wait(dialled(out.endpoint("nobody.test", 22)))
    assert via in str(caught.value)
    gateway.stop()
    with pytest.raises(Unreachable, match="is not reached; it is the way out"):
        reactor.wait(dialled(out.endpoint("nobody.test", 22)))


@pytest.mark.parametrize("together", [False, True])
def test_a_gateway_over_tls(
    reactor: OwnReactor,
    beyond: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    together: bool,
) -> None:
    """The gateway's certificate is checked by the machine's authorities, and by its name."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "gate")])
    moment = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(moment - timedelta(days=1))
        .not_valid_after(moment + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), False)
        .sign(key, hashes.SHA256())
    )
    cert, file = tmp_path / "cert.pem", tmp_path / "key.pem"
    cert.write_bytes(made.public_bytes(Encoding.PEM))
    file.touch(0o600)
    file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    tls = FileCertificate(cert, file, any_of(reactor), lambda: moment)
    gateway = Gateway(reactor, HttpGateway, {"n": "127.0.0.1"}, tls=tls, together=together).start()

    out = Dialer(reactor, always(read_via(f"https://localhost:{gateway.port}")))
    with pytest.raises(Unreachable, match="certificate verify failed"):
        reactor.wait(dialled(out.endpoint("n", beyond)))
    monkeypatch.setenv("SSL_CERT_FILE", str(cert))
    other = Dialer(reactor, always(read_via(f"https://127.0.0.1:{gateway.port}")))
    with pytest.raises(Unreachable, match=f"https://127.0.0.1:{gateway.port} closed the"):
        reactor.wait(dialled(other.endpoint("n", beyond)))
    assert gateway.asked == []
    here = reactor.wait(dialled(out.endpoint("n", beyond)))
    reactor.until(lambda: here.received == b"hello")
    data = os.urandom(300_000)
    here.transport.write(data)
    reactor.until(lambda: here.received == b"hello" + data)
    gateway.stop()
    reactor.until(lambda: here.lost)


def test_a_gateway_that_says_nothing(reactor: OwnReactor) -> None:
    """Whoever accepts and does not answer is given up, and the socket is closed."""
    made: list[Here] = []

    def build() -> Here:
        made.append(Here())
        return made[-1]

    factory = Factory.forProtocol(build)
    factory.noisy = False
    port = any_of(reactor).listenTCP(0, factory, interface="127.0.0.1")
    out = Dialer(reactor, always(read_via(f"http://127.0.0.1:{port.getHost().port}")))
    with pytest.raises(Unreachable, match="does not answer; it is the way out"):
        reactor.wait(dialled(out.endpoint("n", 1, 0.3)))
    reactor.until(lambda: bool(made) and made[0].lost)
    going = dialled(out.endpoint("n", 1))
    reactor.until(lambda: len(made) == 2 and made[1].received != b"")
    ended: list[Failure] = []
    going.addErrback(ended.append)
    going.cancel()
    assert ended[0].check(CancelledError)
    reactor.until(lambda: made[1].lost)
    reactor.wait(port.stopListening())


def test_the_environment_is_heard_by_those_who_join(reactor: OwnReactor) -> None:
    """Without ``via`` the variables count; the process of auth itself needs no way out."""
    environ = {"HTTPS_PROXY": "http://10.9.9.9:1"}
    join = JoinConfig(proxy=Address("p", 1))
    assert way_out(Clock(), join, environ).choose("p", 1) == read_via("http://10.9.9.9:1")
    assert way_out(Clock(), None, environ).choose("p", 1) is None
    assert way_out(Clock(), join, {}).choose("p", 1) is None


# -- a whole node ---------------------------------------------------------------------
@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[SmallCluster]:
    """A cluster with one person."""
    with small_cluster(tmp_path) as made:
        made.person("alice", ME)
        yield made


@KINDS
@pytest.mark.skipif(shutil.which("ssh") is None, reason="OpenSSH is not installed")
def test_a_node_that_joins_and_serves_through_a_gateway(
    cluster: SmallCluster, make: Make, scheme: str
) -> None:
    """All that a node does goes through: joining, its tunnel, its calls; and comes back."""
    names = {"proxy.test": "127.0.0.1", "127.0.0.1": "127.0.0.1"}
    gateway = Gateway(cluster.reactor, make, names, login=("me", "secret")).start()
    file = cluster.folder / "login"
    file.touch(0o600)
    file.write_text("me:secret\n")
    proxy = cluster.proxy()
    node = cluster.tunnel_node(
        proxy,
        join={
            "proxy": Address("proxy.test", proxy.port),
            "via": read_via(f"{scheme}://127.0.0.1:{gateway.port}"),
            "via_login_file": file,
        },
    )
    cluster.reactor.until(lambda: node.proxies == (proxy.member.host_id,))
    assert ("proxy.test", proxy.port) in gateway.asked
    assert len(gateway.asked) >= 3  # the first contact, joining, the tunnel
    data = os.urandom(1_000_000)
    done = cluster.jump("alice", proxy, "nat1", "cat; exit 7", stdin=data)
    assert (done.stdout == data, done.stderr, done.returncode) == (True, b"", 7)
    cluster.wait_event("session.start")

    gateway.cut()
    cluster.reactor.until(lambda: node.proxies == ())
    cluster.reactor.until(lambda: node.proxies == (proxy.member.host_id,))
    assert cluster.jump("alice", proxy, "nat1", "true").returncode == 0
    gateway.stop()
