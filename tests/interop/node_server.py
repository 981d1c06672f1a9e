"""A node's sessions without a cluster: ``node_server.py FOLDER LOGIN [OPTIONS]``, OPTIONS in JSON.

Programs are started by a real spawner, as LOGIN; nothing is recorded and there are no roles.
Writes a key with a certificate for each case into FOLDER: ``plain``, ``forced`` (a command),
``forced-sftp`` and ``no-pty``. Prints one JSON object with its port.
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
from twisted.cred.portal import IRealm
from twisted.internet import reactor
from twisted.internet.defer import Deferred, succeed
from zope.interface import implementer

from engine_server import CLUSTER, write_private
from grants import one_role
from tele.capacity.descriptors import process_budget
from tele.certs.issue import (
    HostCertificateRequest,
    UserCertificateRequest,
    issue_host,
    issue_user,
)
from tele.certs.keys import PrivateKey
from tele.conch.connection.permissions import IPermissions
from tele.conch.server.credentials import Trust, make_portal
from tele.conch.server.factory import SSHServerFactory
from tele.conch.session.channel import SessionChannel
from tele.conch.session.programs import ISessionPrograms, ProgramRequest
from tele.conch.transport.exchange import HostKeys
from tele.log import LogFormat, set_up_logging
from tele.model.access import Grant
from tele.model.identity import HostRole
from tele.node.programs import NodePrograms
from tele.node.spawning import Spawning
from tele.sessions.context import ConnectionContext
from tele.sockets.direct import listen
from tele.spawner.spawn_messages import Options

LOOP: Any = reactor
NO_PTY = "no-pty"
FORCED = 'echo "forced [$SSH_ORIGINAL_COMMAND]"; tty; exit 7'


@implementer(ISessionPrograms)
class User(ConchUser):
    """A user with a valid certificate."""

    def __init__(self, grant: Grant, programs: NodePrograms) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.grant = grant
        self.channelLookup[b"session"] = SessionChannel
        self._programs = programs

    def __conform__(self, interface: Any) -> Any:
        """What is permitted is the grant's: see ``zope.interface``."""
        return self.grant if interface is IPermissions else None

    def env_allowed(self, name: str) -> bool:
        """See :class:`ISessionPrograms`."""
        return self._programs.env_allowed(name)

    def start(self, request: ProgramRequest, channel_number: int) -> Deferred[Any]:
        """See :class:`ISessionPrograms`."""
        return self._programs.start(request, channel_number)


@implementer(IRealm)
class Realm:
    """Accepts every valid certificate, with what it permits."""

    def __init__(self, spawning: Spawning) -> None:
        self._spawning = spawning

    def requestAvatar(self, avatarId: Any, mind: object, *interfaces: object) -> Deferred[Any]:
        """Return a user."""
        checked = avatarId.checked
        grant = one_role(
            checked.identity,
            avatarId.login,
            expires=checked.identity.expires,
            permit_pty=NO_PTY not in checked.identity.roles,
            force_command=checked.force_command,
        )
        programs = NodePrograms(
            self._spawning,
            ConnectionContext.of(grant, avatarId, "s-1"),
            process_budget().account("u"),
            LOOP,
        )
        return succeed((IConchUser, User(grant, programs), lambda: None))


def make_credentials(folder: Path, login: str, authority: PrivateKey) -> None:
    """Write the keys and certificates."""
    plain = UserCertificateRequest("alice", CLUSTER, (login,), ("dev",), "s", timedelta(hours=1))
    for name, request in {
        "plain": plain,
        "forced": evolve(plain, force_command=FORCED),
        "forced-sftp": evolve(plain, force_command="internal-sftp"),
        NO_PTY: evolve(plain, roles=(NO_PTY,)),
    }.items():
        key = PrivateKey.generate()
        now = datetime.now(UTC)
        certificate = issue_user(authority, key.public.blob, request, now, os.urandom)
        write_private(folder / name, key.to_openssh())
        (folder / f"{name}-cert.pub").write_text(certificate.line + "\n")


def main(folder: Path, login: str, options: str = "{}") -> None:
    """Serve until killed."""
    set_up_logging("info", sys.stderr, LogFormat.TEXT)
    spawning = Spawning(LOOP, Options(**json.loads(options)))
    spawning.open()
    users, hosts, host = (PrivateKey.generate() for _ in range(3))
    make_credentials(folder, login, users)
    (folder / "known_hosts").write_text(f"@cert-authority * {hosts.public.line}\n")
    request = HostCertificateRequest("h-1", "web1", CLUSTER, HostRole.NODE, ("127.0.0.1",))
    certificate = issue_host(hosts, host.public.blob, request, datetime.now(UTC), os.urandom)
    factory = SSHServerFactory(
        portal=make_portal(Realm(spawning)),
        host_keys=lambda: HostKeys(host, certificate),
        user_trust=lambda: Trust(CLUSTER, frozenset({users.public.blob})),
        clock=LOOP,
    )
    port: Any = listen(LOOP, 0, factory, "127.0.0.1").getHost()
    print(json.dumps({"port": port.port}), flush=True)
    LOOP.run()


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
