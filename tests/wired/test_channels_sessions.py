"""Sessions from end to end: every byte, in order, then the exit status."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from typing import Any

import pytest
from attrs import define, field
from twisted.internet.defer import Deferred, fail
from twisted.logger import ILogObserver, LogEvent, globalLogPublisher
from zope.interface import implementer

from channel_ends import ChannelEnds, ChannelWorld, Hoarder, no_descriptor_lost, output
from tele.conch.client.session import ProgramChannel, execute
from tele.conch.connection.channel import DECLINED_LIMIT, WINDOW
from tele.conch.connection.permissions import Permissions
from tele.conch.session.programs import Exit, ProgramRequest, PtyRequest
from tele.errors import AccessDenied, Unavailable
from tele.log import event_text
from tele.sockets.links import Link, TransportLink
from tele.wire.fields import string, uint32

MIB = 1 << 20


@pytest.fixture
def world() -> ChannelWorld:
    """A server whose programs the test plays."""
    return ChannelWorld()


@pytest.fixture
def ends(world: ChannelWorld) -> Iterator[ChannelEnds]:
    """A client that is logged in; afterwards no descriptor may be left open."""
    with no_descriptor_lost():
        ends = world.link()
        yield ends
        ends.client_link.close()
        for program in world.programs.started:
            program.finish()


def ended(channel: ProgramChannel) -> Exit:
    """Return the exit of a session that has ended."""
    results: list[Any] = []
    channel.ended.addBoth(results.append)
    assert len(results) == 1
    assert isinstance(results[0], Exit)
    return results[0]


def pattern(size: int) -> bytes:
    """Return bytes in which a missing, doubled or moved piece shows."""
    return b"".join(number.to_bytes(8, "big") for number in range(size // 8)) + b"x" * (size % 8)


# -- bytes ----------------------------------------------------------------------------
@pytest.mark.parametrize("size", [0, 1, 50 * MIB])
def test_output_arrives_whole(ends: ChannelEnds, size: int) -> None:
    """Nothing, one byte and fifty megabytes of output arrive to the byte, then the exit."""
    channel, program = ends.run()
    data = memoryview(pattern(size))
    digest = hashlib.sha256()
    at = 0
    while at < size:
        at += program.write_output(data[at : at + MIB])
        ends.turn()
        for _, piece in channel.received:
            digest.update(piece)
        channel.received.clear()
    program.finish(Exit(3))
    ends.settle()
    digest.update(output(channel))
    assert digest.digest() == hashlib.sha256(data).digest()
    assert ended(channel) == Exit(3)


@pytest.mark.parametrize("size", [0, 1, 50 * MIB])
def test_input_arrives_whole(ends: ChannelEnds, size: int) -> None:
    """Nothing, one byte and fifty megabytes of input arrive to the byte, then its end."""
    channel, program = ends.run()
    data = memoryview(pattern(size))
    digest, at = hashlib.sha256(), 0
    while at < size:
        if not channel.has_queue:
            channel.write(bytes(data[at : at + MIB]))
            at += MIB
        ends.turn()
        digest.update(program.read_input() or b"")
    channel.send_eof()
    while (received := program.read_input()) != b"":
        digest.update(received or b"")
        ends.turn()
    assert digest.digest() == hashlib.sha256(data).digest()
    program.finish()
    ends.settle()
    assert ended(channel) == Exit(0)


def test_both_outputs_are_separate(ends: ChannelEnds) -> None:
    """Standard error arrives as extended data; each stream keeps its order."""
    channel, program = ends.run()
    for number in range(20):
        program.write_output(b"out %d\n" % number)
        ends.settle()
        program.write_error(b"err %d\n" % number)
        ends.settle()
    assert [data for _, data in channel.received] == [
        b"%s %d\n" % (kind, number) for number in range(20) for kind in (b"out", b"err")
    ]
    assert {code for code, data in channel.received if data.startswith(b"err")} == {1}


def test_a_slow_reader_loses_nothing(ends: ChannelEnds) -> None:
    """EOF and exit wait for output that has no window yet: Conch's own server cut it off."""
    channel, program = ends.run(kind=Hoarder)
    data, at, total = pattern(8 * MIB), 0, 0
    for _ in range(200):
        at += program.write_output(data[at : at + MIB])
        ends.turn()
    assert channel.hoard == WINDOW
    assert not channel.remote_eof
    while at < len(data):
        at += program.write_output(data[at : at + MIB])
        total += channel.hoard
        channel.use_up()
        ends.turn()
    program.finish()
    while not channel.ended.called:
        total += channel.hoard
        channel.use_up()
        assert ends.turn() or channel.ended.called
    assert total + channel.hoard == len(data)


