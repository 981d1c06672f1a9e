"""Avatars, sessions and subsystems written for Conch work on our sessions, unchanged."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from attrs import define, field
from twisted.conch.avatar import ConchUser
from twisted.conch.interfaces import EnvironmentVariableNotPermitted, ISession, ISessionSetEnv
from twisted.conch.ssh.session import SSHSession
from twisted.internet.error import ProcessDone, ProcessExitedAlready, ProcessTerminated
from twisted.internet.protocol import Protocol
from twisted.python.failure import Failure
from zope.interface import implementer

from channel_ends import ChannelEnds, ChannelWorld, output
from tele.conch.client.session import ProgramChannel
from tele.conch.compat.session_runner import ConchSession
from tele.conch.connection.channel import WINDOW, Channel
from tele.conch.connection.connection import SSHConnection
from tele.conch.session.programs import Exit, ProgramRequest, PtyRequest

MIB = 1 << 20


@define(eq=False)
class Process:
    """The transport of a program: what the avatar's session gives to Conch's protocol."""

    proto: Any
    written: bytearray = field(factory=bytearray)
    signals: list[str] = field(factory=list)
    producer: Any = None
    reading: bool = True
    lost: bool = False
    gone: bool = False

    def write(self, data: bytes) -> None:
        self.written += data

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        assert streaming
        self.producer = producer

    def pauseProducing(self) -> None:
        self.reading = False

    def resumeProducing(self) -> None:
        self.reading = True

    def signalProcess(self, name: str) -> None:
        if self.gone:
            raise ProcessExitedAlready
        self.signals.append(name)

    def loseConnection(self) -> None:
        self.lost = True


@implementer(ISession, ISessionSetEnv)
@define(eq=False)
class Session:
    """An ISession as Conch programs write them."""

    events: list[Any] = field(factory=list)
    process: Any = None
    first_output: bytes = b""
    ends_at_once: bool = False

    def setEnv(self, name: bytes, value: bytes) -> None:
        if name != b"LANG":
            raise EnvironmentVariableNotPermitted
        self.events.append((name, value))

    def getPty(self, term: bytes, windowSize: Any, modes: Any) -> None:
        if term == b"none":
            raise ValueError("no such terminal")
        self.events.append(("pty", term, windowSize, modes))

    def openShell(self, proto: Any) -> None:
        self._start(proto, "shell")

    def execCommand(self, proto: Any, command: bytes) -> None:
        self._start(proto, command)

    def _start(self, proto: Any, what: Any) -> None:
        self.events.append(what)
        self.process = Process(proto)
        proto.makeConnection(self.process)
        if self.first_output:
            proto.outReceived(self.first_output)
        if self.ends_at_once:
            self.end()

    def end(self, status: int = 0, signal: int | None = None) -> None:
        proto = self.process.proto
        proto.outConnectionLost()
        proto.errConnectionLost()
        reason = ProcessTerminated(status, signal, 0) if status or signal else ProcessDone(0)
        proto.processEnded(Failure(reason))

    def windowChanged(self, newWindowSize: Any) -> None:
        self.events.append(("size", newWindowSize))

    def eofReceived(self) -> None:
        self.events.append("eof")

    def closed(self) -> None:
        self.events.append("closed")


class Echo(Protocol):
    """A subsystem."""

    def dataReceived(self, data: bytes) -> None:
        transport: Any = self.transport
        transport.write(data.upper())


class User(ConchUser):
    """An avatar of a Conch program."""

    def __init__(self, session: Session | None, kind: Any = ConchSession) -> None:
        self.conn = None
        self._session = session
        self.channelLookup = {b"session": kind}
        self.subsystemLookup = {b"echo": lambda *_, **__: Echo()}

    def __conform__(self, interface: Any) -> Any:
        return self._session if interface is ISession else None


@pytest.fixture
def session() -> Session:
    """What the avatar has."""
    return Session()


@pytest.fixture
def ends(session: Session) -> Iterator[ChannelEnds]:
    """A client of a server with such an avatar."""
    ends = ChannelWorld(make_user=lambda _: User(session)).link()
    yield ends
    ends.client_link.close()


def start(ends: ChannelEnds, request: ProgramRequest | None = None) -> Any:
    """Run a program; ``received`` is what the client receives."""
    received: list[tuple[int | None, bytes]] = []
    channel: Any = ProgramChannel(
        request or ProgramRequest("exec", b"something"),
        lambda code, view: received.append((code, bytes(view))),
    )
    channel.received = received
    channel.results = []
    channel.started.addErrback(lambda failure: channel.results.append(failure.value))
    channel.ended.addBoth(channel.results.append)
    return ends.open(channel)


def test_a_program_of_conch_runs(ends: ChannelEnds, session: Session) -> None:
    """Environment, terminal, command, input, both outputs, sizes, signals, EOF and exit."""
    pty = PtyRequest("xterm", 80, 24, 1, 2, ((53, 1),))
    channel = start(ends, ProgramRequest("exec", b"ls", {"LANG": "C", "PATH": "/x"}, pty))
    process = session.process
    assert session.events == [
        (b"LANG", b"C"), ("pty", b"xterm", (24, 80, 1, 2), [(53, 1)]), b"ls",
    ]  # fmt: skip
    channel.write(b"input")
    channel.resize(100, 50)
    channel.signal("INT")
    channel.signal("NONSENSE")
    channel.send_eof()
    process.proto.outReceived(b"out")
    process.proto.errReceived(b"err")
    ends.settle()
    assert process.written == b"input"
    assert process.signals == ["INT"]
    assert session.events[3:] == [("size", (50, 100, 0, 0)), "eof"]
    session.end(status=3)
    ends.settle()
    assert (output(channel), output(channel, 1)) == (b"out", b"err")
    assert channel.results == [Exit(3)]
    assert session.events[-1] == "closed"
    assert process.lost


@pytest.mark.parametrize(("signal", "name"), [(15, "TERM"), (9, "KILL"), (64, "64@tele")])
def test_a_program_that_is_killed(
    ends: ChannelEnds, session: Session, signal: int, name: str
) -> None:
    """The client gets the signal's name, also of one without a standard name."""
    channel = start(ends)
    session.end(signal=signal)
    ends.settle()
    assert channel.results == [Exit(None, name)]


