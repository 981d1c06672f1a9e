"""The command line's client against a real server on a real port."""

from __future__ import annotations

import socket
import ssl
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from attrs import frozen

import api_world
from api_world import SERVER_NAME
from tele.certs.pins import pin
from tele.errors import AccessDenied, InvalidInput, NotFound, NotLoggedIn, TeleError, Unreachable
from tele.https.blocking import BlockingAuthority, fetch_cluster_blocking
from tele.https.identity import TlsFiles, TlsIdentity
from tele.https.pinning import UnverifiedCluster
from tele.model.addresses import Address
from tele.model.api import table
from tele.model.api.audit import FollowEvents
from tele.model.api.operation import Nothing
from tele.model.api.paging import ByName, Paged
from tele.model.api.recordings import GetChunk, PutChunk
from tele.model.identity import HostRole
from tele.model.presence import Presence


@frozen
class Served:
    """A running server: its address, and certificates in ``folder``."""

    folder: Path
    address: str

    def files(self, name: str) -> TlsFiles:
        return TlsFiles(self.folder / f"{name}.pem", self.folder / f"{name}.key")

    def client(self, name: str | None, ca: str = "ca") -> BlockingAuthority:
        return BlockingAuthority(
            self.address,
            None if name is None else self.files(name),
            [(self.folder / f"{ca}.pem").read_text()],
            SERVER_NAME,
        )


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One server process for all tests here."""
    folder = tmp_path_factory.mktemp("api")
    child = subprocess.Popen(
        [sys.executable, api_world.__file__, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        yield Served(folder, f"127.0.0.1:{int(child.stdout.readline())}")
    finally:
        child.stdin.close()
        child.wait(20)
        child.stdout.close()


def test_calls_with_and_without_a_certificate(served: Served) -> None:
    """Open operations need none; the others know the user by it. One connection serves many."""
    with served.client(None) as anyone:
        assert anyone.perform(table.HEALTH, Nothing()).status == "ok"
        with pytest.raises(NotLoggedIn):
            anyone.perform(table.WHOAMI, Nothing())
        assert anyone.perform(table.HEALTH, Nothing()).status == "ok"
    with served.client("alice") as alice:
        assert alice.perform(table.WHOAMI, Nothing()).user == "alice"
        assert alice.perform(table.GET_CHUNK, GetChunk("a", 9)).data == b"\x00\xff" * 9
        assert alice.perform(table.GET_CHUNK, GetChunk("a", 9, 1, 4)).data == b"\xff\x00\xff"
        with pytest.raises(NotFound, match="no user 'bob'"):
            alice.perform(table.GET_USER, ByName("bob"))
        with pytest.raises(TeleError, match="incident"):
            alice.perform(table.LIST_ROLES, Paged())


def test_a_certificate_in_memory(served: Served) -> None:
    """Key and certificate need not be in files."""
    files = served.files("alice")
    identity = TlsIdentity(files.certificate.read_text(), files.key.read_bytes())
    trust = [(served.folder / "ca.pem").read_text()]
    with BlockingAuthority(served.address, identity, trust, SERVER_NAME) as alice:
        assert alice.perform(table.WHOAMI, Nothing()).user == "alice"
    assert "PRIVATE" not in repr(identity)


@pytest.mark.parametrize("name", ["rogue", "old"])
def test_a_bad_certificate_means_log_in(served: Served, name: str) -> None:
    """Of another CA, or expired: refused in the handshake, and the text says what to do."""
    with served.client(name) as client, pytest.raises(NotLoggedIn, match="log in again"):
        client.perform(table.WHOAMI, Nothing())


def test_missing_and_broken_files_mean_log_in(served: Served, tmp_path: Path) -> None:
    """No question is asked on the terminal, no traceback shown."""
    with pytest.raises(NotLoggedIn, match="log in"):
        BlockingAuthority("h:1", TlsFiles(tmp_path / "no", tmp_path / "no"), [], SERVER_NAME)
    (tmp_path / "bad").write_text("-----BEGIN ENCRYPTED PRIVATE KEY-----\n")
    with pytest.raises(NotLoggedIn, match="log in again"):
        BlockingAuthority("h:1", TlsFiles(tmp_path / "bad", tmp_path / "bad"), [], SERVER_NAME)


def test_a_server_that_is_not_auth(served: Served) -> None:
    """Another CA or another name is refused before anything is said."""
    with (
        served.client("alice", "rogue-ca") as client,
        pytest.raises(AccessDenied, match="not the auth server"),
    ):
        client.perform(table.WHOAMI, Nothing())
    trust = [(served.folder / "ca.pem").read_text()]
    with (
        BlockingAuthority(served.address, None, trust, "auth.other") as client,
        pytest.raises(AccessDenied, match="not the auth server"),
    ):
        client.perform(table.HEALTH, Nothing())


def test_streams(served: Served) -> None:
    """A refused stream raises what it was refused with."""
    with served.client("alice") as alice, pytest.raises(AccessDenied, match="no rule"):
        next(alice.follow(table.FOLLOW_EVENTS, FollowEvents()))


def test_first_contact(served: Served) -> None:
    """With the right pin verified, with none said to be unverified, with another refused."""
    right = pin((served.folder / "ca.pem").read_text())
    info = fetch_cluster_blocking(served.address, [right])
    assert info.cluster == "example"
    assert not isinstance(info, UnverifiedCluster)
    assert isinstance(fetch_cluster_blocking(served.address, []), UnverifiedCluster)
    with pytest.raises(AccessDenied):
        fetch_cluster_blocking(served.address, [pin((served.folder / "rogue-ca.pem").read_text())])


REACTOR = """
import sys
from pathlib import Path
from twisted.internet import task
from tele.certs.pins import pin
from tele.https.client import RemoteAuthority, fetch_cluster
from tele.https.identity import TlsIdentity
from tele.model.api import table
from tele.model.api.operation import Nothing