def test_a_stalled_client_costs_nothing(ends: ChannelEnds) -> None:
    """A client that gives no credit: the program is not read any more, and nothing is queued."""
    channel, program = ends.run(kind=Hoarder)
    written = 0
    for _ in range(500):
        written += program.write_output(bytes(MIB))
        ends.turn()
    assert channel.hoard == WINDOW
    assert written <= WINDOW + 512 * 1024  # the window and the pipe
    (session,) = ends.server.service.channels.values()
    assert not session.has_queue
    assert not ends.server_link.waiting
    assert not ends.world.clock.poll(), "a program whose output cannot be sent is not polled"


def test_a_stalled_link_costs_a_batch(ends: ChannelEnds) -> None:
    """A client that does not read its socket: one batch is encrypted, and no more."""
    _, program = ends.run()
    ends.client_link.paused = True
    written = sum(program.write_output(bytes(MIB)) * ends.turn() for _ in range(200))
    assert len(ends.server_link.waiting) < 1 * MIB
    assert written < 2 * MIB
    ends.client_link.paused = False
    ends.settle()


def test_a_program_that_does_not_read_costs_a_window(ends: ChannelEnds) -> None:
    """A client may send one window, and gets no credit before it is consumed."""
    channel, program = ends.run()
    for _ in range(8):
        channel.write(bytes(MIB))
        ends.settle()
    (session,) = ends.server.service.channels.values()
    assert session.localWindowLeft < WINDOW // 4
    assert channel.remoteWindowLeft == 0
    assert channel.has_queue
    got = 0
    channel.send_eof()
    while (received := program.read_input()) != b"":
        got += len(received or b"")
        ends.turn()
    assert got == 8 * MIB


def test_small_pieces_cost_what_they_hold(ends: ChannelEnds) -> None:
    """Queued input of single bytes is joined to few pieces: memory is no multiple of the window."""
    channel, program = ends.run()
    (session,) = ends.server.service.channels.values()
    channel.write(bytes(256 * 1024))
    ends.settle()
    for _ in range(5000):
        session.receive(memoryview(b"x"))
    backlog = session._runner._sink._backlog
    assert len(backlog) == 5000
    assert len(backlog._pieces) == 1
    program.shut(program.its_input)
    ends.settle()


def test_early_input_waits_for_the_program(ends: ChannelEnds) -> None:
    """Input and EOF before the program runs reach it when it does."""
    programs, waiting = ends.world.programs, Deferred[Any]()
    programs.answer = lambda _: waiting
    channel = ProgramChannel(ProgramRequest("exec", b"x"), lambda *_: None)
    ends.open(channel)
    channel.write(b"early")
    channel.send_eof()
    ends.settle()
    program = programs.make(ProgramRequest("exec", b"x"))
    waiting.callback(program)
    ends.settle()
    assert (program.read_input(), program.read_input()) == (b"early", b"")
    program.finish(Exit(None, "TERM", core=True, message="killed"))
    ends.settle()
    assert ended(channel) == Exit(None, "TERM", core=True, message="killed")


def test_a_program_that_closes_its_input(ends: ChannelEnds) -> None:
    """Input that is not read is dropped and credited: the session continues."""
    channel, program = ends.run()
    channel.write(bytes(MIB))
    ends.settle()
    program.shut(program.its_input)
    for _ in range(6):
        channel.write(bytes(MIB))
        ends.settle()
    assert not channel.has_queue
    program.write_output(b"still here")
    program.finish(Exit(1))
    ends.settle()
    assert output(channel) == b"still here"
    assert ended(channel) == Exit(1)


def test_the_exit_waits_for_the_output(ends: ChannelEnds) -> None:
    """A program exited while others hold its output open: the session ends when they close it."""
    channel, program = ends.run()
    program.write_output(b"first ")
    program.exited.callback(Exit(7))
    ends.settle()
    assert not channel.ended.called
    program.write_output(b"second")
    program.shut()
    ends.settle()
    assert output(channel) == b"first second"
    assert ended(channel) == Exit(7)


