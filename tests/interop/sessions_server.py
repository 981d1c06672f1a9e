"""A server with sessions and forwarding in a process of its own: ``sessions_server.py FOLDER``.

Programs are children of ``sh`` as ourselves: no roles, no spawner, no recording; what is tried
is the path of the data. Writes credentials as ``engine_server.py`` does, and prints one JSON
object with its port, then one for each program that was hung up.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import termios
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from attrs import define, field
from twisted.conch.avatar import ConchUser
from twisted.conch.interfaces import IConchUser
from twisted.cred.portal import IRealm
from twisted.internet import reactor
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.endpoints import HostnameEndpoint
from zope.interface import implementer

from engine_server import CLUSTER, make_credentials
from tele.admission.limits import Limits
from tele.certs.issue import HostCertificateRequest, issue_host
from tele.certs.keys import PrivateKey
from tele.conch.forwarding.local import ForwardRequest, IForwarder, open_direct_tcpip
from tele.conch.server.credentials import Trust, make_portal
from tele.conch.server.factory import ServerAlgorithms, SSHServerFactory
from tele.conch.session.channel import SessionChannel
from tele.conch.session.programs import Exit, IProgram, ISessionPrograms, ProgramRequest
from tele.conch.transport.exchange import HostKeys
from tele.errors import AccessDenied, NotFound, Unreachable, quoted
from tele.log import LogFormat, set_up_logging
from tele.model.identity import HostRole
from tele.node.terminal import open_terminal, set_size
from tele.sockets.direct import DirectReactor, listen

LOOP: Any = reactor


def report(**fields: Any) -> None:
    """Report to the test."""
    print(json.dumps(fields), flush=True)


@implementer(IProgram)
@define(eq=False)
class Child:
    """A child process, watched by a descriptor that becomes readable when it ends."""

    process: subprocess.Popen[bytes]
    stdin: int | None
    stdout: int | None
    stderr: int | None
    terminal: int | None = None
    tap: Any = None
    exited: Deferred[Exit] = field(factory=Deferred)
    _watch: int = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._watch = os.pidfd_open(self.process.pid)
        LOOP.addReader(self)

    def fileno(self) -> int:
        """See ``IReadDescriptor``."""
        return self._watch

    def logPrefix(self) -> str:
        """See ``IReadDescriptor``."""
        return "child"

    def doRead(self) -> None:
        """The process exited."""
        LOOP.removeReader(self)
        os.close(self._watch)
        status = self.process.wait()
        if self.terminal is not None:
            os.close(self.terminal)
            self.terminal = None
        if status < 0:
            self.exited.callback(Exit(None, signal.Signals(-status).name.removeprefix("SIG")))
        else:
            self.exited.callback(Exit(status))

    def connectionLost(self, reason: Any) -> None:
        """The reactor stops."""

    def signal(self, name: str) -> bool:
        """Signal its process group."""
        number = getattr(signal, f"SIG{name}", None)
        if number is None:
            return False
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)
        return True

    def resize(self, columns: int, rows: int, width: int, height: int) -> None:
        """Set the size of its terminal."""
        if self.terminal is not None:
            set_size(self.terminal, columns, rows, width, height)

    def hang_up(self) -> None:
        """The client disconnected."""
        report(hung_up=self.process.pid)
        self.signal("HUP")


def shell_words(request: ProgramRequest) -> list[str | bytes]:
    """Return what to execute."""
    return ["/bin/sh"] if request.kind == "shell" else ["/bin/sh", "-c", request.command]


@implementer(ISessionPrograms, IForwarder)
class User(ConchUser):
    """A user with a valid certificate."""

    def __init__(self) -> None:
        self.conn = None
        self.channelLookup = {b"session": SessionChannel, b"direct-tcpip": open_direct_tcpip}
        self.subsystemLookup = {}

    def env_allowed(self, name: str) -> bool:
        """See :class:`ISessionPrograms`."""
        return name in {"LANG", "LC_TEST"}

    def start(self, request: ProgramRequest, channel_number: int) -> Deferred[Any]:
        """See :class:`ISessionPrograms`."""
        if request.kind == "subsystem":
            return fail(NotFound(f"there is no subsystem {quoted(request.command)}"))
        environment = {"PATH": os.environ["PATH"], **request.env}
        if request.pty is not None:
            return succeed(self._on_terminal(request, environment))
        child = subprocess.Popen(
            shell_words(request),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            start_new_session=True,
        )
        ends: list[int] = []
        for pipe in (child.stdin, child.stdout, child.stderr):
            if pipe is None:
                raise RuntimeError("no pipe")
            ends.append(os.dup(pipe.fileno()))
            pipe.close()
            os.set_blocking(ends[-1], False)
            if len(ends) < 3:
                with suppress(OSError):
                    fcntl.fcntl(ends[-1], fcntl.F_SETPIPE_SZ, 256 * 1024)
        stdin, stdout, stderr = ends
        return succeed(Child(child, stdin, stdout, stderr))

    def _on_terminal(self, request: ProgramRequest, environment: dict[str, str]) -> Child:
        if request.pty is None:
            raise RuntimeError("no terminal")
        master, slave = open_terminal(request.pty)
        child = subprocess.Popen(
            shell_words(request),
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env={**environment, "TERM": request.pty.term},
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(slave)
        return Child(child, master, master, None, os.dup(master))

    def connect(self, request: ForwardRequest, factory: Any) -> Deferred[Any]:
        """See :class:`IForwarder`."""
        if request.host == "forbidden.example":
            return fail(AccessDenied("you may not go there"))
        if request.host == "offline.example":
            return fail(Unreachable("node offline.example is offline since yesterday"))
        return HostnameEndpoint(DirectReactor(LOOP), request.host, request.port).connect(factory)


@implementer(IRealm)
@define
class Realm:
    """Accepts every login, and calls ``entered``."""

    entered: Callable[[], None]

    def requestAvatar(self, avatarId: Any, mind: object, *interfaces: object) -> Deferred[Any]:
        """Return a user."""
        self.entered()
        return succeed((IConchUser, User(), lambda: None))


def main(folder: Path) -> None:
    """Serve until killed."""
    # The programs of sessions inherit it; under nohup(1) they would ignore SIGHUP.
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    set_up_logging("info", sys.stderr, LogFormat.TEXT)
    users, hosts, host = (PrivateKey.generate() for _ in range(3))
    make_credentials(folder, users)
    (folder / "known_hosts").write_text(f"@cert-authority * {hosts.public.line}\n")
    (folder / "known_keys").write_text(f"* {host.public.line}\n")
    (folder / "hosts_authority.pub").write_text(hosts.public.line + "\n")
    request = HostCertificateRequest("h-1", "web1", CLUSTER, HostRole.NODE, ("127.0.0.1",))
    certificate = issue_host(hosts, host.public.blob, request, datetime.now(UTC), os.urandom)
    keys = [HostKeys(host, certificate)]

    def change_key() -> None:
        """With CHANGE_KEY the host has another key after the first login."""
        if "CHANGE_KEY" in os.environ and len(keys) == 1:
            keys.append(HostKeys(PrivateKey.generate(), None))
            (folder / "changed_key").write_text(keys[-1].private.public.line)

    factory = SSHServerFactory(
        portal=make_portal(Realm(change_key)),
        host_keys=lambda: keys[-1],
        user_trust=lambda: Trust(CLUSTER, frozenset({users.public.blob})),
        clock=LOOP,
        limits=Limits(
            rekey_octets=int(os.environ.get("REKEY_OCTETS", 1 << 30)),
            keepalive_interval=float(os.environ.get("KEEPALIVE", "15")),
        ),
        algorithms=ServerAlgorithms(
            ciphers=os.environb[b"CIPHERS"].split(b",") if "CIPHERS" in os.environ else None
        ),
    )
    port: Any = listen(LOOP, 0, factory, "127.0.0.1").getHost()
    report(port=port.port)
    LOOP.run()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
