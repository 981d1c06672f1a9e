"""People whose network lets nobody out: ``tele`` and ssh go where HTTPS_PROXY says."""

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
    """A cluster with a person who has a password, and a node behind a proxy."""
    with small_cluster(tmp_path) as made:
        user = User(Metadata("alice"), UserSpec(("access",), {"logins": (ME,)}))
        made.reactor.wait(made.admin.perform(ADD_USER, NewUser(user, "a password of hers")))
        (tmp_path / "password").touch(0o600)
        (tmp_path / "password").write_text("a password of hers\n")
        yield made


def tele(
    cluster: SmallCluster, way: str, proxy: SmallProxy, *words: str
) -> CompletedProcess[bytes]:
    """Run ``tele`` with a way out."""
    return cluster.run(
        "env", "-u", "NO_PROXY", "-u", "no_proxy", f"HTTPS_PROXY={way}",
        f"TELE_HOME={cluster.folder}/home", f"HOME={cluster.folder}",
        f"PATH={BIN}:{os.environ['PATH']}", f"TELE_PROXY=proxy.test:{proxy.port}",
        "TELE_USER=alice", "tele", *words,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("make", "scheme"), [(HttpGateway, "http"), (SocksGateway, "socks5")], ids=["http", "socks5"]
)
def test_login_and_ssh_through_a_gateway(
    cluster: SmallCluster, make: type[HttpGateway | SocksGateway], scheme: str
) -> None:
    """Logging in, calling auth and ssh itself: the gateway resolves the name of the proxy."""
    names = {"proxy.test": "127.0.0.1"}
    login = ("me", "se:cret")
    gateway = Gateway(cluster.reactor, make, names, login=login).start()
    way = f"{scheme}://me:se%3Acret@127.0.0.1:{gateway.port}"
    proxy = cluster.proxy()
    node = cluster.tunnel_node(proxy)
    cluster.reactor.until(lambda: node.proxies == (proxy.member.host_id,))
    pin = cluster.settings().pins[0]
    password = str(cluster.folder / "password")
    words = ("login", "--password-file", password, "--ca-pin", pin)
    done = tele(cluster, way, proxy, *words)
    assert done.returncode == 0, done.stderr.decode()
    assert gateway.asked == [("proxy.test", proxy.port)] * len(gateway.asked) != []

    done = tele(cluster, way, proxy, "ls", "--format", "names")
    assert (done.returncode, done.stdout) == (0, b"nat1\n")
    before = len(gateway.asked)
    done = tele(cluster, way, proxy, "ssh", f"{ME}@nat1", "echo here; exit 7")
    assert (done.returncode, done.stdout, done.stderr) == (7, b"here\n", b"")
    assert len(gateway.asked) == before + 1

    wrong = tele(cluster, way.replace("cret", "crud"), proxy, "ls")
    assert (wrong.returncode, wrong.stdout) == (6, b"")
    assert b"crud" not in wrong.stderr
    assert b"Traceback" not in wrong.stderr
    wrong = tele(cluster, way.replace("cret", "crud"), proxy, "ssh", f"{ME}@nat1", "true")
    assert wrong.returncode == 255
    assert b"127.0.0.1" in wrong.stderr
    assert b"crud" not in wrong.stderr
    gateway.stop()
    gone = tele(cluster, way, proxy, "ls")
    assert gone.returncode == 6
    assert b"it is the way out (HTTPS_PROXY): Connection refused" in gone.stderr


@pytest.mark.parametrize(
    ("way", "words"),
    [
        ("https://10.0.0.1", "tele's commands do not leave through https://10.0.0.1:443"),
        ("ftp://u:secret@10.0.0.1", "HTTPS_PROXY: 'ftp' is no way out"),
    ],
)
def test_what_cannot_be_a_way_out(way: str, words: str) -> None:
    """It is said what is wrong, without the password in it."""
    with pytest.raises(InvalidInput, match=words) as caught:
        connect("proxy.test", 3080, 10, {"HTTPS_PROXY": way})
    assert "secret" not in str(caught.value)


def test_a_way_out_that_is_silent_or_leaves() -> None:
    """Commands do not wait for ever for a way out, nor go around it."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        way = {"HTTPS_PROXY": f"http://127.0.0.1:{listening.getsockname()[1]}"}
        with pytest.raises(Unreachable, match="does not answer; it is the way out"):
            connect("proxy.test", 3080, 0.2, way)
        listening.accept()[0].close()

        def leave() -> None:
            with listening.accept()[0] as accepted:
                accepted.recv(10_000)

        leaving = threading.Thread(target=leave)
        leaving.start()
        with pytest.raises(Unreachable, match="closed the connection instead of an answer"):
            connect("proxy.test", 3080, 20, way)
        leaving.join()


def test_bytes_after_the_answer_stay_in_the_socket() -> None:
    """Whoever gets the socket reads what the destination said first."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()

        def serve() -> None:
            with listening.accept()[0] as accepted:
                accepted.recv(10_000)
                accepted.sendall(b"HTTP/1.1 200 OK\r\n\r\nSSH-2.0-x\r\n")

        serving = threading.Thread(target=serve)
        serving.start()
        way = {"HTTPS_PROXY": f"http://127.0.0.1:{listening.getsockname()[1]}"}
        with connect("proxy.test", 3080, 20, way) as made:
            assert made.makefile("rb").read() == b"SSH-2.0-x\r\n"
        serving.join()