def test_the_exit_leaves_at_once(ends: ChannelEnds, monkeypatch: pytest.MonkeyPatch) -> None:
    """EOF, the exit status and CLOSE are one write: the client wakes up once for them."""
    channel, program = ends.run()
    ends.settle()
    sent: list[Link] = []
    send = TransportLink.send

    def count(link: TransportLink, view: memoryview) -> None:
        sent.append(link)
        send(link, view)

    monkeypatch.setattr(TransportLink, "send", count)
    program.finish(Exit(5))
    ends.turn()
    assert sent.count(ends.server.outgoing.link) == 1
    ends.settle()
    assert ended(channel) == Exit(5)


@pytest.mark.parametrize(
    ("signal", "sent"), [("KILL", "KILL"), ("BUS", "BUS@tele"), ("RT35", "RT35@tele")]
)
def test_names_of_signals(ends: ChannelEnds, signal: str, sent: str) -> None:
    """A signal that RFC 4254, section 6.10, does not list has a name with a domain."""
    channel, program = ends.run()
    program.finish(Exit(None, signal))
    ends.settle()
    assert ended(channel) == Exit(None, sent)


def test_a_program_that_ended_before_it_was_connected(ends: ChannelEnds) -> None:
    """A program that exits before its output is read loses none of it."""
    programs = ends.world.programs

    def start(request: ProgramRequest) -> Deferred[Any]:
        program = programs.make(request)
        program.write_output(b"written before the exit")
        program.finish(Exit(5))
        done: Deferred[Any] = Deferred()
        done.callback(program)
        return done

    programs.answer = start
    channel, _ = ends.run()
    assert output(channel) == b"written before the exit"
    assert ended(channel) == Exit(5)


# -- many at once ---------------------------------------------------------------------
def test_sessions_share_a_slow_link(ends: ChannelEnds) -> None:
    """Of many bulk downloads on a full link none waits for another."""
    sessions = [ends.run() for _ in range(6)]
    for _ in range(600):
        for _, program in sessions:
            program.write_output(bytes(256 * 1024))
        ends.turn(down=48 * 1024)
    shares = [len(output(channel)) for channel, _ in sessions]
    assert min(shares) > max(shares) // 3, shares


def test_sessions_do_not_mix(ends: ChannelEnds) -> None:
    """Ten sessions at once, each with its own bytes, exit and end."""
    sessions = [ends.run() for _ in range(10)]
    data = [bytes([number]) * (number * 40_000) for number in range(10)]
    at = [0] * 10
    while any(at[i] < len(data[i]) for i in range(10)):
        for i, (_, program) in enumerate(sessions):
            at[i] += program.write_output(data[i][at[i] :]) if at[i] < len(data[i]) else 0
        ends.turn()
    for i, (_, program) in enumerate(sessions):
        program.finish(Exit(i))
    ends.settle()
    for i, (channel, _) in enumerate(sessions):
        assert output(channel) == data[i]
        assert ended(channel) == Exit(i)
    assert not ends.server.service.channels
    assert not ends.server.ready_observers


def test_an_eleventh_session_is_refused(ends: ChannelEnds) -> None:
    """A user without permissions of their own has ten; the refusal has the number."""
    for _ in range(10):
        ends.run()
    channel = ProgramChannel(ProgramRequest("exec", b"x"), lambda *_: None)
    ends.open(channel)
    failures: list[Any] = []
    channel.started.addErrback(lambda failure: failures.append(failure.value))
    assert isinstance(failures[0], AccessDenied)
    assert "no more than 10 sessions" in str(failures[0])


def test_the_sessions_that_are_permitted(world: ChannelWorld) -> None:
    """The limit of the user's permissions holds, as it is when a session is opened."""
    world.permissions = Permissions(max_sessions=1)
    ends = world.link()
    ends.run()
    refused = ends.open(ProgramChannelWithoutProgram())
    assert refused.id not in ends.client.service.channels
    world.permissions = Permissions(max_sessions=2)
    accepted = ends.open(ProgramChannelWithoutProgram())
    assert accepted.id in ends.client.service.channels
    ends.client_link.close()


