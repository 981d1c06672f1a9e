"""A server whose sessions run on an sshd behind it, in a process of its own.

``remote_server.py FOLDER PORT``: FOLDER has ``users_key`` and ``hosts_key``, the authorities that
the sshd on PORT of loopback trusts and is certified by. Writes a key and a certificate for clients
(``me``). Prints a JSON object with its port, then one for each event, and at the end of each
connection one with the frames of its recording (``tape``). With AGENT set it logs in to the sshd
with the client's agent, else with a certificate that it makes.
"""

from __future__ import annotations

import base64
import getpass
import json
import os
import sys
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from attrs import frozen
from twisted.conch.avatar import ConchUser
from twisted.conch.interfaces import IConchUser
from twisted.cred.portal import IRealm
from twisted.internet import reactor
from twisted.internet.defer import Deferred, succeed
from twisted.internet.endpoints import HostnameEndpoint
from zope.interface import implementer

from engine_server import CLUSTER, write_private
from grants import one_role
from tele.admission.limits import Limits
from tele.admission.slots import Slots
from tele.certs.issue import (
    HostCertificateRequest,
    UserCertificateRequest,
    issue_host,
    issue_user,
)
from tele.certs.keys import PrivateKey
from tele.conch.client.agent import open_agent
from tele.conch.client.target import TargetLogin, connect_target
from tele.conch.client.transport import ClientIdentity, HostVerifier
from tele.conch.connection.permissions import IPermissions
from tele.conch.forwarding.local import LOCAL_CHANNEL
from tele.conch.forwarding.remote import REQUESTS, IListener, answer_request
from tele.conch.server.credentials import Trust, make_portal
from tele.conch.server.factory import SSHServerFactory
from tele.conch.session.programs import ISessionPrograms
from tele.conch.session.remote_runner import RemoteSessionChannel
from tele.conch.session.session_forwarding import ISessionForwards
from tele.conch.transport.exchange import HostKeys
from tele.log import LogFormat, set_up_logging
from tele.loop import now
from tele.model.frame import FrameKind
from tele.model.identity import HostIdentity, HostRole
from tele.sessions.audited import AuditedSession
from tele.sessions.context import ConnectionContext
from tele.sessions.ending import SessionEnding
from tele.sessions.forward_record import ForwardRecords
from tele.sessions.remote_forwards import (
    IRemoteForwards,
    RemoteForwards,
    open_remote_streamlocal,
    open_remote_tcpip,
)
from tele.sessions.remote_programs import RemotePrograms
from tele.sessions.remote_target import RemoteTarget
from tele.sessions.tape import make_tape
from tele.sockets.direct import DirectReactor, listen
from tele.tape.writer import BYTES
from tele.testing.recorder import MemoryRecorder

LOOP: Any = reactor
LATER = datetime(2099, 1, 1, tzinfo=UTC)
HOST = HostIdentity("proxy-1", "proxy", CLUSTER, HostRole.PROXY, LATER)
AGENT = "AGENT" in os.environ
RECORDED = "UNRECORDED" not in os.environ


def report(**fields: Any) -> None:
    """Report to the test."""
    print(json.dumps(fields), flush=True)


class Audit:
    """Reports events to the test."""

    def emit(self, name: str, subject: Any, /, **fields: Any) -> None:
        report(event=name, **fields)

    def emit_at(self, _: datetime, name: str, subject: Any, /, **fields: Any) -> None:
        self.emit(name, subject, **fields)


@frozen
class Behind:
    """The sshd, and the authorities."""

    port: int
    users: PrivateKey
    hosts: PrivateKey


