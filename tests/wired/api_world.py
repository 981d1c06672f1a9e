"""A cluster's certificates, a handler that remembers, and a server on in-memory wires.

Run as a program, it serves on a real port of 127.0.0.1 until its standard input ends.
"""

from __future__ import annotations

import json
import os
import secrets
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from attrs import frozen
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IProtocolFactory, IStreamClientEndpoint
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure
from twisted.test import iosim
from zope.interface import implementer

from tele.certs.pins import pin
from tele.certs.x509 import TlsKey, issue_tls, make_authority
from tele.errors import AccessDenied, NotFound
from tele.https.handler import IHandler
from tele.https.identity import TlsIdentity
from tele.https.limits import Limits
from tele.https.serve import ApiServer
from tele.https.tls_server import Preface, no_preface
from tele.https.trust import ClientTls
from tele.model.api.hosts import HostList
from tele.model.api.members import Announced, ClusterInfo, ClusterState, Health
from tele.model.api.operation import Nothing, Octets, Operation
from tele.model.api.users import UserPassword, WhoAmI
from tele.model.authority import AuthorityKind, TrustedAuthority
from tele.model.identity import Caller, HostIdentity, HostRole, Identity, UserIdentity
from tele.model.resources import Metadata, RecordingSettings, User
from tele.testing import SettableClock

CLUSTER = "example"
SERVER_NAME = f"auth.{CLUSTER}"


def real_now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)


@frozen
class Ca:
    """One authority with its key."""

    kind: AuthorityKind
    key: TlsKey
    certificate: str

    @classmethod
    def make(cls, kind: AuthorityKind, cluster: str = CLUSTER) -> Ca:
        key = TlsKey.generate()
        return cls(kind, key, make_authority(cluster, kind, key, real_now(), secrets.token_bytes))

    @property
    def trusted(self) -> TrustedAuthority:
        return TrustedAuthority(self.kind, (), (self.certificate,), (pin(self.certificate),))

    def issue(self, identity: Identity, now: datetime | None = None) -> TlsIdentity:
        key = TlsKey.generate()
        certificate = issue_tls(
            self.certificate,
            self.key,
            key.public_pem,
            identity,
            now or real_now(),
            secrets.token_bytes,
        )
        return TlsIdentity(certificate, key.to_pem())


def host(role: HostRole, life: timedelta = timedelta(hours=1), name: str = "web1") -> HostIdentity:
    return HostIdentity(
        "3b241101-e2bb-4255-8caf-4136c566a962", name, CLUSTER, role, real_now() + life
    )


def user(name: str = "alice", life: timedelta = timedelta(hours=1)) -> UserIdentity:
    return UserIdentity(name, CLUSTER, real_now() + life, ("access",), ("root",))


@implementer(IHandler)
class Handler:
    """Answers a few operations and remembers all calls."""

    def __init__(self, authorities: Callable[[], tuple[TrustedAuthority, ...]]) -> None:
        self.authorities = authorities
        self.calls: list[tuple[str, Any, Caller]] = []
        self.waiting: list[Deferred[Any]] = []
        self.receivers: list[Callable[[Any], None]] = []
        self.followed: list[Deferred[None]] = []
        self.cancelled: list[str] = []
        self.checked: list[str] = []
        #: What every caller is refused with; and where checks wait for the test.
        self.denies: AccessDenied | None = None
        self.slow_checks: list[Deferred[None]] | None = None

    async def check(self, operation: Operation[Any, Any], caller: Caller) -> None:
        self.checked.append(operation.name)
        if self.denies is not None:
            raise self.denies
        if self.slow_checks is not None:
            waiting: Deferred[None] = Deferred()
            self.slow_checks.append(waiting)
            await waiting

    async def perform(
        self, operation: Operation[Any, Any], read: Callable[[], Any], caller: Caller
    ) -> Any:
        if self.denies is not None:
            raise self.denies
        request = read()
        self.calls.append((operation.name, request, caller))
        match operation.name:
            case "health":
                return Health("ok", "1")
            case "cluster":
                return ClusterInfo(CLUSTER, "1", real_now(), self.authorities())
            case "whoami":
                assert isinstance(caller.identity, UserIdentity)
                return WhoAmI(caller.identity.user, (), (), CLUSTER, "")
            case "announce":
                return Announced("now")
            case "get_chunk":
                data = b"\x00\xff" * request.number
                if request.if_range not in ("", "aa") or not (request.start or request.end):
                    return Octets(data, 0, len(data), "aa")
                first, last, _ = slice(request.start, request.end or None).indices(len(data))
                return Octets(data[first:last], first, len(data), "aa")
            case "list_hosts":
                return HostList((), str(request.limit))
            case "put_user":
                return User(Metadata(request.name))
            case "add_user":
                return UserPassword(request.user, request.password)
            case "get_user":
                raise NotFound(f"there is no user {request.name!r}")
            case "list_users":
                raise AccessDenied("no rule lets you", reason="rule")
            case "list_roles":
                raise RuntimeError("secret detail")
            case "list_tokens":
                pending: Deferred[Any] = Deferred()
                self.waiting.append(pending)
                return await pending
        return Nothing()

    def follow(
        self,
        operation: Operation[Any, Any],
        request: Any,
        caller: Caller,
        receiver: Callable[[Any], None],
    ) -> Deferred[None]:
        self.calls.append((operation.name, request, caller))
        if operation.name == "follow_events":
            return fail(AccessDenied("no rule lets you", reason="rule"))
        self.receivers.append(receiver)
        done: Deferred[None] = Deferred(lambda _: self.cancelled.append(operation.name))
        self.followed.append(done)
        receiver(state(1))
        return done