def test_a_terminal_that_is_not_permitted(world: ChannelWorld) -> None:
    """A user without permit-pty gets no terminal; what they run has none either."""
    world.permissions = Permissions(permit_pty=False)
    ends = world.link()
    channel = ends.open(ProgramChannelWithoutProgram())
    replies: list[bool] = []
    for name, data in (
        (b"pty-req", string(b"xterm") + bytes(16) + string(b"\0")),
        (b"shell", b""),
    ):
        asked = ends.client.service.sendRequest(channel, name, data, wantReply=True)
        asked.addCallbacks(lambda _: replies.append(True), lambda _: replies.append(False))
    ends.settle()
    assert replies == [False, True]
    assert world.programs.started[-1].request.pty is None
    ends.client_link.close()


# -- ends -----------------------------------------------------------------------------
@pytest.mark.parametrize("how", ["close", "disconnect"])
def test_a_client_that_leaves_hangs_up(ends: ChannelEnds, how: str) -> None:
    """A program whose client closes the channel or disconnects is hung up, once."""
    channel, program = ends.run()
    program.write_output(bytes(100_000))
    if how == "close":
        channel.loseConnection()
        ends.settle()
    else:
        ends.client_link.close()
    assert program.hung_up == 1
    with pytest.raises(BrokenPipeError):
        program.write_output(b"x")
    assert program.read_input() == b""


def test_a_client_that_leaves_while_its_program_starts(ends: ChannelEnds) -> None:
    """A program that starts after its client left is hung up, and its descriptors are closed."""
    programs, waiting = ends.world.programs, Deferred[Any]()
    programs.answer = lambda _: waiting
    channel = ProgramChannel(ProgramRequest("exec", b"x"), lambda *_: None)
    channel.started.addErrback(lambda _: None)
    ends.open(channel)
    ends.client_link.close()
    program = programs.make(ProgramRequest("exec", b"x"))
    waiting.callback(program)
    assert program.hung_up == 1
    assert program.read_input() == b""


def test_a_failed_start_is_explained(ends: ChannelEnds) -> None:
    """The reason is on standard error; an internal error is not described."""
    programs = ends.world.programs
    for error, text in (
        (Unavailable("the disk is full"), b"the disk is full"),
        (AccessDenied("no terminals here"), b"no terminals here"),
        (RuntimeError("secret detail"), b"the session could not be started"),
    ):
        programs.answer = lambda _, error=error: fail(error)
        results: list[Any] = []
        execute(ends.client.service, b"x").addBoth(results.append)
        ends.settle()
        assert results[0].stderr.strip() == text
        assert results[0].exit.status == 254


# -- requests -------------------------------------------------------------------------
def test_a_request_reaches_the_program(ends: ChannelEnds) -> None:
    """Allowed variables, the terminal with modes, and the command."""
    pty = PtyRequest("xterm", 80, 24, 640, 480, ((1, 3), (53, 1), (128, 38400)))
    asked = ProgramRequest(
        "exec", b"echo \xff", {"LANG": "C.UTF-8", "LD_PRELOAD": "/tmp/x", "LANGUAGE": "a\nb"}, pty
    )
    channel, program = ends.run(asked)
    assert program.request == ProgramRequest(
        "exec", b"echo \xff", {"LANG": "C.UTF-8", "LANGUAGE": "a\nb"}, pty
    )
    assert ends.world.programs.numbers == [1]
    channel.resize(100, 50)
    channel.resize(0xFFFFFFFF, 1)
    channel.signal("TERM")
    ends.settle()
    assert program.sizes == [(100, 50, 0, 0), (10_000, 1, 0, 0)]
    assert program.signals == ["TERM"]