class User(ConchUser):
    """A user whose sessions are on the sshd."""

    def __init__(self, behind: Behind, credentials: Any, slots: Slots) -> None:
        self.conn: Any = None
        self.subsystemLookup = {}
        self.channelLookup = {
            b"session": RemoteSessionChannel,
            b"direct-tcpip": open_remote_tcpip,
            LOCAL_CHANNEL: open_remote_streamlocal,
        }
        self._behind = behind
        grant = one_role(
            credentials.checked.identity,
            credentials.login,
            port_forwarding=True,
            agent_forwarding=True,
            x11_forwarding=True,
            max_sessions=200,
            force_command=os.environ.get("FORCED"),
        )
        self.context = ConnectionContext.of(grant, credentials, str(uuid.uuid4()))
        self.recorder = MemoryRecorder()
        tape = make_tape(LOOP, self.recorder, self.context, HOST) if RECORDED else None
        audit: Any = Audit()
        ending = SessionEnding(LOOP, grant)
        self.target = RemoteTarget(LOOP, "web1", self._connect)
        self.forwards = RemoteForwards(
            LOOP,
            self.context,
            self.target,
            ForwardRecords(LOOP, self.context, audit, tape),
            ending.check,
            lambda: self.conn,
            slots,
        )
        programs = RemotePrograms(
            LOOP, self.target, self.context, lambda: self.forwards.agent_forwarded
        )
        self.session = AuditedSession(LOOP, self.context, programs, tape, audit, ending)
        self.session.logged_in()

    def __conform__(self, interface: Any) -> Any:
        if interface is IPermissions:
            return self.context.grant
        if interface in (IListener, ISessionForwards, IRemoteForwards):
            return self.forwards
        return self.session if interface is ISessionPrograms else None

    def gotGlobalRequest(self, requestType: bytes, data: bytes) -> Any:
        """See ``ConchUser``."""
        return answer_request(requestType, data, self) if requestType in REQUESTS else False

    def _connect(self) -> Deferred[Any]:
        return Deferred.fromCoroutine(self._log_in())

    async def _log_in(self) -> Any:
        behind, login = self._behind, self.context.grant.login
        direct: Any = DirectReactor(LOOP)
        endpoint = HostnameEndpoint(direct, b"127.0.0.1", behind.port)
        verifier = HostVerifier({behind.hosts.public.blob}, ("web1",))
        identities: Any
        agent = None
        if AGENT:
            agent = await open_agent(LOOP, self.conn)
            identities = await agent.identities(login, {behind.users.public.blob}, now(LOOP))
        else:
            key = PrivateKey.generate()
            request = UserCertificateRequest(
                self.context.grant.identity.user, CLUSTER, (login,), ("access",), "s",
                timedelta(minutes=5), port_forwarding=True, agent_forwarding=True,
                x11_forwarding=True,
            )  # fmt: skip
            made = issue_user(behind.users, key.public.blob, request, now(LOOP), os.urandom)
            identities = (ClientIdentity(key, made, login),)
        limits = Limits(rekey_octets=int(os.environ.get("REKEY_OCTETS", 1 << 30)))
        made_login = TargetLogin("web1", login, verifier, identities, limits=limits)
        service = await connect_target(LOOP, endpoint, made_login)
        if agent is not None:
            agent.close()
        return service

    def logged_out(self) -> None:
        """The connection is gone."""
        self.forwards.close()
        self.target.close()
        self.session.logged_out()
        report(tape=[_shown(frame) for frame in self.recorder.frames])


def _shown(frame: Any) -> dict[str, Any]:
    if frame.kind in BYTES:
        data = base64.b64encode(frame.data[:65536]).decode("ascii")
        return {"frame": frame.kind.name, "size": len(frame.data), "data": data}
    return {"frame": FrameKind(frame.kind).name, **json.loads(frame.data or b"{}")}


@implementer(IRealm)
class Realm:
    """Accepts every login."""

    def __init__(self, behind: Behind) -> None:
        self._behind = behind
        self._slots = Slots(100)

    def requestAvatar(self, avatarId: Any, mind: object, *interfaces: object) -> Deferred[Any]:
        """Return a user."""
        user = User(self._behind, avatarId, self._slots)
        return succeed((IConchUser, user, user.logged_out))


def main(folder: Path, port: int) -> None:
    """Serve until killed."""
    set_up_logging("info", sys.stderr, LogFormat.TEXT)
    users, hosts = (
        PrivateKey.from_openssh((folder / f"{name}_key").read_bytes())
        for name in ("users", "hosts")
    )
    (folder / "known_hosts").write_text(f"@cert-authority * {hosts.public.line}\n")
    mine = PrivateKey.generate()
    wanted = UserCertificateRequest(
        "alice", CLUSTER, (getpass.getuser(),), ("access",), "s", timedelta(hours=1)
    )
    certified = issue_user(users, mine.public.blob, wanted, datetime.now(UTC), os.urandom)
    write_private(folder / "me", mine.to_openssh())
    (folder / "me-cert.pub").write_text(certified.line + "\n")
    host = PrivateKey.generate()
    request = HostCertificateRequest("h-1", "web1", CLUSTER, HostRole.NODE, ("127.0.0.1",))
    certificate = issue_host(hosts, host.public.blob, request, datetime.now(UTC), os.urandom)
    factory = SSHServerFactory(
        portal=make_portal(Realm(Behind(port, users, hosts))),
        host_keys=lambda: HostKeys(host, certificate),
        user_trust=lambda: Trust(CLUSTER, frozenset({users.public.blob})),
        clock=LOOP,
        limits=Limits(rekey_octets=int(os.environ.get("REKEY_OCTETS", 1 << 30))),
    )
    listening: Any = listen(LOOP, 0, factory, "127.0.0.1").getHost()
    report(port=listening.port)
    LOOP.run()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