folder, address = Path(sys.argv[1]), sys.argv[2]
ca = (folder / "ca.pem").read_text()
alice = TlsIdentity((folder / "alice.pem").read_text(), (folder / "alice.key").read_bytes())

async def main(reactor):
    info = await fetch_cluster(reactor, address, [pin(ca)])
    auth = RemoteAuthority(
        reactor, ["127.0.0.1:1", "[::1]:1", address], lambda: alice, lambda: [ca], "auth.example"
    )
    names = [(await auth.perform(table.WHOAMI, Nothing())).user for _ in range(3)]
    auth.close()
    print(info.cluster, *names)

task.react(lambda reactor: task.Deferred.fromCoroutine(main(reactor)))
"""


def test_the_reactor_client_on_real_sockets(served: Served) -> None:
    """Addresses where nothing listens are skipped; a program with a reactor ends cleanly."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", REACTOR, str(served.folder), served.address],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("example alice alice alice\n", "")


def test_nothing_listens() -> None:
    """The error names the address, and ends the program with its own exit code."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(Unreachable, match=address) as caught:
            fetch_cluster_blocking(address, [])
        assert caught.value.exit_code == 6


@pytest.mark.parametrize(
    "said", [b"", b"SSH-2.0-x\r\n", b"HTTP/1.1 400 Bad\r\n\r\n"], ids=["silence", "ssh", "http"]
)
def test_something_else_answers(said: bytes) -> None:
    """What is not TLS is not auth."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            connection.sendall(said)
            connection.close()

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(Unreachable):
            fetch_cluster_blocking(f"127.0.0.1:{server.getsockname()[1]}", [])
        thread.join()


def test_an_answer_that_comes_before_the_body_was_sent(tmp_path: Path) -> None:
    """A server may refuse a request by its head and close: the refusal is what is reported."""
    body = b'{"error": {"kind": "denied", "message": "not for you"}}'
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "own"))
        server.listen()

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                head = b""
                while b"\r\n\r\n" not in head:
                    head += connection.recv(1000)
                connection.sendall(
                    b"HTTP/1.1 403 No\r\nconnection: close\r\ncontent-length: %d\r\n\r\n%b"
                    % (len(body), body)
                )

        thread = threading.Thread(target=answer)
        thread.start()
        with (
            BlockingAuthority.local(str(tmp_path / "own")) as host,
            pytest.raises(AccessDenied, match="not for you"),
        ):
            # More than the kernel buffers for a peer that does not read.
            host.perform(table.PUT_CHUNK, PutChunk("a", 0, b"x" * 4_000_000))
        thread.join()


def test_old_tls_and_plain_http_get_nothing(served: Served) -> None:
    """TLS 1.2 fails in the handshake; bytes without TLS get no HTTP."""
    host, port = Address.parse(served.address)
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with socket.create_connection((host, port), 10) as raw, pytest.raises(ssl.SSLError):
        context.wrap_socket(raw)
    with socket.create_connection((host, port), 10) as raw:
        raw.sendall(b"GET /v1/health HTTP/1.1\r\nhost: a\r\n\r\n")
        assert b"HTTP" not in raw.recv(1000)


def test_alpn_protocols_of_auth(served: Served) -> None:
    """By ALPN: our name for it first, HTTP for tools; no other protocol."""
    host, port = Address.parse(served.address)
    for offered, chosen in ((["tele-auth", "http/1.1"], "tele-auth"), (["http/1.1"], "http/1.1")):
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.set_alpn_protocols(offered)
        with (
            socket.create_connection((host, port), 10) as raw,
            context.wrap_socket(raw, server_hostname=SERVER_NAME) as secured,
        ):
            assert secured.selected_alpn_protocol() == chosen


def test_the_socket_of_the_machine(served: Served) -> None:
    """The caller is known by its account: no certificate is needed, other accounts are refused."""
    with BlockingAuthority.local(str(served.folder / "own")) as operator:
        assert operator.perform(table.WHOAMI, Nothing()).user == "operator"
        with pytest.raises(AccessDenied, match="not for user operator"):
            operator.perform(table.ANNOUNCE, Presence("web1", HostRole.NODE))
    assert stat.S_IMODE((served.folder / "own").stat().st_mode) == 0o600
    with (
        BlockingAuthority.local(str(served.folder / "others")) as anonymous,
        pytest.raises(Unreachable),
    ):
        anonymous.perform(table.HEALTH, Nothing())
    with (
        BlockingAuthority.local(str(served.folder / "nothing")) as refused,
        pytest.raises(Unreachable, match="nothing"),
    ):
        refused.perform(table.HEALTH, Nothing())


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("a", ("a", 3025)),
        ("a:1", ("a", 1)),
        ("[::1]:22", ("::1", 22)),
        ("[::1]", ("::1", 3025)),
        ("::1", ("::1", 3025)),
    ],
)
def test_addresses(text: str, address: tuple[str, int]) -> None:
    """Host, host:port and both forms of IPv6."""
    assert Address.parse(text) == address


@pytest.mark.parametrize("text", ["", ":1", "a:", "a:0", "a:65536", "a:x", "a:-1", "a:\u0661"])
def test_bad_addresses(text: str) -> None:
    """Anything else is refused with an example."""
    with pytest.raises(InvalidInput, match=r"example\.com"):
        Address.parse(text)


def test_the_client_is_light() -> None:
    """Importing it brings neither Twisted nor cryptography."""
    code = (
        "import sys, tele.https.blocking; "
        "print([m for m in ('twisted', 'OpenSSL', 'cryptography', 'h11', 'tele.model.api.table')"
        " if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
