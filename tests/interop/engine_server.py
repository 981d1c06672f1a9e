"""A server of ours in a process of its own: ``engine_server.py FOLDER``.

Writes keys and certificates for clients into FOLDER, listens on a port that the kernel
gives, prints one JSON object (``port``) when it is ready, and for each denied attempt
another (``denied``). Sessions run no programs: ``true`` ends, ``give N`` sends N bytes,
``count`` answers how many bytes it got.
"""

from __future__ import annotations

import json
import os
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from attrs import evolve
from twisted.conch.avatar import ConchUser
from twisted.conch.interfaces import IConchUser
from twisted.conch.ssh.channel import SSHChannel
from twisted.conch.ssh.connection import SSHConnection
from twisted.cred.portal import IRealm
from twisted.internet import reactor
from twisted.internet.defer import Deferred, succeed
from zope.interface import implementer

from tele.admission.limits import Limits
from tele.admission.penalties import PenaltyRules
from tele.certs.issue import (
    HostCertificateRequest,
    UserCertificateRequest,
    issue_host,
    issue_user,
)
from tele.certs.keys import PrivateKey
from tele.conch.server.credentials import DeniedAttempt, Trust, make_portal
from tele.conch.server.factory import ServerAlgorithms, SSHServerFactory
from tele.conch.transport.exchange import HostKeys
from tele.log import LogFormat, set_up_logging
from tele.model.identity import HostRole
from tele.sockets.direct import listen
from tele.wire.key_agreement import METHODS

CLUSTER = "engine"
WINDOW = 2 << 20
CLOCK: Any = reactor
#: Loopback is as any address; ten connections without a login block it for longer than a test.
STRICT = PenaltyRules(noauth=60.0, min=600.0, exempt=())


class Session(SSHChannel):
    """A session with built-in programs."""

    name = b"session"
    conn: Any

    def __init__(self, **fields: Any) -> None:
        super().__init__(**{**fields, "localWindow": WINDOW})
        self._left = 0
        self._count = 0
        self._counting = False

    def request_env(self, data: bytes) -> bool:
        """Accept any variable."""
        return True

    def request_exec(self, data: bytes) -> bool:
        """Run a built-in program."""
        command, _, argument = data[4:].partition(b" ")
        if command == b"true":
            self._call_later(self._end)
        elif command == b"give":
            self._left = int(argument)
            self._call_later(self._start)
        elif command == b"count":
            self._counting = True
        else:
            return False
        return True

    def _call_later(self, what: Any) -> None:
        # After the reply to the request.
        CLOCK.callLater(0, what)

    def _start(self) -> None:
        self.conn.transport.ready_observers.add(self._go_on)
        self._go_on()

    def _go_on(self) -> None:
        transport = self.conn.transport
        remote = self.conn.channelsToRemoteChannel.get(self)
        while self._left and self.remoteWindowLeft and transport.can_send():
            for _ in range(8):
                size = min(self._left, self.remoteWindowLeft, self.remoteMaxPacket, 32768)
                if not size:
                    break
                transport.data_buffer[:size] = bytes(size)
                transport.seal_data(remote, (size,))
                self._left -= size
                self.remoteWindowLeft -= size
            transport.flush()
        if not self._left:
            transport.ready_observers.discard(self._go_on)
            self._end()

    def addWindowBytes(self, data: int) -> None:
        """The client gave credit."""
        self.remoteWindowLeft += data
        if self._left:
            self._go_on()

    def dataReceived(self, data: bytes) -> None:
        """Count the bytes."""
        self._count += len(data)

    def eofReceived(self) -> None:
        """Send the number of bytes."""
        if self._counting:
            self.conn.sendData(self, b"%d\n" % self._count)
            self._end()

    def _end(self) -> None:
        self.conn.sendRequest(self, b"exit-status", bytes(4))
        self.conn.sendEOF(self)
        self.conn.sendClose(self)

    def closed(self) -> None:
        """Stop observing the transport."""
        self.conn.transport.ready_observers.discard(self._go_on)