@pytest.mark.parametrize(
    ("name", "data"),
    [
        (b"exec", string(b"again")),
        (b"shell", b""),
        (b"subsystem", string(b"sftp")),
        (b"pty-req", string(b"xterm") + bytes(16) + string(b"\0")),
        (b"env", string(b"LANG") + string(b"C")),
        (b"signal", string(b"KILL")),
        (b"signal", string(b"../../x")),
        (b"break", uint32(500)),
        (b"window-change", bytes(16)),
        (b"x11-req", b""),
        (b"auth-agent-req@openssh.com", b""),
    ],
)
def test_requests_out_of_order_are_refused(ends: ChannelEnds, name: bytes, data: bytes) -> None:
    """A second program, a late terminal, unknown requests: refused, and the session continues."""
    channel, program = ends.run()
    replies: list[Any] = []
    asked = ends.client.service.sendRequest(channel, name, data, wantReply=True)
    asked.addCallbacks(lambda _: replies.append(True), lambda _: replies.append(False))
    ends.settle()
    assert replies == [False]
    program.finish(Exit(4))
    ends.settle()
    assert ended(channel) == Exit(4)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        (b"env", string(b"LANG") + string(bytes(5000))),
        (b"env", string(b"L" * 5000) + string(b"")),
        (b"env", string(b"LANG") + string(b"x" * 131_072)),
        (b"env", string(b"LANG") + string(b"a\0b")),
        (b"env", string(b"\xff") + string(b"")),
        (b"pty-req", string(b"x" * 500) + bytes(16) + string(b"\0")),
        (b"pty-req", string(b"x\ny") + bytes(16) + string(b"\0")),
    ],
)
def test_fields_beyond_limits_are_refused(ends: ChannelEnds, name: bytes, data: bytes) -> None:
    """A field that is too long or not text is refused, and the session continues."""
    channel = ends.open(ProgramChannelWithoutProgram())
    replies: list[Any] = []
    asked = ends.client.service.sendRequest(channel, name, data, wantReply=True)
    asked.addCallbacks(lambda _: replies.append(True), lambda _: replies.append(False))
    ends.settle()
    assert replies == [False]
    assert ends.world.programs.started == []


def opened(ends: ChannelEnds, request: ProgramRequest) -> Any:
    """Open a session with a request that may be refused."""
    received: list[tuple[int | None, bytes]] = []
    channel: Any = ProgramChannel(request, lambda code, view: received.append((code, bytes(view))))
    channel.received = received
    return ends.open(channel)


@pytest.mark.parametrize("command", [b"a\0b", b"x" * 131_072])
def test_a_command_that_cannot_be_run_is_explained(ends: ChannelEnds, command: bytes) -> None:
    """Standard error has the reason and what to do; the exit status is a failure."""
    channel = opened(ends, ProgramRequest("exec", command))
    assert b"send what is longer on standard input" in output(channel, 1)
    assert ended(channel) == Exit(254)
    assert ends.world.programs.started == []


def test_variables_as_long_as_a_program_may_have(ends: ChannelEnds) -> None:
    """Values of any bytes but NUL, together as long as the kernel takes one string; what is more
    is refused, and a variable that was set before stays.
    """
    env = {"LANG": "x" * 131_000, "LANG2": os.fsdecode(b"\xff\xfe"), "LANG3": "x" * 80}
    opened(ends, ProgramRequest("exec", b"true", env))
    (started,) = ends.world.programs.started
    del env["LANG3"]
    assert started.request.env == env


@pytest.fixture
def logged() -> Iterator[list[str]]:
    """The text of every logged event."""
    lines: list[str] = []

    @implementer(ILogObserver)
    def observe(event: LogEvent) -> None:
        lines.append(event_text(event))

    globalLogPublisher.addObserver(observe)
    yield lines
    globalLogPublisher.removeObserver(observe)


def test_refused_requests_are_logged(ends: ChannelEnds, logged: list[str]) -> None:
    """A refused request, which most clients do not show, is logged with its reason."""
    channel = ends.open(ProgramChannelWithoutProgram())
    for number in range(40):
        name = b"V%d" % number
        ends.client.service.sendRequest(channel, b"env", string(name) + string(b"x"))
    ends.settle()
    lines = [line for line in logged if line.startswith("channel request refused")]
    assert len(lines) == DECLINED_LIMIT
    assert "variable 'V0' may not be set by clients" in lines[0]
    assert "not logged" in lines[-1]


@pytest.mark.parametrize(
    ("name", "data"),
    [
        (b"env", string(b"LANG")),
        (b"env", string(b"LANG") + string(b"C") + b"more"),
        (b"pty-req", string(b"xterm") + bytes(15)),
        (b"pty-req", string(b"xterm") + bytes(16) + string(b"\1\0\0")),
        (b"exec", uint32(100) + b"short"),
        (b"shell", b"extra"),
        (b"window-change", bytes(17)),
        (b"signal", b""),
        (b"break", b""),
    ],
)
def test_broken_requests_end_the_connection(ends: ChannelEnds, name: bytes, data: bytes) -> None:
    """A malformed request ends the client's connection."""
    channel = ends.open(ProgramChannelWithoutProgram())
    ends.client.service.sendRequest(channel, name, data)
    ends.settle()
    assert ends.server_link.closed


