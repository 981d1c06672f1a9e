"""Nodes in a network that can be left through an egress proxy only."""

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
from tele.embed.egress import host_dialer
from tele.errors import InvalidInput, Unreachable
from tele.https.file_certificate import FileCertificate
from tele.outbound.dialer import Dialer
from tele.outbound.egress import always, parse_proxy
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


class Echo(Protocol):
    """A destination that sends first and then echoes."""

    def connectionMade(self) -> None:
        self.transport.write(b"hello")  # type: ignore[union-attr]

    def dataReceived(self, data: bytes) -> None:
        self.transport.write(data)  # type: ignore[union-attr]


class Client(Protocol):
    """Our end."""

    def __init__(self) -> None:
        self.received = b""
        self.lost = False

    def dataReceived(self, data: bytes) -> None:
        self.received += data

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost = True


@pytest.fixture
def destination(reactor: OwnReactor) -> Iterator[int]:
    """The port of a destination."""
    factory = Factory.forProtocol(Echo)
    factory.noisy = False
    port = any_of(reactor).listenTCP(0, factory, interface="127.0.0.1")
    yield port.getHost().port
    reactor.wait(port.stopListening())


def dialled(endpoint: IStreamClientEndpoint) -> Any:
    factory = Factory.forProtocol(Client)
    factory.noisy = False
    return endpoint.connect(factory)


@KINDS
@pytest.mark.parametrize("together", [False, True])
def test_a_connection_through(
    reactor: OwnReactor, destination: int, make: Make, scheme: str, together: bool
) -> None:
    """The proxy resolves the name; the client has the socket itself, and no byte is lost."""
    gateway = Gateway(reactor, make, {"node.test": "127.0.0.1"}, together=together).start()
    dialer = Dialer(reactor, always(parse_proxy(f"{scheme}://127.0.0.1:{gateway.port}")))
    client = reactor.wait(dialled(dialer.dial(f"node.test:{destination}", 10)))
    socket = client.transport
    assert (isinstance(socket, DirectSocket), socket.protocol is client) == (True, True)
    reactor.until(lambda: client.received == b"hello")
    data = os.urandom(300_000)
    client.transport.write(data)
    reactor.until(lambda: client.received == b"hello" + data)
    assert gateway.requests == [("node.test", destination)]
    gateway.stop()
    reactor.until(lambda: client.lost)


@KINDS
def test_a_gateway_that_wants_a_login(
    reactor: OwnReactor, destination: int, make: Make, scheme: str, tmp_path: Path
) -> None:
    """The login is read from its file for each connection, and no error contains its password."""
    gateway = Gateway(reactor, make, {"n": "127.0.0.1"}, login=("me", "rïght")).start()
    file = tmp_path / "login"
    join = JoinConfig(
        proxy=Address("n", destination),
        via=parse_proxy(f"{scheme}://127.0.0.1:{gateway.port}"),
        via_login_file=file,
    )
    dialer = host_dialer(reactor, join, {})
    problems = []
    for content in (None, "me", "me:wrong\n"):
        if content is not None:
            file.touch(0o600)
            file.write_text(content)
        with pytest.raises(Unreachable) as caught:
            reactor.wait(dialled(dialer.endpoint("n", destination)))
        problems.append(str(caught.value))
    assert "No such file" in problems[0]
    assert "expected user:password" in problems[1]
    assert "wrong" not in problems[2]
    assert "user and password" in problems[2] or "407 Proxy Authentication" in problems[2]
    file.write_text("me:rïght\n")
    file.chmod(0o644)
    with pytest.raises(Unreachable, match=f"others can read it .*chmod 600 {file}"):
        reactor.wait(dialled(dialer.endpoint("n", destination)))
    with pytest.raises(InvalidInput, match=r"via_login_file .*others can read it"):
        host_dialer(reactor, join, {})
    file.chmod(0o600)
    client = reactor.wait(dialled(dialer.endpoint("n", destination)))
    reactor.until(lambda: client.received == b"hello")
    gateway.stop()
    reactor.until(lambda: client.lost)


@KINDS
def test_refusals_and_silence(reactor: OwnReactor, make: Make, scheme: str) -> None:
    """An error quotes the proxy's refusal; an unreachable proxy is an error."""
    gateway = Gateway(reactor, make).start()
    via = f"{scheme}://127.0.0.1:{gateway.port}"
    dialer = Dialer(reactor, always(parse_proxy(via)))
    message = "refused nobody.test:22: ('403 Not on my watch'|connection not allowed by ruleset)"
    with pytest.raises(Unreachable, match=message) as caught:
        reactor.wait(dialled(dialer.endpoint("nobody.test", 22)))
    assert via in str(caught.value)
    gateway.stop()
    with pytest.raises(Unreachable, match="cannot connect to egress proxy"):
        reactor.wait(dialled(dialer.endpoint("nobody.test", 22)))


