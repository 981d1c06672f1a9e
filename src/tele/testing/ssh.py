"""How are a real SSH client and a real SSH server connected in memory, with a fake clock?

Invariant: keys, certificates and packets are real; link and clock are fakes.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from attrs import Factory, define, evolve, field
from twisted.conch.avatar import ConchUser
from twisted.conch.interfaces import IConchUser
from twisted.conch.ssh.service import SSHService
from twisted.cred.portal import IRealm
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IAddress
from twisted.internet.testing import StringTransport
from twisted.test import iosim
from zope.interface import implementer

from tele.admission.limits import Limits
from tele.certs.certificate import Certificate
from tele.certs.issue import (
    HostCertificateRequest,
    UserCertificateRequest,
    issue_host,
    issue_user,
)
from tele.certs.keys import PrivateKey
from tele.conch.client.transport import ClientIdentity, HostVerifier, LoginTransport
from tele.conch.server.credentials import CertificateCredentials, DeniedAttempt, Trust, make_portal
from tele.conch.server.factory import ServerAlgorithms, SSHServerFactory
from tele.conch.transport.datapath import IDataService
from tele.conch.transport.exchange import HostKeys
from tele.model.identity import HostRole
from tele.testing.clocks import SettableClock

START = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)
CLUSTER = "test"


def clock_at_start() -> SettableClock:
    """Return a clock that shows :data:`START`."""
    clock = SettableClock()
    clock.advance(START.timestamp())
    return clock


@implementer(IDataService)
class RecordingConnection(SSHService):
    """A connection service that keeps every call in ``calls`` and all data in ``data``."""

    name = b"ssh-connection"

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.data = bytearray()

    def serviceStarted(self) -> None:
        """Keep the call."""
        self.calls.append(("started",))

    def serviceStopped(self) -> None:
        """Keep the call."""
        self.calls.append(("stopped",))

    def packetReceived(self, messageNum: int, packet: bytes) -> None:
        """Keep the call."""
        self.calls.append(("packet", messageNum, packet))

    def channel_data(self, number: int, view: memoryview) -> None:
        """Keep the data."""
        self.data += view

    def channel_extended_data(self, number: int, code: int, view: memoryview) -> None:
        """Keep the call."""
        self.calls.append(("extended", number, code, bytes(view)))

    def channel_credit(self, number: int, credit: int) -> None:
        """Keep the call."""
        self.calls.append(("credit", number, credit))


@implementer(IConchUser)
class Avatar(ConchUser):
    """A user of the realm."""

    def __init__(self, credentials: CertificateCredentials) -> None:
        self.channelLookup = {}
        self.subsystemLookup = {}
        self.credentials = credentials


@implementer(IRealm)
@define
class Realm:
    """Accepts every login, unless a test sets ``answer``; keeps logins and logouts in ``calls``."""

    calls: list[tuple[str, str]] = Factory(list)
    answer: Callable[[CertificateCredentials], Deferred[Any]] | None = None

    def requestAvatar(self, avatarId: Any, mind: object, *interfaces: object) -> Any:
        """See ``IRealm``."""
        self.calls.append(("login", avatarId.login))
        if self.answer is not None:
            return self.answer(avatarId)
        return succeed(self.admit(avatarId))

    def admit(self, credentials: CertificateCredentials) -> tuple[Any, Avatar, Any]:
        """Return what ``requestAvatar`` returns for accepted credentials."""

        def log_out() -> None:
            self.calls.append(("logout", credentials.login))

        return IConchUser, Avatar(credentials), log_out


@define
class World:
    """Authorities, a host, a user, a server's factory and a clock."""

    clock: SettableClock = Factory(clock_at_start)
    limits: Limits = Factory(Limits)
    key_exchanges: tuple[bytes, ...] | None = None
    user_authority: PrivateKey = Factory(PrivateKey.generate)
    host_authority: PrivateKey = Factory(PrivateKey.generate)
    host_key: PrivateKey = Factory(PrivateKey.generate)
    user_key: PrivateKey = Factory(PrivateKey.generate)
    realm: Realm = Factory(Realm)
    denied: list[DeniedAttempt] = Factory(list)
    services: list[RecordingConnection] = Factory(list)
    host_certificate: Certificate = field(init=False)
    factory: SSHServerFactory = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.host_certificate = self.certify_host(self.host_key)
        self.factory = SSHServerFactory(
            portal=make_portal(self.realm),
            host_keys=lambda: HostKeys(self.host_key, self.host_certificate),
            user_trust=lambda: Trust(CLUSTER, frozenset({self.user_authority.public.blob})),
            clock=self.clock,
            connection=self._connection,
            limits=self.limits,
            algorithms=ServerAlgorithms(self.key_exchanges),
            on_denied=self.denied.append,
            draw=lambda: 0.5,
        )

    def _connection(self) -> RecordingConnection:
        self.services.append(RecordingConnection())
        return self.services[-1]

    def certify_host(self, key: PrivateKey, name: str = "web1") -> Certificate:
        """Return a host certificate for ``name``."""
        request = HostCertificateRequest("h-1", name, CLUSTER, HostRole.NODE)
        return issue_host(self.host_authority, key.public.blob, request, START, os.urandom)

    def certify(self, key: PrivateKey | None = None, **changes: Any) -> Certificate:
        """Return a user certificate for alice, logins alice and root, unless changed."""
        authority = changes.pop("authority", self.user_authority)
        now = changes.pop("now", START)
        usual = UserCertificateRequest(
            "alice", CLUSTER, ("alice", "root"), ("dev",), "s-1", timedelta(hours=1)
        )
        request = evolve(usual, **changes)
        blob = (key or self.user_key).public.blob
        return issue_user(authority, blob, request, now, os.urandom)

    def identity(self, login: str = "root", **changes: Any) -> ClientIdentity:
        """Return the user with a certificate; ``changes`` are :meth:`certify`'s."""
        return ClientIdentity(self.user_key, self.certify(**changes), login)

    def verifier(self, name: str = "web1") -> HostVerifier:
        """Return what accepts the host's certificate for ``name``."""
        return HostVerifier({self.host_authority.public.blob}, (name,))

    def client(
        self,
        identity: ClientIdentity | None = None,
        verifier: HostVerifier | None = None,
        limits: Limits | None = None,
    ) -> Any:
        """Return a client's end without a transport."""
        return LoginTransport(
            self.clock,
            verifier or self.verifier(),
            identity or self.identity(),
            RecordingConnection,
            limits or self.limits,
        )

    def server(self) -> Any:
        """Return a server's end without a transport."""
        protocol = self.factory.buildProtocol(Address())
        assert protocol is not None
        return protocol

    def alone(self) -> tuple[Any, StringTransport]:
        """Return a server's end whose peer is the test itself."""
        server, transport = self.server(), StringTransport(peerAddress=Address())
        server.makeConnection(transport)
        return server, transport

    def connect(self, client: Any | None = None, server: Any | None = None) -> Ends:
        """Connect both ends, without carrying bytes."""
        client = client or self.client()
        server = server or self.server()
        server_link = iosim.FakeTransport(server, True, Address(2), Address())
        ready = client.ready()
        client_link = iosim.FakeTransport(client, False, Address(), Address(2))
        pump = iosim.connect(server, server_link, client, client_link)
        return Ends(client, server, pump, ready)


@implementer(IAddress)
@define
class Address:
    """The address of an end of the link: one for documentation (RFC 5737)."""

    port: int = 1
    host: str = "192.0.2.1"


@define
class Ends:
    """A connected client and server."""

    client: Any
    server: Any
    pump: iosim.IOPump
    ready: Deferred[Any]

    def settle(self) -> None:
        """Carry bytes both ways until there are none."""
        self.pump.flush()
