"""Auth as it runs: a real port, real TLS, a real file; started, stopped, and started again."""

from __future__ import annotations

import socket
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from twisted.application.service import MultiService

from auth_world import MemoryArchive
from own_reactor import OwnReactor, own_reactor
from tele.auth.service import AuthService
from tele.certs.certificate import parse_certificate
from tele.certs.keys import PrivateKey, parse_line
from tele.certs.suites import SignatureSuite
from tele.certs.x509 import TlsKey
from tele.errors import AccessDenied, InvalidInput, NotLoggedIn, TeleError, Unavailable
from tele.https.client import RemoteAuthority
from tele.https.identity import TlsIdentity
from tele.https.pinning import server_name
from tele.model.api import members, table, users
from tele.model.api.hosts import ListHosts
from tele.model.api.operation import Nothing
from tele.model.api.paging import Paged
from tele.model.api.tokens import NewToken
from tele.model.authority import AuthorityKind, Certificates, authority_of
from tele.model.identity import Caller, HostRole
from tele.model.presence import Presence, Status
from tele.model.resources import Metadata, User, UserSpec
from tele.store.sqlite import SqliteBackend


@pytest.fixture
def reactor() -> Iterator[OwnReactor]:
    """A reactor of this test's own."""
    with own_reactor() as made:
        yield made


class Keys:
    """The keys of a client that requests certificates."""

    def __init__(self) -> None:
        self.ssh, self.tls = PrivateKey.generate(), TlsKey.generate()

    @property
    def public(self) -> members.PublicKeys:
        return members.PublicKeys(self.ssh.public.line, self.tls.public_pem)

    def with_(self, certificates: Certificates) -> TlsIdentity:
        return TlsIdentity(certificates.tls, self.tls.to_pem())


def service(reactor: OwnReactor, folder: Path, port: int = 0, **words: Any) -> AuthService:
    """Auth of cluster ``example`` on a file in ``folder``, not started."""
    given: dict[str, Any] = {
        "cluster": "example",
        "backend": SqliteBackend(folder / "auth.sqlite", reactor),
        "archive": MemoryArchive(),
        "host_id": str(uuid.uuid5(uuid.NAMESPACE_URL, str(folder))),
        "name": "auth1",
        "listen": ("127.0.0.1", port),
    }
    return AuthService(reactor, **{**given, **words})


@contextmanager
def running(reactor: OwnReactor, folder: Path, **words: Any) -> Iterator[tuple[AuthService, int]]:
    """Auth, serving, and its port."""
    auth = service(reactor, folder, **words)
    auth.startService()
    try:
        yield auth, reactor.wait(auth.ready)
    finally:
        reactor.wait(auth.stopService())


@contextmanager
def remote(
    reactor: OwnReactor, auth: AuthService, port: int, identity: TlsIdentity | None = None
) -> Iterator[Any]:
    """Auth as a remote client."""
    assert auth.authority is not None
    info = reactor.wait(auth.authority.handle(table.CLUSTER, Nothing(), _unauthenticated()))
    host = authority_of(info.authorities, AuthorityKind.HOST)
    assert host is not None
    client = RemoteAuthority(
        reactor, [f"127.0.0.1:{port}"], lambda: identity, lambda: host.tls_certificates,
        server_name("example"),
    )  # fmt: skip
    try:
        yield client
    finally:
        client.close()
        reactor.sleep(0.05)


def _unauthenticated() -> Caller:
    return Caller(None, "test")


def admin(reactor: OwnReactor, auth: AuthService) -> TlsIdentity:
    """An administrator, as ``tele up`` makes one."""
    assert auth.authority is not None
    keys = Keys()
    reactor.wait(auth.authority.ensure_admin("root", ("root",)))
    return keys.with_(reactor.wait(auth.authority.issue_for("root", keys.public)))