def test_a_program_that_ends_at_once(ends: ChannelEnds, session: Session) -> None:
    """Twisted may report the exit before the start has returned: nothing is lost."""
    session.first_output, session.ends_at_once = b"hello", True
    channel = start(ends, ProgramRequest("shell"))
    assert output(channel) == b"hello"
    assert channel.results == [Exit(0)]


def test_its_output_waits_for_the_client(ends: ChannelEnds, session: Session) -> None:
    """Its transport is paused while the client does not read; the exit follows the output."""
    channel = start(ends)
    process = session.process
    ends.client_link.paused = True
    sent = 0
    while process.reading:
        process.proto.outReceived(bytes(65536))
        sent += 65536
        ends.turn()
    assert sent < 2 * MIB
    session.end()
    ends.settle()
    assert channel.results == []
    ends.client_link.paused = False
    ends.settle()
    assert len(output(channel)) == sent
    assert channel.results == [Exit(0)]


def test_its_input_waits_for_the_program(ends: ChannelEnds, session: Session) -> None:
    """While its transport is paused the client gets no credit."""
    channel = start(ends)
    session.process.producer.pauseProducing()
    channel.write(bytes(8 * MIB))
    ends.settle()
    assert len(session.process.written) == WINDOW
    session.process.producer.resumeProducing()
    ends.settle()
    assert len(session.process.written) == 8 * MIB


def test_a_subsystem_of_conch(ends: ChannelEnds) -> None:
    """``subsystemLookup`` is called; EOF closes it, as in Conch."""
    channel = start(ends, ProgramRequest("subsystem", b"echo"))
    channel.write(b"hello")
    channel.send_eof()
    ends.settle()
    assert output(channel) == b"HELLO"
    assert len(channel.results) == 1


@pytest.mark.parametrize(
    ("request_", "text"),
    [
        (ProgramRequest("subsystem", b"{x}"), b"there is no subsystem '{x}' here"),
        (ProgramRequest("shell"), b"this server runs no programs"),
    ],
)
def test_missing_programs_and_subsystems(request_: ProgramRequest, text: bytes) -> None:
    """An avatar without sessions, or without the subsystem: the client shows the reason."""
    ends = ChannelWorld(make_user=lambda _: User(None)).link()
    channel = start(ends, request_)
    assert text in output(channel, 1)
    ends.client_link.close()


def test_a_terminal_that_is_refused(ends: ChannelEnds) -> None:
    """An exception of the avatar refuses this request."""
    channel = start(ends, ProgramRequest("shell", b"", {}, PtyRequest("none", 80, 24)))
    assert "refuses a terminal" in str(channel.results[0])


def test_a_program_that_has_exited_cannot_be_signalled(ends: ChannelEnds, session: Session) -> None:
    """The request is refused, without an error."""
    channel = start(ends)
    session.process.gone = True
    replies: list[bool] = []
    asked = ends.client.service.sendRequest(channel, b"signal", b"\0\0\0\4TERM", wantReply=True)
    asked.addCallbacks(lambda _: replies.append(True), lambda _: replies.append(False))
    ends.settle()
    assert replies == [False]


def test_conchs_own_session_class(session: Session) -> None:
    """``channelLookup`` with Conch's SSHSession: it runs on our connection."""
    ends = ChannelWorld(make_user=lambda _: User(session, SSHSession)).link()
    channel = start(ends)
    channel.write(b"input" * 100_000)
    ends.settle()
    session.process.proto.outReceived(b"output" * 1000)
    session.end()
    ends.settle()
    assert len(session.process.written) == 500_000
    assert output(channel) == b"output" * 1000
    assert channel.results == [Exit(0)]
    ends.client_link.close()


@pytest.mark.parametrize(("kind", "code"), [(b"extended-data", 3), (b"data", 3), (b"mine", 0)])
def test_the_channels_of_a_client(ends: ChannelEnds, kind: bytes, code: int) -> None:
    """A client's ``channel_<type>`` methods make channels; names of our own methods do not."""

    class Mine(SSHConnection):
        def channel_mine(self, window: int, most: int, data: bytes) -> Channel:
            return Channel(remoteWindow=window, remoteMaxPacket=most)

        def global_mine(self, data: bytes) -> int:
            return data == b"yes"

    ends.client.service.__class__ = Mine
    replies: list[Any] = []
    for data in (b"yes", b"no"):
        ends.server.service.sendGlobalRequest(b"mine", data, wantReply=1).addBoth(replies.append)
    asked = ProxyHandshake()
    asked.name = kind
    ends.server.service.openChannel(asked)
    ends.settle()
    assert asked.code == code
    assert (replies[0], type(replies[1])) == (b"", Failure)


class ProxyHandshake(Channel):
    """A channel that keeps the code of its refusal; 0 if it was not refused."""

    name = b"nonsense"
    code = 0

    def openFailed(self, reason: Any) -> None:
        self.code = reason.data
