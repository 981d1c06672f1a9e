"""Clients in a network with an egress proxy: ``tele`` and ssh connect as HTTPS_PROXY says."""

from __future__ import annotations

import os
import shutil
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from gateways import Gateway, HttpGateway, SocksGateway
from small_cluster import ME, SmallCluster, SmallProxy, small_cluster
from tele.errors import InvalidInput, Unreachable
from tele.model.api.users import ADD_USER, NewUser
from tele.model.resources import Metadata, User, UserSpec
from tele.outbound.blocking_dial import connect

pytestmark = pytest.mark.skipif(shutil.which("ssh") is None, reason="OpenSSH is not installed")
BIN = Path(sys.executable).parent


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[SmallCluster]:
    """A cluster with a user who has a password, and a node behind a proxy."""
    with small_cluster(tmp_path) as made:
        user = User(Metadata("alice"), UserSpec(("access",), {"logins": (ME,)}))
        made.reactor.wait(made.admin.perform(ADD_USER, NewUser(user, "a password of hers")))
        (tmp_path / "password").touch(0o600)
        (tmp_path / "password").write_text("a password of hers\n")
        yield made


def tele(
    cluster: SmallCluster, egress: str, proxy: SmallProxy, *args: str
) -> CompletedProcess[bytes]:
    """Run ``tele`` with an egress proxy."""
    return cluster.run(
        "env", "-u", "NO_PROXY", "-u", "no_proxy", f"HTTPS_PROXY={egress}",
        f"TELE_HOME={cluster.folder}/home", f"HOME={cluster.folder}",
        f"PATH={BIN}:{os.environ['PATH']}", f"TELE_PROXY=proxy.test:{proxy.port}",
        "TELE_USER=alice", "tele", *args,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("make", "scheme"), [(HttpGateway, "http"), (SocksGateway, "socks5")], ids=["http", "socks5"]
)
def test_login_and_ssh_through_a_gateway(
    cluster: SmallCluster, make: type[HttpGateway | SocksGateway], scheme: str
) -> None:
    """Login, calls of auth and ssh itself: the egress proxy resolves the name of the proxy."""
    names = {"proxy.test": "127.0.0.1"}
    login = ("me", "se:cret")
    gateway = Gateway(cluster.reactor, make, names, login=login).start()
    egress = f"{scheme}://me:se%3Acret@127.0.0.1:{gateway.port}"
    proxy = cluster.proxy()
    node = cluster.tunnel_node(proxy)
    cluster.reactor.until(lambda: node.proxies == (proxy.member.host_id,))
    pin = cluster.settings().pins[0]
    password = str(cluster.folder / "password")
    args = ("login", "--password-file", password, "--ca-pin", pin)
    done = tele(cluster, egress, proxy, *args)
    assert done.returncode == 0, done.stderr.decode()
    assert gateway.requests == [("proxy.test", proxy.port)] * len(gateway.requests) != []

    done = tele(cluster, egress, proxy, "ls", "--format", "names")
    assert (done.returncode, done.stdout) == (0, b"nat1\n")
    before = len(gateway.requests)
    done = tele(cluster, egress, proxy, "ssh", f"{ME}@nat1", "echo here; exit 7")
    assert (done.returncode, done.stdout, done.stderr) == (7, b"here\n", b"")
    assert len(gateway.requests) == before + 1

    wrong = tele(cluster, egress.replace("cret", "crud"), proxy, "ls")
    assert (wrong.returncode, wrong.stdout) == (6, b"")
    assert b"crud" not in wrong.stderr
    assert b"Traceback" not in wrong.stderr
    wrong = tele(cluster, egress.replace("cret", "crud"), proxy, "ssh", f"{ME}@nat1", "true")
    assert wrong.returncode == 255
    assert b"127.0.0.1" in wrong.stderr
    assert b"crud" not in wrong.stderr
    gateway.stop()
    gone = tele(cluster, egress, proxy, "ls")
    assert gone.returncode == 6
    assert f"cannot connect to egress proxy {scheme}://".encode() in gone.stderr
    assert b"(HTTPS_PROXY): Connection refused" in gone.stderr


@pytest.mark.parametrize(
    ("egress", "message"),
    [
        ("https://10.0.0.1", "tele's commands cannot use https://10.0.0.1:443 as egress"),
        ("ftp://u:secret@10.0.0.1", "HTTPS_PROXY: unknown kind of proxy: 'ftp'"),
    ],
)
def test_an_invalid_egress_proxy(egress: str, message: str) -> None:
    """The error says what is wrong, without the password."""
    with pytest.raises(InvalidInput, match=message) as caught:
        connect("proxy.test", 3080, 10, {"HTTPS_PROXY": egress})
    assert "secret" not in str(caught.value)


def test_an_egress_proxy_that_does_not_answer_or_closes() -> None:
    """Commands do not wait for an egress proxy for ever, nor bypass it."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        egress = {"HTTPS_PROXY": f"http://127.0.0.1:{listening.getsockname()[1]}"}
        with pytest.raises(Unreachable, match=r"egress proxy .* does not answer"):
            connect("proxy.test", 3080, 0.2, egress)
        listening.accept()[0].close()

        def leave() -> None:
            with listening.accept()[0] as accepted:
                accepted.recv(10_000)

        dialing = threading.Thread(target=leave)
        dialing.start()
        with pytest.raises(Unreachable, match="closed the connection without a reply"):
            connect("proxy.test", 3080, 20, egress)
        dialing.join()


def test_bytes_after_the_reply_stay_in_the_socket() -> None:
    """The caller reads the first bytes of the destination from the socket."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()

        def serve() -> None:
            with listening.accept()[0] as accepted:
                accepted.recv(10_000)
                accepted.sendall(b"HTTP/1.1 200 OK\r\n\r\nSSH-2.0-x\r\n")

        serving = threading.Thread(target=serve)
        serving.start()
        egress = {"HTTPS_PROXY": f"http://127.0.0.1:{listening.getsockname()[1]}"}
        with connect("proxy.test", 3080, 20, egress) as made:
            assert made.makefile("rb").read() == b"SSH-2.0-x\r\n"
        serving.join()
