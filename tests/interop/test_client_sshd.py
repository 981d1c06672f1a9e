"""Our client at the server of OpenSSH's sshd, which has a host certificate and trusts our users."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from attrs import define, evolve
from twisted.internet.endpoints import HostnameEndpoint

from own_reactor import OwnReactor, own_reactor
from tele.admission.limits import Limits
from tele.certs.issue import (
    HostCertificateRequest,
    UserCertificateRequest,
    issue_host,
    issue_user,
)
from tele.certs.keys import PrivateKey
from tele.conch.client.session import ProgramChannel, execute
from tele.conch.client.transport import ClientIdentity, HostVerifier, connect
from tele.conch.session.programs import ProgramRequest
from tele.errors import AccessDenied, BadCertificate
from tele.model.identity import HostRole
from tele.sockets.direct import DirectReactor
from tele.wire.ciphers import CIPHERS, MACS, needs_mac
from tele.wire.key_agreement import METHODS
from three_processes import free_port, wait_for

MEGABYTE = 1 << 20
LOGIN = pwd.getpwuid(os.geteuid()).pw_name
SUITES = [(c, m) for c in CIPHERS for m in (MACS if needs_mac(c) else MACS[:1])]
#: Key exchanges of the installed OpenSSH.
KNOWN = subprocess.run(["ssh", "-Q", "kex"], capture_output=True, check=True).stdout.split()
SSHD = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin")

pytestmark = pytest.mark.skipif(SSHD is None, reason="sshd is not installed")


@define
class Sshd:
    """A running sshd, and what our client needs to log in."""

    folder: Path
    port: int
    users: PrivateKey
    hosts: PrivateKey

    def identity(self, kind: str = "ssh-ed25519", login: str = LOGIN) -> ClientIdentity:
        """A user with a certificate for ``LOGIN``."""
        key = PrivateKey.generate(kind)
        request = UserCertificateRequest(
            "alice", "interop", (LOGIN,), ("dev",), "s-1", timedelta(hours=1)
        )
        now = datetime.now(UTC)
        made = issue_user(self.users, key.public.blob, request, now, os.urandom)
        return ClientIdentity(key, made, login)

    def verifier(self) -> HostVerifier:
        return HostVerifier({self.hosts.public.blob}, ("web1",))

    def log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")


@contextmanager
def sshd(folder: Path, *lines: str, host_kind: str = "ssh-ed25519") -> Iterator[Sshd]:
    """An sshd of our own on a free port."""
    users, hosts, host = (
        PrivateKey.generate(),
        PrivateKey.generate(),
        PrivateKey.generate(host_kind),
    )
    request = HostCertificateRequest("h-1", "web1", "interop", HostRole.NODE)
    certificate = issue_host(hosts, host.public.blob, request, datetime.now(UTC), os.urandom)
    (folder / "users").write_text(users.public.line + "\n")
    (folder / "host").touch(0o600)
    (folder / "host").write_bytes(host.to_openssh())
    (folder / "host.pub").write_text(host.public.line + "\n")
    (folder / "host-cert.pub").write_text(certificate.line + "\n")
    port = free_port()
    (folder / "config").write_text(
        "\n".join(
            [
                *lines,  # the first value of an option counts
                f"ListenAddress 127.0.0.1:{port}",
                f"HostKey {folder}/host",
                f"HostCertificate {folder}/host-cert.pub",
                f"TrustedUserCAKeys {folder}/users",
                "AuthorizedKeysFile none",
                "PasswordAuthentication no",
                "KbdInteractiveAuthentication no",
                "PermitRootLogin prohibit-password",
                "UsePAM no",
                "StrictModes no",
                "PidFile none",
                "LogLevel DEBUG1",
                f"Ciphers {b','.join(CIPHERS).decode()}",
                "",
            ]
        )
    )
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)
    assert SSHD is not None
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen([SSHD, "-D", "-e", "-f", str(folder / "config")], stderr=log)
    server = Sshd(folder, port, users, hosts)
    try:
        wait_for(lambda: "Server listening" in server.log(), f"sshd\n{server.log()}")
        yield server
    finally:
        process.terminate()
        process.wait()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    """An sshd for this file."""
    with sshd(tmp_path_factory.mktemp("sshd")) as found:
        yield found


@pytest.fixture
def reactor() -> Iterator[OwnReactor]:
    """A reactor for one test."""
    with own_reactor() as made:
        yield made


def log_in(
    reactor: OwnReactor,
    server: Sshd,
    limits: Limits | None = None,
    identity: ClientIdentity | None = None,
    verifier: HostVerifier | None = None,
) -> Any:
    """Return the connection service of a client that has logged in."""
    fast: Any = DirectReactor(reactor)
    return reactor.wait(
        connect(
            reactor,
            HostnameEndpoint(fast, b"127.0.0.1", server.port),
            verify_host=verifier or server.verifier(),
            identity=identity or server.identity(),
            limits=limits,
        )
    )


def leave(reactor: OwnReactor, connection: Any) -> None:
    """Disconnect, and wait for the end of the connection."""
    transport = connection.transport
    transport.loseConnection()
    reactor.until(lambda: transport._lost)


@pytest.mark.parametrize("kind", ["ssh-ed25519", "ecdsa-sha2-nistp256", "ssh-rsa"])
def test_each_kind_of_key(reactor: OwnReactor, server: Sshd, kind: str) -> None:
    """A user with a key of each kind logs in and runs a command."""
    connection = log_in(reactor, server, identity=server.identity(kind))
    done = reactor.wait(execute(connection, b"cat; echo err >&2; exit 3", b"in"))
    assert (done.stdout, done.exit.status) == (b"in", 3)
    assert done.stderr.endswith(b"err\n")  # sshd talks of itself there, too, at this log level
    assert b"server-sig-algs" in connection.transport.peerExtensions
    leave(reactor, connection)


@pytest.mark.parametrize("kind", ["ecdsa-sha2-nistp256", "ssh-rsa"])
def test_each_kind_of_host(reactor: OwnReactor, tmp_path: Path, kind: str) -> None:
    """A host proves itself with a certificate of each kind, RSA with SHA-2."""
    with sshd(tmp_path, host_kind=kind) as server:
        connection = log_in(reactor, server)
        assert connection.transport.host is not None
        leave(reactor, connection)


@pytest.mark.parametrize(
    ("cipher", "mac"), SUITES, ids=lambda name: name.decode().partition("@")[0]
)
def test_new_keys_in_the_middle_of_bulk(
    reactor: OwnReactor,
    server: Sshd,
    cipher: bytes,
    mac: bytes,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Under each cipher bytes come back whole while we renew keys all the time."""
    monkeypatch.setattr("tele.conch.client.transport.SSHClientTransport.supportedCiphers", [cipher])
    monkeypatch.setattr("tele.conch.client.transport.SSHClientTransport.supportedMACs", [mac])
    connection = log_in(reactor, server, Limits(rekey_octets=MEGABYTE // 2))
    data = os.urandom(8 * MEGABYTE)
    done = reactor.wait(execute(connection, b"cat", data), 60)
    assert done.stdout == data
    used = f"cipher: {cipher.decode()} MAC: "
    assert used + (mac.decode() if needs_mac(cipher) else "<implicit>") in server.log()
    leave(reactor, connection)


@pytest.mark.parametrize("method", [m for m in METHODS if m in KNOWN])
def test_key_exchanges(
    reactor: OwnReactor, server: Sshd, method: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each method that this sshd has, first and again."""
    monkeypatch.setattr(
        "tele.conch.client.transport.SSHClientTransport.supportedKeyExchanges", [method]
    )
    connection = log_in(reactor, server)
    connection.transport.sendKexInit()
    assert reactor.wait(execute(connection, b"echo yes")).stdout == b"yes\n"
    leave(reactor, connection)


def test_sshd_renews_keys(reactor: OwnReactor, tmp_path: Path) -> None:
    """Exchanges that sshd begins, by volume, lose nothing either."""
    with sshd(tmp_path, "RekeyLimit 1M") as server:
        connection = log_in(reactor, server)
        data = os.urandom(12 * MEGABYTE)
        assert reactor.wait(execute(connection, b"cat", data), 60).stdout == data
        leave(reactor, connection)
        assert server.log().count("SSH2_MSG_NEWKEYS sent") > 10


def test_keepalive_both_ways(reactor: OwnReactor, tmp_path: Path) -> None:
    """Keepalives of both sides are answered while nothing else is sent."""
    with sshd(tmp_path, "ClientAliveInterval 1", "ClientAliveCountMax 2") as server:
        connection = log_in(reactor, server, Limits(keepalive_interval=0.5, keepalive_misses=3))
        reactor.sleep(4)  # without answers each side ends the connection within three seconds
        assert not connection.transport.closing
        assert reactor.wait(execute(connection, b"echo here")).stdout == b"here\n"
        leave(reactor, connection)


def test_an_sshd_that_hangs(reactor: OwnReactor, server: Sshd) -> None:
    """When the server's process hangs, the connection and its sessions end."""
    connection = log_in(reactor, server, Limits(keepalive_interval=0.5))
    theirs = int(reactor.wait(execute(connection, b"echo $PPID")).stdout)
    waits = ProgramChannel(ProgramRequest("exec", b"cat"), lambda code, view: None)
    connection.openChannel(waits)
    reactor.wait(waits.started)
    ended: list[Any] = []
    waits.ended.addBoth(ended.append)
    os.kill(theirs, signal.SIGSTOP)
    try:
        reactor.until(lambda: ended and connection.transport._lost)
    finally:
        os.kill(theirs, signal.SIGCONT)
    reactor.until(lambda: not Path(f"/proc/{theirs}").exists())


def test_a_wrong_host_is_refused(reactor: OwnReactor, server: Sshd) -> None:
    """Another name, or another authority, ends it before the client sends anything."""
    before = server.log().count("userauth-request")
    for verifier in (
        evolve(server.verifier(), names=("web2",)),
        evolve(server.verifier(), trusted={PrivateKey.generate().public.blob}),
    ):
        with pytest.raises(BadCertificate):
            log_in(reactor, server, verifier=verifier)
    assert server.log().count("userauth-request") == before


def test_a_wrong_user_is_refused(reactor: OwnReactor, server: Sshd) -> None:
    """Sshd refuses a certificate for another login, or of another authority."""
    foreign = evolve(server, users=PrivateKey.generate())
    with pytest.raises(AccessDenied):
        log_in(reactor, server, identity=foreign.identity())
    with pytest.raises(AccessDenied):
        log_in(reactor, server, identity=server.identity(login="daemon"))


def test_it_ends_in_time(reactor: OwnReactor, server: Sshd) -> None:
    """A client that is cancelled while it logs in leaves nothing behind."""
    fast: Any = DirectReactor(reactor)
    endpoint = HostnameEndpoint(fast, b"127.0.0.1", server.port)
    coming = connect(reactor, endpoint, verify_host=server.verifier(), identity=server.identity())
    failures: list[Any] = []
    coming.addErrback(failures.append)
    reactor.turn()
    coming.cancel()
    deadline = time.monotonic() + 10
    while not failures and time.monotonic() < deadline:
        reactor.turn()
    assert failures