class ProgramChannelWithoutProgram(ProgramChannel):
    """A session that requests nothing."""

    def __init__(self) -> None:
        super().__init__(ProgramRequest("shell"), lambda *_: None)
        self.started.addErrback(lambda _: None)

    def channelOpen(self, specificData: bytes) -> None:
        """The server opened it."""


def test_a_dragged_window_is_no_attack(ends: ChannelEnds) -> None:
    """Hundreds of new sizes while the program starts are queued, in order."""
    programs, waiting = ends.world.programs, Deferred[Any]()
    programs.answer = lambda _: waiting
    request = ProgramRequest("shell", b"", {}, PtyRequest("xterm", 80, 24))
    channel = ends.open(ProgramChannel(request, lambda *_: None))
    for columns in range(100, 600):
        channel.resize(columns, 50)
    ends.settle()
    program = programs.make(request)
    waiting.callback(program)
    ends.settle()
    assert [size[0] for size in program.sizes] == list(range(100, 600))


# -- terminals ------------------------------------------------------------------------
@define(eq=False)
class Terminal:
    """A program on a pseudo-terminal, as on a node."""

    ends: ChannelEnds
    channel: Any = field(init=False)
    program: Any = field(init=False)
    slave: int = field(init=False)

    def __attrs_post_init__(self) -> None:
        programs = self.ends.world.programs

        def start(request: ProgramRequest) -> Deferred[Any]:
            program = programs.make(request)
            for descriptor in (program.stdin, program.stdout, program.stderr):
                os.close(descriptor)
            program.shut()
            master, self.slave = os.openpty()
            os.set_blocking(master, False)
            program.stdin = program.stdout = master
            program.stderr = None
            done: Deferred[Any] = Deferred()
            done.callback(program)
            return done

        programs.answer = start
        request = ProgramRequest("shell", b"", {}, PtyRequest("xterm", 80, 24))
        self.channel, self.program = self.ends.run(request)


def test_a_terminal_carries_both_ways(ends: ChannelEnds) -> None:
    """The terminal echoes input, output arrives; a break is accepted; EOF does not end it."""
    terminal = Terminal(ends)
    terminal.channel.write(b"hello\n")
    replies: list[Any] = []
    asked = ends.client.service.sendRequest(terminal.channel, b"break", uint32(0), wantReply=True)
    asked.addCallbacks(lambda _: replies.append(True), lambda _: replies.append(False))
    terminal.channel.send_eof()
    ends.settle()
    assert os.read(terminal.slave, 100) == b"hello\n"
    assert replies == [True]
    os.write(terminal.slave, b"bye\n")
    ends.settle()
    assert output(terminal.channel) == b"hello\r\nbye\r\n"
    os.close(terminal.slave)
    terminal.program.exited.callback(Exit(0))
    ends.settle()
    assert ended(terminal.channel) == Exit(0)


def test_a_session_ends_with_its_shell(ends: ChannelEnds) -> None:
    """The session ends though a process holds the terminal open; all output is read."""
    terminal = Terminal(ends)
    os.write(terminal.slave, b"last output\n")
    terminal.program.exited.callback(Exit(2))
    ends.settle()
    assert output(terminal.channel) == b"last output\r\n"
    assert ended(terminal.channel) == Exit(2)
    os.close(terminal.slave)


def test_last_output_waits_for_the_window(ends: ChannelEnds) -> None:
    """A shell exits while the client's window is closed: its last output is not lost."""
    terminal = Terminal(ends)
    (session,) = ends.server.service.channels.values()
    left, session.remoteWindowLeft = session.remoteWindowLeft, 0
    os.write(terminal.slave, b"last output\n")
    terminal.program.exited.callback(Exit(0))
    ends.settle()
    assert not terminal.channel.ended.called
    session.addWindowBytes(left)
    ends.settle()
    assert output(terminal.channel) == b"last output\r\n"
    assert ended(terminal.channel) == Exit(0)
    os.close(terminal.slave)