def test_a_cluster_begins(reactor: OwnReactor, tmp_path: Path) -> None:
    """Over the wire: a token, a node that joins and lives, a user who logs in and sees it."""
    with running(reactor, tmp_path) as (auth, port):
        with remote(reactor, auth, port, admin(reactor, auth)) as client:
            added = reactor.wait(
                client.perform(table.ADD_TOKEN, NewToken((HostRole.NODE,), max_uses=1))
            )
            alice = User(Metadata("alice"), UserSpec(("access",), {"logins": ("alice",)}))
            made = reactor.wait(client.perform(table.ADD_USER, users.NewUser(alice)))
        node, user = Keys(), Keys()
        with remote(reactor, auth, port) as client:
            request = members.JoinRequest(
                added.token, "web1", HostRole.NODE, node.public, ("127.0.0.1:3022",)
            )
            joined = reactor.wait(client.perform(table.JOIN, request))
            with pytest.raises(AccessDenied, match="unknown, expired or used up"):
                reactor.wait(client.perform(table.JOIN, request))
            login = users.LoginRequest("alice", made.password, user.public)
            logged_in = reactor.wait(client.perform(table.LOGIN, login))
            with pytest.raises(NotLoggedIn):
                reactor.wait(client.perform(table.WHOAMI, Nothing()))
        with remote(reactor, auth, port, node.with_(joined)) as client:
            said = Presence("web1", HostRole.NODE, ("127.0.0.1:3022",), {"env": "prod"})
            reactor.wait(client.perform(table.ANNOUNCE, said))
            with pytest.raises(AccessDenied):
                reactor.wait(client.perform(table.LIST_USERS, Paged()))
        with remote(reactor, auth, port, user.with_(logged_in)) as client:
            me = reactor.wait(client.perform(table.WHOAMI, Nothing()))
            assert (me.user, me.roles, me.logins) == ("alice", ("access",), ("alice",))
            (host,) = reactor.wait(client.perform(table.LIST_HOSTS, ListHosts())).items
            assert (host.name, host.status, host.labels) == (
                "web1", Status.ONLINE, {"env": "prod"},
            )  # fmt: skip
            with pytest.raises(AccessDenied):
                reactor.wait(client.perform(table.ANNOUNCE, said))
            with pytest.raises(AccessDenied, match="rule"):
                reactor.wait(client.perform(table.ADD_TOKEN, NewToken((HostRole.NODE,))))


def test_a_cluster_is_resumed(reactor: OwnReactor, tmp_path: Path) -> None:
    """After a restart the authorities are the same, and certificates from before are good."""
    with running(reactor, tmp_path) as (auth, port):
        identity = admin(reactor, auth)
        with remote(reactor, auth, port) as client:
            before = reactor.wait(client.perform(table.CLUSTER, Nothing())).authorities
    with (
        running(reactor, tmp_path) as (auth, port),
        remote(reactor, auth, port, identity) as client,
    ):
        assert reactor.wait(client.perform(table.CLUSTER, Nothing())).authorities == before
        assert reactor.wait(client.perform(table.WHOAMI, Nothing())).user == "root"


def test_another_name_is_another_cluster(reactor: OwnReactor, tmp_path: Path) -> None:
    """A store is not taken over by a changed configuration."""
    with running(reactor, tmp_path):
        pass
    auth = service(reactor, tmp_path, cluster="other")
    auth.startService()
    with pytest.raises(InvalidInput, match="holds the cluster example, not other"):
        reactor.wait(auth.ready)
    reactor.wait(auth.stopService())


def test_a_suite_holds_until_the_cas_rotate(reactor: OwnReactor, tmp_path: Path) -> None:
    """A cluster keeps its suite, whatever is configured later, and says when that will hold."""
    with running(reactor, tmp_path, suite=SignatureSuite.ECDSA) as (auth, _):
        assert auth.authority is not None
        assert auth.authority.suite is SignatureSuite.ECDSA
    for suite in (None, SignatureSuite.ED25519, SignatureSuite.ECDSA):
        with running(reactor, tmp_path, suite=suite) as (auth, _):
            assert auth.authority is not None
            assert auth.authority.suite is SignatureSuite.ECDSA