@pytest.mark.parametrize("together", [False, True])
def test_a_gateway_over_tls(
    reactor: OwnReactor,
    destination: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    together: bool,
) -> None:
    """The proxy's certificate is checked against the machine's authorities, and its name."""
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

    dialer = Dialer(reactor, always(parse_proxy(f"https://localhost:{gateway.port}")))
    with pytest.raises(Unreachable, match="certificate verify failed"):
        reactor.wait(dialled(dialer.endpoint("n", destination)))
    monkeypatch.setenv("SSL_CERT_FILE", str(cert))
    other = Dialer(reactor, always(parse_proxy(f"https://127.0.0.1:{gateway.port}")))
    with pytest.raises(Unreachable, match=f"https://127.0.0.1:{gateway.port} closed the"):
        reactor.wait(dialled(other.endpoint("n", destination)))
    assert gateway.requests == []
    client = reactor.wait(dialled(dialer.endpoint("n", destination)))
    reactor.until(lambda: client.received == b"hello")
    data = os.urandom(300_000)
    client.transport.write(data)
    reactor.until(lambda: client.received == b"hello" + data)
    gateway.stop()
    reactor.until(lambda: client.lost)


def test_a_gateway_that_does_not_answer(reactor: OwnReactor) -> None:
    """A proxy that accepts and does not answer times out, and the socket is closed."""
    made: list[Client] = []

    def build() -> Client:
        made.append(Client())
        return made[-1]

    factory = Factory.forProtocol(build)
    factory.noisy = False
    port = any_of(reactor).listenTCP(0, factory, interface="127.0.0.1")
    dialer = Dialer(reactor, always(parse_proxy(f"http://127.0.0.1:{port.getHost().port}")))
    with pytest.raises(Unreachable, match=r"egress proxy .* does not answer"):
        reactor.wait(dialled(dialer.endpoint("n", 1, 0.3)))
    reactor.until(lambda: bool(made) and made[0].lost)
    connecting = dialled(dialer.endpoint("n", 1))
    reactor.until(lambda: len(made) == 2 and made[1].received != b"")
    ended: list[Failure] = []
    connecting.addErrback(ended.append)
    connecting.cancel()
    assert ended[0].check(CancelledError)
    reactor.until(lambda: made[1].lost)
    reactor.wait(port.stopListening())


def test_hosts_that_join_use_the_environment(reactor: OwnReactor) -> None:
    """Without ``via`` the variables count; in the process of auth there is no egress proxy."""
    environ = {"HTTPS_PROXY": "http://10.9.9.9:1"}
    join = JoinConfig(proxy=Address("p", 1))
    assert host_dialer(Clock(), join, environ).proxy_for("p", 1) == parse_proxy("http://10.9.9.9:1")
    assert host_dialer(Clock(), None, environ).proxy_for("p", 1) is None
    assert host_dialer(Clock(), join, {}).proxy_for("p", 1) is None


# -- a whole node ---------------------------------------------------------------------
@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[SmallCluster]:
    """A cluster with one user."""
    with small_cluster(tmp_path) as made:
        made.person("alice", ME)
        yield made


@KINDS
@pytest.mark.skipif(shutil.which("ssh") is None, reason="OpenSSH is not installed")
def test_a_node_that_joins_and_serves_through_a_gateway(
    cluster: SmallCluster, make: Make, scheme: str
) -> None:
    """Joining, the tunnel and all calls of a node use the proxy; the node reconnects."""
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
            "via": parse_proxy(f"{scheme}://127.0.0.1:{gateway.port}"),
            "via_login_file": file,
        },
    )
    cluster.reactor.until(lambda: node.proxies == (proxy.member.host_id,))
    assert ("proxy.test", proxy.port) in gateway.requests
    assert len(gateway.requests) >= 3  # the first contact, joining, the tunnel
    data = os.urandom(1_000_000)
    done = cluster.jump("alice", proxy, "nat1", "cat; exit 7", stdin=data)
    assert (done.stdout == data, done.stderr, done.returncode) == (True, b"", 7)
    cluster.wait_event("session.start")

    gateway.cut()
    cluster.reactor.until(lambda: node.proxies == ())
    cluster.reactor.until(lambda: node.proxies == (proxy.member.host_id,))
    assert cluster.jump("alice", proxy, "nat1", "true").returncode == 0
    gateway.stop()