def state(revision: int) -> ClusterState:
    return ClusterState(CLUSTER, revision, real_now(), (), (), (), RecordingSettings())


class Wires:
    """Pumps all in-memory connections until nothing moves."""

    def __init__(self, clock: SettableClock) -> None:
        self.clock = clock
        self.pumps: list[iosim.IOPump] = []

    def join(self, server: Protocol, client: Protocol, host: str = "") -> None:
        peer = IPv4Address("TCP", host, 1234) if host else None
        self.pumps.append(
            iosim.connect(
                server,
                iosim.FakeTransport(server, isServer=True, peerAddress=peer),
                client,
                iosim.FakeTransport(client, isServer=False),
            )
        )

    def flush(self, seconds: float = 0.0) -> None:
        self.clock.advance(seconds)
        moved = True
        while moved:
            self.clock.advance(0)
            moved = sum(bool(pump.pump()) for pump in self.pumps) > 0

    def pass_time(self, seconds: float) -> None:
        """Let time pass in small steps, with everything moving."""
        step = 0.5
        for _ in range(int(seconds / step)):
            self.flush(step)


class RawClient(Protocol):
    """Sends what a test passes, and keeps what it receives."""

    transport: Any

    def __init__(self) -> None:
        self.received = b""
        self.lost: Failure | None = None

    def dataReceived(self, data: bytes) -> None:
        self.received += data

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost = reason


@implementer(IStreamClientEndpoint)
class MemoryEndpoint:
    """Connects to a server in memory, or refuses."""

    def __init__(self, world: World, refuse: Exception | None = None) -> None:
        self.world = world
        self.refuse = refuse

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[Any]:
        if self.refuse is not None:
            return fail(self.refuse)
        client: Any = protocolFactory.buildProtocol(None)  # type: ignore[arg-type]
        self.world.attach(client)
        return succeed(client)


