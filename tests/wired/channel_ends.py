"""A client and a server with channels, over a slow link in memory, with real pipes."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from attrs import Factory, define, field
from twisted.conch.avatar import ConchUser
from twisted.internet.defer import Deferred, fail, succeed
from twisted.python.failure import Failure
from zope.interface import alsoProvides, implementer

from tele.conch.client.session import ProgramChannel
from tele.conch.client.transport import LoginTransport
from tele.conch.connection.channel import Channel
from tele.conch.connection.connection import SSHConnection
from tele.conch.connection.permissions import IPermissions, Permissions
from tele.conch.forwarding.local import IForwarder, open_direct_tcpip
from tele.conch.server.credentials import CertificateCredentials
from tele.conch.session.channel import SessionChannel
from tele.conch.session.programs import Exit, IProgram, ISessionPrograms, ProgramRequest
from tele.errors import AccessDenied
from tele.testing.links import LinkEnd, ManualReactor
from tele.testing.ssh import Realm, World


@implementer(IProgram)
@define(eq=False)
class HeldProgram:
    """A program that the test plays."""

    request: ProgramRequest
    stdin: int | None
    stdout: int | None
    stderr: int | None
    tap: Any
    #: The test's ends: the program's standard input, output and error.
    its_input: int
    its_output: int
    its_errors: int
    exited: Deferred[Exit] = Factory(Deferred)
    signals: list[str] = Factory(list)
    sizes: list[tuple[int, ...]] = Factory(list)
    hung_up: int = 0
    #: Those of the test's ends that it has not closed.
    open_ends: set[int] = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.open_ends = {self.its_input, self.its_output, self.its_errors}

    def signal(self, name: str) -> bool:
        self.signals.append(name)
        return name != "KILL"

    def resize(self, *size: int) -> None:
        self.sizes.append(size)

    def hang_up(self) -> None:
        self.hung_up += 1

    # -- what the program does
    def write_output(self, data: bytes | memoryview) -> int:
        """Write to standard output; return how many bytes were taken."""
        return self._write(self.its_output, data)

    def write_error(self, data: bytes) -> int:
        return self._write(self.its_errors, data)

    def _write(self, descriptor: int, data: bytes | memoryview) -> int:
        try:
            return os.write(descriptor, data)
        except BlockingIOError:
            return 0

    def read_input(self, limit: int = 1 << 20) -> bytes | None:
        """Read standard input: b"" at its end, None if there are no data now."""
        try:
            return os.read(self.its_input, limit)
        except BlockingIOError:
            return None

    def shut(self, *descriptors: int) -> None:
        """Close some of its ends, or all."""
        for descriptor in descriptors or tuple(self.open_ends):
            if descriptor in self.open_ends:
                self.open_ends.discard(descriptor)
                os.close(descriptor)

    def finish(self, how: Exit | None = None) -> None:
        """Close everything and end."""
        self.shut()
        if not self.exited.called:
            self.exited.callback(how or Exit(0))


@implementer(ISessionPrograms)
@define(eq=False)
class HeldPrograms:
    """Starts programs that the test plays."""

    started: list[HeldProgram] = Factory(list)
    numbers: list[int] = Factory(list)
    tap: Any = None
    terminal: bool = False
    answer: Callable[[ProgramRequest], Deferred[Any]] | None = None

    def env_allowed(self, name: str) -> bool:
        return name.startswith("LANG")

    def start(self, request: ProgramRequest, channel_number: int) -> Deferred[Any]:
        self.numbers.append(channel_number)
        if self.answer is not None:
            return self.answer(request)
        return succeed(self.make(request))

    def make(self, request: ProgramRequest) -> HeldProgram:
        """Make a program without starting it for a session."""
        input_read, input_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        output_read, output_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        errors_read, errors_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        for pipe in (input_read, output_read):
            with suppress(OSError):
                fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, 256 * 1024)
        program = HeldProgram(
            request,
            stdin=input_write,
            stdout=output_read,
            stderr=errors_read,
            tap=self.tap,
            its_input=input_read,
            its_output=output_write,
            its_errors=errors_write,
        )
        self.started.append(program)
        return program


class ChannelUser(ConchUser):
    """A user with sessions and forwarding."""

    def __init__(self, world: ChannelWorld) -> None:
        self._world = world
        self.conn = None
        self.channelLookup = {b"session": SessionChannel, b"direct-tcpip": open_direct_tcpip}
        self.subsystemLookup = {}
        alsoProvides(self, IForwarder)

    def __conform__(self, interface: Any) -> Any:
        if interface is IPermissions:
            return self._world.permissions
        return self._world.programs if interface is ISessionPrograms else None

    def connect(self, request: Any, factory: Any) -> Deferred[Any]:
        """See :class:`IForwarder`."""
        if self._world.forward is None:
            return fail(AccessDenied("you may not forward ports"))
        connecting: Deferred[Any] = self._world.forward(request, factory)
        return connecting


@define
class ChannelWorld(World):
    """A world whose connections have channels."""

    clock: Any = Factory(ManualReactor)
    programs: Any = Factory(HeldPrograms)
    forward: Any = None
    permissions: Permissions | None = None
    make_user: Callable[[ChannelWorld], Any] = ChannelUser

    def __attrs_post_init__(self) -> None:
        super().__attrs_post_init__()
        self.realm.answer = self._admit
        self.factory.connection = SSHConnection

    def _admit(self, credentials: CertificateCredentials) -> Deferred[Any]:
        interface, _, log_out = Realm().admit(credentials)
        return succeed((interface, self.make_user(self), log_out))

    def link(self, connection: Callable[[], Any] = SSHConnection) -> ChannelEnds:
        """Connect a client, log in, and return both ends."""
        client: Any = LoginTransport(
            self.clock, self.verifier(), self.identity(), connection, self.limits
        )
        server: Any = self.server()
        client_link, server_link = LinkEnd(client), LinkEnd(server)
        client_link.peer, server_link.peer = server_link, client_link
        server.makeConnection(server_link)
        ready = client.ready()
        client.makeConnection(client_link)
        ends = ChannelEnds(self, client, server, client_link, server_link)
        ends.settle()
        assert ready.called
        ready.addErrback(Failure.raiseException)
        return ends


@define
class ChannelEnds:
    """A client and a server that are connected and logged in."""

    world: ChannelWorld
    client: Any
    server: Any
    client_link: LinkEnd
    server_link: LinkEnd

    def turn(self, down: int = 1 << 20, up: int = 1 << 20) -> bool:
        """Carry some bytes each way and poll the descriptors once."""
        moved = self.world.clock.poll()
        moved = self.server_link.carry(down) or moved
        return self.client_link.carry(up) or moved

    def settle(self) -> None:
        """Take turns until there is nothing to do."""
        for _ in range(100_000):
            if not self.turn():
                return
        raise AssertionError("there is no end to it")

    def open(self, channel: Channel, extra: bytes = b"") -> Any:
        """Open a channel of the client's."""
        self.client.service.openChannel(channel, extra)
        self.settle()
        return channel

    def run(
        self, request: ProgramRequest | None = None, kind: type[ProgramChannel] | None = None
    ) -> tuple[Any, HeldProgram]:
        """Open a session that runs a program; return the client's end and the program."""
        received: list[tuple[int | None, bytes]] = []
        channel = (kind or ProgramChannel)(
            request or ProgramRequest("exec", b"something"),
            lambda code, view: received.append((code, bytes(view))),
        )
        channel.received = received  # type: ignore[attr-defined]
        self.open(channel)
        return channel, self.world.programs.started[-1]


class Hoarder(ProgramChannel):
    """A client that receives a window of data and consumes none of it."""

    hoard = 0

    def data_view(self, view: memoryview) -> None:
        self.hoard += len(view)

    def use_up(self) -> None:
        """Consume all of it."""
        hoard, self.hoard = self.hoard, 0
        self.consumed(hoard)


def output(channel: Any, code: int | None = None) -> bytes:
    """Return what the client has received so far."""
    return b"".join(data for kind, data in channel.received if kind == code)


@contextmanager
def no_descriptor_lost() -> Iterator[None]:
    """Check that every descriptor that is opened inside is closed inside."""
    before = set(os.listdir("/proc/self/fd"))
    yield
    left = {number: _target(number) for number in set(os.listdir("/proc/self/fd")) - before}
    assert not {number for number, target in left.items() if target}, left


def _target(number: str) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{number}")
    except OSError:
        return ""