# -- taps -----------------------------------------------------------------------------
@define
class Tap:
    """Keeps its calls."""

    calls: list[Any] = field(factory=list)
    paused: bool = False
    callbacks: list[Any] = field(factory=list)
    drops_input: bool = False
    wants_typed: bool = False
    holds: bool = False

    def output(self, *views: memoryview) -> None:
        self.calls += [("out", bytes(view)) for view in views]

    def error(self, *views: memoryview) -> None:
        self.calls += [("err", bytes(view)) for view in views]

    def input(self, view: memoryview) -> None:
        self.calls.append(("in", bytes(view)))

    def resized(self, columns: int, rows: int) -> None:
        self.calls.append(("size", columns, rows))

    def exited(self, exit: Exit) -> None:  # noqa: A002 - the name in ITap
        self.calls.append(("exit", exit))

    def when_resumed(self, callback: Any) -> None:
        self.callbacks.append(callback)

    def resume(self) -> None:
        self.paused = False
        for callback in self.callbacks:
            callback()
        self.callbacks.clear()


def test_a_tap_observes_everything(world: ChannelWorld) -> None:
    """Output, errors, input, sizes and the exit, in the order in which they happened."""
    tap = world.programs.tap = Tap()
    ends = world.link()
    request = ProgramRequest("exec", b"x", {}, PtyRequest("xterm", 80, 24))
    channel, program = ends.run(request)
    program.write_output(b"one")
    ends.settle()
    program.write_error(b"two")
    ends.settle()
    channel.write(b"three")
    channel.resize(90, 30)
    ends.settle()
    program.finish(Exit(9))
    ends.settle()
    assert tap.calls == [
        ("out", b"one"), ("err", b"two"), ("in", b"three"), ("size", 90, 30), ("exit", Exit(9)),
    ]  # fmt: skip
    ends.client_link.close()


@define
class Comparing(Tap):
    """Reads what the program was given, when it observes it."""

    program: Any = None

    def input(self, view: memoryview) -> None:
        self.calls.append((self.program.read_input(), bytes(view)))


def test_a_program_need_not_wait_until_its_input_is_observed(world: ChannelWorld) -> None:
    """It has what the tap observes; and what it does not read any more is observed, too."""
    tap = world.programs.tap = Comparing()
    ends = world.link()
    channel, tap.program = ends.run(ProgramRequest("exec", b"x", {}, None))
    channel.write(b"one")
    ends.settle()
    assert tap.calls == [(b"one", b"one")]
    tap.program.shut(tap.program.its_input)
    tap.program.its_input = os.open(os.devnull, os.O_RDONLY)
    channel.write(b"two")
    ends.settle()
    assert tap.calls[1:] == [(b"", b"two")]
    os.close(tap.program.its_input)
    tap.program.finish(Exit(0))
    ends.settle()
    ends.client_link.close()


def test_a_tap_that_is_behind_stops_the_program(world: ChannelWorld) -> None:
    """While the recorder is behind, nothing is read; one callback waits, not many."""
    tap = world.programs.tap = Tap()
    ends = world.link()
    channel, program = ends.run()
    tap.paused = True
    program.write_output(b"x" * 100)
    for _ in range(50):
        (session,) = ends.server.service.channels.values()
        session._runner.resume_output()
        ends.turn()
    first = output(channel)
    assert len(tap.callbacks) == 1
    program.write_output(b"y" * 100)
    ends.settle()
    assert output(channel) == first
    tap.resume()
    ends.settle()
    assert output(channel) == b"x" * 100 + b"y" * 100
    program.finish()
    ends.settle()
    assert tap.calls[-1] == ("exit", Exit(0))
    ends.client_link.close()


def test_a_tap_sees_an_exit_before_the_client_left(world: ChannelWorld) -> None:
    """The program exited while its output waited for the client, which then left."""
    tap = world.programs.tap = Tap()
    ends = world.link()
    _, program = ends.run()
    ends.client_link.paused = True
    while program.write_output(bytes(MIB)):
        ends.turn()
    program.finish(Exit(0))
    assert ("exit", Exit(0)) not in tap.calls
    ends.client_link.close()
    assert tap.calls.count(("exit", Exit(0))) == 1


def test_a_tap_sees_the_exit_after_the_client_left(world: ChannelWorld) -> None:
    """The recording of a session that its client left has the exit of the program."""
    tap = world.programs.tap = Tap()
    ends = world.link()
    _, program = ends.run()
    ends.client_link.close()
    program.finish(Exit(None, "HUP"))
    assert tap.calls == [("exit", Exit(None, "HUP"))]