class World:
    """A cluster with its server, on in-memory wires and a clock of its own."""

    def __init__(self, limits: Limits | None = None, preface: Preface = no_preface) -> None:
        self.clock = SettableClock()
        self.clock.advance(time.time())
        self.wires = Wires(self.clock)
        self.user_ca = Ca.make(AuthorityKind.USER)
        self.host_ca = Ca.make(AuthorityKind.HOST)
        self.trusted: tuple[TrustedAuthority, ...] = (self.user_ca.trusted, self.host_ca.trusted)
        self.auth = self.host_ca.issue(host(HostRole.AUTH, name="auth"))
        self.handler = Handler(lambda: self.trusted)
        self.refused: list[tuple[str, Caller, Exception]] = []
        self.server = ApiServer(
            self.clock,
            self.handler,
            identity=lambda: self.auth,
            authorities=lambda: self.trusted,
            limits=limits,
            preface=preface,
            on_refused=lambda operation, caller, error: self.refused.append(
                (operation.name, caller, error)
            ),
        )

    def attach(self, client: Protocol, address: str = "") -> None:
        server: Any = self.server.factory.buildProtocol(None)  # type: ignore[arg-type]
        if server is not None:
            self.wires.join(server, client, address)

    def raw(
        self,
        identity: TlsIdentity | None = None,
        trust: str | None = None,
        server_name: str = SERVER_NAME,
        address: str = "",
        before: Sequence[bytes] = (),
    ) -> RawClient:
        """Open a connection, from ``address``, say what comes ``before``, and shake hands."""
        client = RawClient()
        tls = ClientTls(server_name, lambda: identity, lambda: [trust or self.host_ca.certificate])
        factory: Any = TLSMemoryBIOFactory(tls, True, _Single(client), clock=self.clock)
        if before:
            self.attach(_First(factory.buildProtocol(None), before), address)
        else:
            self.attach(factory.buildProtocol(None), address)
        self.wires.flush()
        return client

    def send(self, client: RawClient, *parts: bytes) -> tuple[int, dict[str, str], bytes]:
        """Send bytes and return status, headers and body of what came back."""
        client.received = b""
        for part in parts:
            client.transport.write(part)
            self.wires.flush()
        return parsed(client.received)

    def request(
        self,
        client: RawClient,
        method: str,
        target: str,
        body: bytes = b"",
        headers: str = "",
    ) -> tuple[int, dict[str, str], bytes]:
        """Send one well-formed request."""
        head = f"{method} {target} HTTP/1.1\r\nhost: auth\r\n{headers}"
        if body or method in ("POST", "PUT", "PATCH"):
            head += f"content-length: {len(body)}\r\n"
            if "content-type" not in headers and "/chunks/" not in target:
                head += "content-type: application/json\r\n"
        return self.send(client, head.encode() + b"\r\n" + body)


class _First(Protocol):
    """Says some bytes, piece by piece, and is another protocol then."""

    def __init__(self, protocol: Any, pieces: Sequence[bytes]) -> None:
        self._protocol = protocol
        self._pieces = pieces

    def makeConnection(self, transport: Any) -> None:
        for piece in self._pieces:
            transport.write(piece)
        transport.protocol = self._protocol
        self._protocol.makeConnection(transport)

    def dataReceived(self, data: bytes) -> None:
        self._protocol.dataReceived(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._protocol.connectionLost(reason)


class _Single(Factory):
    noisy = False

    def __init__(self, protocol: Protocol) -> None:
        self._only = protocol

    def buildProtocol(self, addr: Any) -> Protocol:
        return self._only


def parsed(data: bytes) -> tuple[int, dict[str, str], bytes]:
    """Cut an answer into status, headers and body; status 0 if there is none."""
    if not data:
        return 0, {}, b""
    head, _, body = data.partition(b"\r\n\r\n")
    first, *rest = head.decode("latin-1").split("\r\n")
    headers = {k.lower(): v for k, _, v in (line.partition(": ") for line in rest)}
    return int(first.split()[1]), headers, body


def error_of(body: bytes) -> dict[str, Any]:
    """Return the error in a JSON body."""
    value: dict[str, Any] = json.loads(body)["error"]
    return value


def serve(folder: Path) -> None:
    """Serve on a real port; write certificates and the port into ``folder``."""
    from twisted.internet import reactor, stdio

    user_ca, host_ca = Ca.make(AuthorityKind.USER), Ca.make(AuthorityKind.HOST)
    trusted = (user_ca.trusted, host_ca.trusted)
    auth = host_ca.issue(host(HostRole.AUTH, name="auth"))
    server = ApiServer(
        reactor, Handler(lambda: trusted), identity=lambda: auth, authorities=lambda: trusted
    )
    port = server.listen("127.0.0.1", 0)
    local = {os.geteuid(): user("operator")}
    server.listen_local(str(folder / "own"), local.get)
    server.listen_local(str(folder / "others"), lambda uid: None)
    alice = user_ca.issue(user())
    rogue = Ca.make(AuthorityKind.USER).issue(user())
    old = user_ca.issue(user(life=timedelta(hours=-1)), real_now() - timedelta(hours=2))
    for name, identity in (("alice", alice), ("rogue", rogue), ("old", old)):
        (folder / f"{name}.pem").write_text(identity.certificate)
        (folder / f"{name}.key").write_bytes(identity.key)
    (folder / "ca.pem").write_text(host_ca.certificate)
    (folder / "rogue-ca.pem").write_text(Ca.make(AuthorityKind.HOST).certificate)

    class Parent(Protocol):
        def connectionLost(self, reason: Failure = connectionDone) -> None:
            reactor.stop()

    stdio.StandardIO(Parent())
    sys.stdout.write(f"{port}\n")
    sys.stdout.flush()
    reactor.run()


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