def test_a_port_in_use(reactor: OwnReactor, tmp_path: Path) -> None:
    """The error names the port and how to find its process; nothing is left running."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        auth = service(reactor, tmp_path, port)
        auth.startService()
        with pytest.raises(Unavailable, match=f"127.0.0.1:{port}: .*in use: is another auth"):
            reactor.wait(auth.ready)
        reactor.wait(auth.stopService())
    with running(reactor, tmp_path, port=port) as (_, bound):
        assert bound == port


def test_a_second_auth_on_the_same_socket(reactor: OwnReactor, tmp_path: Path) -> None:
    """Two auths in one directory: the second fails and does not replace the first."""
    local = tmp_path / "auth.sock"
    with running(reactor, tmp_path, local_socket=local):
        assert local.stat().st_mode & 0o777 == 0o600
        second = service(reactor, tmp_path, local_socket=local)
        second.startService()
        with pytest.raises(Unavailable, match="another auth running"):
            reactor.wait(second.ready)
        reactor.wait(second.stopService())
        assert local.exists()


def test_stopping_while_starting(reactor: OwnReactor, tmp_path: Path) -> None:
    """Auth that is stopped before it serves does not begin to serve afterwards."""
    auth = service(reactor, tmp_path)
    auth.startService()
    stopped = auth.stopService()
    with pytest.raises(TeleError, match="stopped"):
        reactor.wait(auth.ready)
    reactor.wait(stopped)
    reactor.wait(auth.stopService())


def test_a_parent_waits_for_it(reactor: OwnReactor, tmp_path: Path) -> None:
    """As a part of a MultiService it is stopped when the parent says that it is."""
    parent = MultiService()
    auth = service(reactor, tmp_path)
    child: Any = auth
    child.setServiceParent(parent)
    parent.startService()
    port = reactor.wait(auth.ready)
    stopped: Any = parent.stopService()
    reactor.wait(stopped)
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0


def test_its_own_certificate_is_renewed(reactor: OwnReactor, tmp_path: Path) -> None:
    """Long before its certificate ends auth serves with another one, without a restart."""
    with running(reactor, tmp_path) as (auth, port):
        first = auth._tls_identity()
        auth._renew()
        assert auth._tls_identity() is first, "not before it is time"
        moment = auth._now() + timedelta(hours=17)
        auth._now = lambda: moment  # type: ignore[method-assign]
        auth._renew()
        assert auth._tls_identity() is not first
        del auth._now
        with remote(reactor, auth, port) as client:
            assert reactor.wait(client.perform(table.HEALTH, Nothing())).status == "ok"


def test_private_keys_are_nowhere_but_in_the_store(reactor: OwnReactor, tmp_path: Path) -> None:
    """The file is its owner's alone, and no attribute of auth shows a key."""
    with running(reactor, tmp_path) as (auth, _):
        shown = repr([vars(part) if hasattr(part, "__dict__") else part for part in _parts(auth)])
        assert "PRIVATE KEY" not in shown
        for path in tmp_path.iterdir():
            assert path.stat().st_mode & 0o077 == 0, path.name


def _parts(auth: AuthService) -> Sequence[Any]:
    parts = auth._parts
    assert parts is not None
    return [auth, parts, parts.authorities, parts.issuer, parts.passwords, parts.tokens]


def test_two_auths_share_a_store(reactor: OwnReactor, tmp_path: Path) -> None:
    """A token made by one is used up at the other, and both know who lives."""
    with running(reactor, tmp_path) as (one, _), running(reactor, tmp_path) as (two, port):
        identity = admin(reactor, one)
        with remote(reactor, two, port, identity) as client:
            request = NewToken((HostRole.NODE,), max_uses=1)
            added = reactor.wait(client.perform(table.ADD_TOKEN, request))
        assert one.authority is not None
        node = Keys()
        join = members.JoinRequest(added.token, "web1", HostRole.NODE, node.public)
        joined = reactor.wait(one.authority.handle(table.JOIN, join, _unauthenticated()))
        certificate = parse_certificate(parse_line(joined.ssh))
        host_id = certificate.extensions["tele-host-id"].decode()
        with remote(reactor, two, port, node.with_(joined)) as client:
            reactor.wait(client.perform(table.ANNOUNCE, Presence("web1", HostRole.NODE)))
        parts = one._parts
        assert parts is not None
        reactor.until(lambda: parts.hosts.is_online(HostRole.NODE, host_id))