class User(ConchUser):
    """A user with a valid certificate."""

    def __init__(self) -> None:
        self.channelLookup = {b"session": Session}
        self.subsystemLookup = {}


@implementer(IRealm)
class Realm:
    """Accepts every login."""

    def requestAvatar(self, avatarId: Any, mind: object, *interfaces: object) -> Deferred[Any]:
        """Return the avatar of a user."""
        print(json.dumps({"login": avatarId.login}), flush=True)
        return succeed((IConchUser, User(), lambda: None))


def write_private(path: Path, data: bytes) -> None:
    """Write a key file with the mode that ssh requires."""
    path.write_bytes(data)
    path.chmod(0o600)


def make_credentials(folder: Path, authority: PrivateKey) -> None:
    """Keys of each type with a valid certificate, and keys with each kind of invalid one."""
    now = datetime.now(UTC)
    good = UserCertificateRequest(
        "alice", CLUSTER, ("alice", "root"), ("dev",), "s-1", timedelta(hours=1)
    )
    kinds = {
        "ed25519": (PrivateKey.generate(), good, now, authority),
        "ecdsa": (PrivateKey.generate("ecdsa-sha2-nistp256"), good, now, authority),
        "rsa": (PrivateKey.generate("ssh-rsa"), good, now, authority),
        "expired": (PrivateKey.generate(), good, now - timedelta(hours=3), authority),
        "foreign": (PrivateKey.generate(), good, now, PrivateKey.generate()),
        "other": (PrivateKey.generate(), evolve(good, logins=("bob",)), now, authority),
        "pinned": (
            PrivateKey.generate(),
            evolve(good, source_address="203.0.113.0/24"),
            now,
            authority,
        ),
    }
    for name, (key, request, at, signer) in kinds.items():
        certificate = issue_user(signer, key.public.blob, request, at, os.urandom)
        write_private(folder / name, key.to_openssh())
        (folder / f"{name}.pub").write_text(key.public.line + "\n")
        (folder / f"{name}-cert.pub").write_text(certificate.line + "\n")
    plain = PrivateKey.generate()
    write_private(folder / "plain", plain.to_openssh())
    (folder / "plain.pub").write_text(plain.public.line + "\n")


def report(attempt: DeniedAttempt) -> None:
    """Report to the test."""
    print(json.dumps({"denied": attempt.reason, "method": attempt.method}), flush=True)


def main(folder: Path) -> None:
    """Serve until killed."""
    set_up_logging("info", sys.stderr, LogFormat.TEXT)
    users, hosts, host = (PrivateKey.generate() for _ in range(3))
    make_credentials(folder, users)
    (folder / "known_hosts").write_text(f"@cert-authority * {hosts.public.line}\n")
    (folder / "known_keys").write_text(f"* {host.public.line}\n")
    request = HostCertificateRequest("h-1", "web1", CLUSTER, HostRole.NODE, ("127.0.0.1",))
    certificate = issue_host(hosts, host.public.blob, request, datetime.now(UTC), os.urandom)
    (folder / "hosts_authority.pub").write_text(hosts.public.line + "\n")
    factory = SSHServerFactory(
        portal=make_portal(Realm()),
        host_keys=lambda: HostKeys(host, certificate),
        user_trust=lambda: Trust(CLUSTER, frozenset({users.public.blob})),
        clock=CLOCK,
        connection=SSHConnection,
        limits=Limits(
            rekey_octets=int(os.environ.get("REKEY_OCTETS", 1 << 30)),
            penalties=STRICT if "STRICT" in os.environ else PenaltyRules(),
        ),
        algorithms=ServerAlgorithms(tuple(METHODS) if "EVERYTHING" in os.environ else None),
        on_denied=report,
    )
    port: Any = listen(CLOCK, 0, factory, "127.0.0.1").getHost()
    print(json.dumps({"port": port.port}), flush=True)
    CLOCK.run()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
