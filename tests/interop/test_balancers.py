"""Proxies behind HAProxy, which names the source of each connection by the PROXY protocol."""

from __future__ import annotations

import shutil
import signal
import socket
import ssl
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from small_cluster import ME, SmallCluster, free_port, small_cluster
from tele.https.file_certificate import FileCertificate
from tele.loop import now

HAPROXY = shutil.which("haproxy") or "/usr/sbin/haproxy"
pytestmark = [
    pytest.mark.skipif(not Path(HAPROXY).exists(), reason="HAProxy is not installed"),
    pytest.mark.skipif(shutil.which("ssh") is None, reason="OpenSSH is not installed"),
]
#: The source addresses of HAProxy and of clients.
BALANCER, CLIENT = "127.0.0.2", "127.0.0.3"


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[SmallCluster]:
    """A cluster with one user."""
    with small_cluster(tmp_path) as made:
        made.source = CLIENT
        made.person("alice", ME)
        yield made


@contextmanager
def haproxy(cluster: SmallCluster, ports: Mapping[int, int], option: str) -> Iterator[None]:
    """HAProxy, passing ``ports`` (from port: to port) on with ``option``."""
    lines = ["defaults", " mode tcp", " timeout connect 10s", " timeout client 1h",
             " timeout server 1h"]  # fmt: skip
    for here, there in ports.items():
        lines += [
            f"listen port{here}",
            f" bind 127.0.0.1:{here}",
            f" source {BALANCER}",
            f" server proxy 127.0.0.1:{there} {option}",
        ]
    file = cluster.folder / "haproxy.cfg"
    file.write_text("\n".join(lines) + "\n")
    process = subprocess.Popen([HAPROXY, "-q", "-db", "-f", str(file)])
    try:
        cluster.reactor.until(lambda: all(_answers(port) for port in ports))
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def get(port: int, path: str, first: bytes = b"") -> bytes:
    """Ask for a page over TLS, with ``first`` sent before it."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with socket.create_connection(("127.0.0.1", port), 20) as plain:
        plain.sendall(first)
        with context.wrap_socket(plain, server_hostname="localhost") as connection:
            connection.sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())
            answer = b""
            while data := connection.recv(4096):
                answer += data
            return answer


@pytest.mark.parametrize("option", ["send-proxy", "send-proxy-v2"])
def test_everything_works_behind_a_balancer(cluster: SmallCluster, option: str) -> None:
    """A node joins and is reached, pages are served, and the audit has the real client address."""
    public, port = free_port(), free_port()
    with haproxy(cluster, {public: port}, option):
        proxy = cluster.proxy(port=port, public=public, proxy_protocol=True)
        node = cluster.tunnel_node(proxy)
        cluster.reactor.until(lambda: node.proxies == (proxy.member.host_id,))
        done = cluster.jump("alice", proxy, "nat1", "echo $SSH_CLIENT")
        assert (done.returncode, done.stderr) == (0, b"")
        assert done.stdout.startswith(CLIENT.encode())
        (started,) = cluster.wait_event("session.start")
        assert started.remote_addr.startswith(f"{CLIENT}:")

        pages: list[bytes] = []
        cluster.reactor.getThreadPool().callInThread(lambda: pages.append(get(public, "/healthz")))
        cluster.reactor.until(lambda: bool(pages))
        assert b'"ok"' in pages[0]

        refused = cluster.run(
            "ssh", "-F", "none", "-b", CLIENT, "-p", str(public), "-o", "BatchMode=yes",
            "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null",
            "-o", "IdentitiesOnly=yes", "-i", str(cluster.folder / "people" / "alice"),
            "-o", "CertificateFile=none", "alice@127.0.0.1",
        )  # fmt: skip
        assert refused.returncode == 255
        (denied, *_) = cluster.wait_event("auth.denied")
        assert denied.remote_addr.startswith(f"{CLIENT}:")


def test_connections_around_the_balancer_are_refused(cluster: SmallCluster) -> None:
    """At the proxy's own port nothing is served without a header; behind HAProxy no second one."""
    public, port = free_port(), free_port()
    with haproxy(cluster, {public: port}, "send-proxy-v2"):
        proxy = cluster.proxy(port=port, public=public, proxy_protocol=True)
        proxy.port = port
        done = cluster.jump("alice", proxy, "nat1", "true")
        assert done.returncode == 255
        problems: list[Exception] = []

        def attack() -> None:
            for where, first in ((port, b""), (public, b"PROXY TCP4 10.1.1.1 10.1.1.2 1 2\r\n")):
                try:
                    get(where, "/healthz", first)
                except OSError as error:
                    problems.append(error)

        cluster.reactor.getThreadPool().callInThread(attack)
        cluster.reactor.until(lambda: len(problems) == 2)


def test_proxies_reach_each_other_around_their_balancers(cluster: SmallCluster) -> None:
    """A client of one proxy reaches a node with a tunnel to another, with its real address."""
    ports = {free_port(): free_port() for _ in range(2)}
    with haproxy(cluster, ports, "send-proxy-v2"):
        proxies = [
            cluster.proxy(f"proxy{number}", port, public, proxy_protocol=True)
            for number, (public, port) in enumerate(ports.items(), 1)
        ]
        ids = {proxy.member.host_id for proxy in proxies}
        cluster.reactor.until(
            lambda: all({p.id for p in each.member.state.proxies} == ids for each in proxies)
        )
        node = cluster.tunnel_node(proxies[0], tunnels=1)
        there = cluster.settled(node, *proxies)
        other = next(each for each in proxies if each.member.host_id != there)

        def is_known() -> bool:
            done.append(cluster.jump("alice", other, "nat1", "echo $SSH_CLIENT"))
            return b"no tunnel now" not in done[-1].stderr

        done: list[subprocess.CompletedProcess[bytes]] = []
        cluster.reactor.until(is_known, 60)
        assert done[-1].returncode == 0, done[-1].stderr.decode()
        assert done[-1].stdout.startswith(CLIENT.encode())


def test_a_configured_certificate_is_for_pages_only(cluster: SmallCluster) -> None:
    """Browsers see the configured certificate, and its successor; the API stays auth's."""
    folder = cluster.folder
    for name in ("one", "two"):
        cluster.run(
            "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
            "-nodes", "-subj", f"/CN={name}.example", "-days", "2",
            "-keyout", f"{name}.key", "-out", f"{name}.pem",
        )  # fmt: skip
    files = (folder / "cert.pem", folder / "cert.key")

    def use(name: str) -> None:
        for file in files:
            (folder / f"{name}{file.suffix}").replace(file)

    def shown(port: int) -> bytes:
        args = ("s_client", "-connect", f"127.0.0.1:{port}", "-servername", "x", "-showcerts")
        return cluster.run("openssl", *args, stdin=b"").stdout

    use("one")
    given = FileCertificate(*files, cluster.reactor, lambda: now(cluster.reactor))
    proxy = cluster.proxy(https=given)
    node = cluster.tunnel_node(proxy)
    cluster.reactor.until(lambda: node.proxies == (proxy.member.host_id,))
    assert b"subject=CN = one.example" in shown(proxy.port)
    use("two")
    cluster.reactor.until(lambda: b"subject=CN = two.example" in shown(proxy.port))
    args = ("s_client", "-connect", f"127.0.0.1:{proxy.port}", "-alpn", "tele-auth")
    auth = cluster.run("openssl", *args, stdin=b"").stdout
    assert b"ALPN protocol: tele-auth" in auth
    assert b"two.example" not in auth
