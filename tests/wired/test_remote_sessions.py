"""Sessions whose programs run on a target behind the server that the client is connected to."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from attrs import evolve
from twisted.internet.defer import Deferred

from channel_ends import output
from remote_world import Asking, Remote, queued
from tele.admission.limits import Limits
from tele.conch.connection.channel import REQUESTS_LIMIT, WINDOW, Channel
from tele.conch.connection.windows import MIN_WINDOW, WindowBudget
from tele.conch.session.programs import Exit, ProgramRequest, PtyRequest
from tele.conch.session.remote_program import LINGER
from tele.errors import Unreachable
from tele.model.access import Denied, Reason, RecordingPlan
from tele.model.actions import TransferRules
from tele.model.trace import TraceKind
from tele.sessions.remote_programs import START_SECONDS
from tele.spawner.control_groups import EXPELLED_GRACE
from tele.wire.fields import boolean, string, uint32

X11 = boolean(False) + string(b"MIT-MAGIC-COOKIE-1") + string(b"00ff") + uint32(0)
PTY = string(b"xterm") + uint32(80) + uint32(24) + uint32(0) * 2 + string(b"\0")
MIB = 1 << 20


@pytest.fixture
def remote() -> Iterator[Remote]:
    """Two connections, one behind the other."""
    made = Remote()
    yield made
    made.close()


def test_a_program_behind(remote: Remote) -> None:
    """The target starts what the client asks for, with its terminal and variables; data, sizes and
    signals arrive, and so does how it ended.
    """
    request = ProgramRequest("exec", b"top", {"LANG": "C"}, PtyRequest("xterm", 80, 24))
    channel = remote.run(request)
    (program,) = remote.programs
    assert (program.request.command, program.request.env) == (b"top", {"LANG": "C"})
    assert program.request.pty is not None
    assert (program.request.pty.term, program.request.pty.columns) == ("xterm", 80)
    channel.write(b"typed")
    channel.resize(100, 40)
    channel.signal("INT")
    program.write_output(b"shown")
    program.write_error(b"wrong")
    remote.settle()
    assert (program.read_input(), program.sizes, program.signals) == (
        b"typed", [(100, 40, 0, 0)], ["INT"],
    )  # fmt: skip
    assert (output(channel), output(channel, 1)) == (b"shown", b"wrong")
    program.finish(Exit(7))
    remote.settle()
    ended: list[Exit] = []
    channel.ended.addCallback(ended.append)
    assert ended == [Exit(7)]
    assert not remote.near.server.service.channels
    assert not remote.far.client.service.channels


def test_a_program_that_is_killed(remote: Remote) -> None:
    """The client learns the signal."""
    channel = remote.run(ProgramRequest("shell"))
    remote.programs[0].finish(Exit(None, "KILL", core=True, message="killed"))
    remote.settle()
    ended: list[Exit] = []
    channel.ended.addCallback(ended.append)
    assert ended == [Exit(None, "KILL", core=True, message="killed")]


def test_input_ends(remote: Remote) -> None:
    """EOF of the client follows its data, and output goes on after it."""
    channel = remote.run(ProgramRequest("exec", b"sort"))
    (program,) = remote.programs
    data = bytes(range(256)) * (3 * MIB // 256)
    channel.write(data)
    channel.send_eof()
    got = bytearray()
    while (read := program.read_input()) != b"":
        got += read or b""
        remote.settle()
    assert got == data
    program.write_output(b"sorted")
    remote.settle()
    assert output(channel) == b"sorted"


def test_the_order_of_an_end(remote: Remote) -> None:
    """Reply, output, EOF, how it ended, CLOSE: in this order, however late the client reads; and no
    more than a window waits for it.
    """
    channel = remote.asking(hoards=True)
    (program,) = remote.programs
    left = 3 * WINDOW
    for _ in range(200):
        left -= program.write_output(bytes(min(left, MIB)))
        remote.settle()
    assert (channel.hoard, left > 0) == (WINDOW, True)
    (middle,) = remote.near.server.service.channels.values()
    assert 0 < len(middle._queue) <= WINDOW
    while left:
        channel.use_up()
        channel.hoard = 0
        left -= program.write_output(bytes(min(left, MIB)))
        remote.settle()
    # The last window waits for the client when the program ends.
    channel.hoards = True
    channel.hoard = 0
    for _ in range(200):
        program.write_output(bytes(MIB))
        remote.settle()
    program.finish(Exit(3))
    remote.settle()
    assert channel.events == [(b"exec", True), "data"]
    channel.use_up()
    remote.settle()
    assert channel.events == [(b"exec", True), "data", "eof", b"exit-status", "closed"]


def test_a_signal_passes_input_that_waits(remote: Remote) -> None:
    """A program that reads nothing can be interrupted, and one window waits for it."""
    channel = remote.run(ProgramRequest("exec", b"sleep"))
    (program,) = remote.programs
    channel.write(bytes(16 * MIB))
    remote.settle()
    (waiting,) = queued(remote.far)
    assert 0 < waiting <= WINDOW
    channel.signal("INT")
    remote.settle()
    assert program.signals == ["INT"]


def test_a_slow_target_stalls_one_channel_only(remote: Remote) -> None:
    """Beside a session whose input is not read, another one goes on."""
    stalled = remote.run(ProgramRequest("exec", b"sleep"))
    stalled.write(bytes(16 * MIB))
    remote.settle()
    other = remote.run(ProgramRequest("exec", b"cat"))
    data, got = bytes(4 * MIB), bytearray()
    other.write(data)
    for _ in range(1000):
        remote.settle()
        got += remote.programs[1].read_input() or b""
        if len(got) == len(data):
            break
    assert got == data
    assert remote.programs[1].write_output(b"done") == 4
    remote.settle()
    assert output(other) == b"done"


def test_replies_have_the_order_of_requests(remote: Remote) -> None:
    """Requests are made without waiting for replies; what follows the program is answered after
    it, which the target has yet to start.
    """
    channel = remote.open(Asking())
    channel.ask(b"env", string(b"LANG") + string(b"C"))
    channel.ask(b"x11-req", X11)
    channel.ask(b"env", string(b"PATH") + string(b"/"))
    channel.ask(b"unknown@example.com")
    channel.ask(b"exec", string(b"id"))
    channel.ask(b"signal", string(b"INT"))
    for _ in range(10):
        remote.near.turn()
    refused_and_set = [
        (b"env", True),
        (b"x11-req", False),
        (b"env", False),
        (b"unknown@example.com", False),
    ]
    assert channel.events == refused_and_set, "the program is not started yet"
    remote.settle()
    assert channel.events == [*refused_and_set, (b"exec", True), (b"signal", True)]
    assert remote.programs[0].request.env == {"LANG": "C"}
    assert remote.programs[0].signals == ["INT"]


def test_a_forced_command() -> None:
    """It runs in place of what is requested, without a terminal that is not permitted, and nothing
    signals it; what is refused does not reach the target (attack).
    """
    remote = Remote(force_command="forced", permit_pty=False)
    channel = remote.open(Asking())
    channel.ask(b"pty-req", PTY)
    channel.ask(b"exec", string(b"rm -rf /"))
    channel.ask(b"signal", string(b"KILL"))
    remote.settle()
    assert channel.events == [(b"pty-req", False), (b"exec", True), (b"signal", False)]
    (program,) = remote.programs
    assert (program.request.command, program.request.pty) == (b"forced", None)
    ((_, start),) = remote.audit.events
    assert (start["command"], start["forced"]) == ("rm -rf /", "forced")
    remote.close()


def test_a_target_that_forces_the_command() -> None:
    """It gets the requested one, and sets the variable; when something else is to run than the
    certificate of the login says, that is refused: the recording would not be of what ran (attack).
    """
    remote = Remote(force_command="forced")
    remote.connect().client.service.forced_command = "forced"
    asked = ProgramRequest("exec", b"rm -rf /")
    remote.run(asked)
    remote.permit(force_command="another")
    remote.run(asked)
    remote.permit(force_command=None)
    remote.run(asked)
    sent = [each.request.command for each in remote.programs]
    assert sent == [b"rm -rf /"]
    launched = [(fields.get("forced"), "error" in fields) for _, fields in remote.audit.events]
    assert launched == [("forced", False), ("another", True), (None, True)]
    remote.close()


def test_files_of_an_sshd() -> None:
    """A role for some files allows no transfer and no program where files cannot be seen; a node
    behind the proxy is asked, and decides again (attack).
    """
    remote = Remote(files=TransferRules(upload=("/in/**",), download=()))
    for asked in (
        ProgramRequest("subsystem", b"sftp"),
        ProgramRequest("exec", b"scp -t /in"),
        ProgramRequest("exec", b"cat /secret"),
        ProgramRequest("shell"),
    ):
        remote.run(asked)
    assert not remote.programs
    errors = [fields["error"] for _, fields in remote.audit.events]
    assert ["cannot be seen" in error for error in errors] == [True, True, False, False]
    assert all("only some files" in error for error in errors)
    remote.programs_behind = evolve(remote.programs_behind, keeps_rules=True)
    remote.session._programs = remote.programs_behind
    remote.run(ProgramRequest("exec", b"scp -t /in"))
    assert len(remote.programs) == 1
    remote.close()


def test_a_traced_role_at_an_sshd() -> None:
    """What has to be traced does not start where nothing can be; a node behind the proxy traces it
    (attack).
    """
    plan = RecordingPlan(trace=(TraceKind.COMMAND,))
    remote = Remote(recording=plan)
    for asked in (ProgramRequest("shell"), ProgramRequest("subsystem", b"sftp")):
        remote.run(asked)
    assert not remote.programs
    errors = [fields["error"] for _, fields in remote.audit.events]
    assert all("enhanced_recording" in error for error in errors)
    remote.programs_behind = evolve(remote.programs_behind, keeps_rules=True)
    remote.session._programs = remote.programs_behind
    remote.run(ProgramRequest("exec", b"id"))
    assert len(remote.programs) == 1
    remote.close()
    remote = Remote(recording=plan, break_glass=True)
    remote.run(ProgramRequest("exec", b"id"))
    assert len(remote.programs) == 1
    remote.close()


def test_a_forced_file_server() -> None:
    """Whatever is requested, the target's file server runs."""
    remote = Remote(force_command="internal-sftp")
    remote.run(ProgramRequest("shell"))
    (program,) = remote.programs
    assert (program.request.kind, program.request.command) == ("subsystem", b"sftp")
    remote.close()


def test_a_client_that_is_not_to_have_a_terminal(remote: Remote) -> None:
    """A grant that changed after the terminal was requested counts (attack)."""
    channel = remote.open(Asking())
    channel.ask(b"pty-req", PTY)
    remote.settle()
    remote.permit(permit_pty=False)
    channel.ask(b"shell")
    remote.settle()
    assert channel.events[:2] == [(b"pty-req", True), (b"shell", True)]
    assert not remote.programs
    ((name, event),) = remote.audit.events
    assert (name, event["error"]) == ("exec", "a terminal is not permitted")


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (b"pty-req", "db1 refuses a terminal"),
        (b"shell", "db1 refuses the shell"),
    ],
)
def test_a_target_that_refuses(remote: Remote, answer: bytes, text: str) -> None:
    """The user is told what the target refused; nothing runs without its terminal."""
    connection = remote.connect()
    channel = refusing(connection, answer)
    session = remote.run(ProgramRequest("shell", pty=PtyRequest("xterm", 80, 24)))
    assert text in output(session, 1).decode()
    assert (b"shell" in channel) is (answer == b"shell")
    assert remote.audit.events[-1][1]["error"].startswith(text)


def refusing(ends: Any, name: bytes) -> list[bytes]:
    """Let the target refuse requests named ``name``; return what it was requested."""
    seen: list[bytes] = []
    lookup = ends.server.avatar.channelLookup
    kind = lookup[b"session"]

    class Refuses(kind):  # type: ignore[misc, valid-type]
        def requestReceived(self, requestType: bytes, data: bytes) -> Any:
            seen.append(requestType)
            return False if requestType == name else super().requestReceived(requestType, data)

    lookup[b"session"] = Refuses
    return seen


def test_a_target_that_cannot_be_reached(remote: Remote) -> None:
    """The user learns why, and may try again on the same connection."""
    remote.problem = Unreachable("cannot connect to db1: connection refused")
    channel = remote.run(ProgramRequest("exec", b"id"))
    ended: list[Exit] = []
    channel.ended.addCallback(ended.append)
    assert b"cannot connect to db1" in output(channel, 1)
    assert ended == [Exit(254)]
    remote.problem = None
    remote.run(ProgramRequest("exec", b"id"))
    assert len(remote.programs) == 1


def test_a_target_that_starts_nothing(remote: Remote) -> None:
    """After a time the user is told, and what starts later is ended."""
    started: Deferred[Any] = Deferred()
    remote.target.programs.answer = lambda _: started
    channel = remote.run(ProgramRequest("exec", b"id"))
    remote.here.clock.advance(START_SECONDS)
    remote.settle()
    assert b"db1 has not started the exec in 30 seconds" in output(channel, 1)
    program = remote.target.programs.make(ProgramRequest("exec", b"id"))
    started.callback(program)
    remote.settle()
    assert program.hung_up
    assert not remote.far.client.service.channels


def test_one_connection_for_all_sessions(remote: Remote) -> None:
    """It is made for the first one, and made again after it was lost."""
    for _ in range(3):
        remote.run(ProgramRequest("exec", b"id"))
    assert len(remote.fars) == 1
    remote.far.client_link.close()
    remote.settle()
    remote.run(ProgramRequest("exec", b"id"))
    assert (len(remote.fars), len(remote.programs)) == (2, 4)


def test_a_target_that_ends_twice(remote: Remote) -> None:
    """The client learns the first end only (attack)."""
    channel = remote.asking()
    (there,) = remote.far.server.service.channels.values()
    for status in (1, 2):
        there.conn.sendRequest(there, b"exit-status", uint32(status))
    there.loseConnection()
    remote.settle()
    assert channel.events[1:] == ["eof", b"exit-status", "closed"]
    assert channel.status == 1


def test_a_target_that_does_not_say_how_it_ended(remote: Remote) -> None:
    """The session ends as one without a status, and nothing is shown."""
    channel = remote.run(ProgramRequest("shell"))
    (there,) = remote.far.server.service.channels.values()
    there.loseConnection()
    remote.settle()
    ended: list[Exit] = []
    channel.ended.addCallback(ended.append)
    assert (channel.received, ended) == ([], [Exit(254)])


def test_requests_of_the_target(remote: Remote) -> None:
    """It may say that input is not wanted any more; what else it requests is refused, and does not
    reach the client (attack).
    """
    channel = remote.asking()
    (there,) = remote.far.server.service.channels.values()
    answers: list[bool] = []
    there.conn.sendRequest(there, b"eow@openssh.com", b"")
    for name in (b"what@example.com", b"exec", b"auth-agent-req@openssh.com", b"signal"):
        there.conn.sendRequest(there, name, string(b"id"), wantReply=True).addErrback(
            lambda _: answers.append(False)
        )
    remote.settle()
    assert channel.events[1:] == [b"eow@openssh.com"]
    assert answers == [False] * 4


def test_a_target_that_opens_channels(remote: Remote) -> None:
    """Nothing was asked of it: each is refused, and no global request is granted (attack)."""
    channel = remote.asking()
    answers: list[Any] = []
    service = remote.far.server.service
    for name in (b"session", b"x11", b"auth-agent@openssh.com", b"forwarded-tcpip", b"any"):
        opened = Opened(name, answers)
        service.openChannel(opened, b"")
    for name in (b"tcpip-forward", b"hostkeys-00@openssh.com", b"keepalive@openssh.com"):
        service.sendGlobalRequest(name, b"", wantReply=True).addErrback(
            lambda _: answers.append("no")
        )
    remote.settle()
    assert answers == ["refused"] * 5 + ["no"] * 3
    assert channel.events == [(b"exec", True)]


class Opened(Channel):
    """A channel that a target opens."""

    def __init__(self, name: bytes, answers: list[Any]) -> None:
        super().__init__()
        self.name = name
        self.answers = answers

    def channelOpen(self, specificData: bytes) -> None:
        self.answers.append("open")

    def openFailed(self, reason: Any) -> None:
        self.answers.append("refused")


def test_a_lost_target(remote: Remote) -> None:
    """The user is told, and the session ends without a status of the program."""
    channel = remote.run(ProgramRequest("shell"))
    remote.far.client_link.close()
    remote.settle()
    ended: list[Exit] = []
    channel.ended.addCallback(ended.append)
    assert b"the connection to db1 was lost" in output(channel, 1)
    assert ended == [Exit(254)]
    assert not remote.near.server.service.channels
    assert not remote.near.server.closing


def test_a_lost_client(remote: Remote) -> None:
    """Its programs are hung up."""
    remote.run(ProgramRequest("shell"))
    remote.near.client_link.close()
    remote.settle()
    assert remote.programs[0].hung_up
    assert not remote.far.client.service.channels


def test_the_connection_to_the_target_ends(remote: Remote) -> None:
    """It ends with the client's; what was sent before has some time to be taken."""
    channel = remote.run(ProgramRequest("exec", b"cat"))
    channel.write(bytes(4 * MIB))
    remote.settle()
    channel.loseConnection()
    remote.near.client_link.close()
    remote.behind.close()
    remote.settle()
    assert not remote.far.client.closing, "input waits"
    remote.here.clock.advance(LINGER)
    remote.settle()
    assert remote.far.client.closing


def test_access_ends(remote: Remote) -> None:
    """Programs are told to end, and are killed when they do not; then the connection ends."""
    remote.run(ProgramRequest("shell"))
    (program,) = remote.programs
    remote.ending.expel(Denied(Reason.LOCKED, "locked"), remote.near.server.service)
    remote.settle()
    remote.near.client_link.close()
    remote.behind.close()
    remote.settle()
    assert program.signals == ["HUP", "TERM"]
    remote.here.clock.advance(EXPELLED_GRACE)
    remote.settle()
    assert program.signals == ["HUP", "TERM", "KILL"]
    assert program.hung_up
    remote.here.clock.advance(1)
    remote.settle()
    assert remote.far.client.closing


def test_replies_that_never_come(remote: Remote) -> None:
    """So many requests may wait for a target's replies, and no more (attack)."""
    started: Deferred[Any] = Deferred()
    remote.target.programs.answer = lambda _: started
    channel = remote.open(Asking())
    for _ in range(REQUESTS_LIMIT // 2):
        channel.ask(b"exec", string(b"id"))
    remote.settle()
    assert not remote.near.server.closing
    for _ in range(REQUESTS_LIMIT):
        channel.ask(b"exec", string(b"id"))
    remote.near.settle()
    assert remote.near.server.closing


@pytest.mark.parametrize("where", ["near", "far"])
@pytest.mark.parametrize("who", ["client", "server"])
def test_keys_are_renewed(remote: Remote, where: str, who: str) -> None:
    """What passes while either connection renews its keys, by either end, arrives in order."""
    channel = remote.asking()
    (program,) = remote.programs
    ends = getattr(remote, where)
    transport = getattr(ends, who)
    sent, got, begun = bytearray(), bytearray(), 0
    for number in range(40):
        piece = bytes((number,)) * 50_000
        channel.write(piece)
        sent += piece
        program.write_output(piece)
        if number % 10 == 5:
            before = transport.outgoing.sealer
            transport.sendKexInit()
            channel.ask(b"signal", string(b"INT"))
            begun += 1
        remote.near.turn()
        remote.far.turn()
        if number % 10 == 9:
            remote.settle()
            assert transport.outgoing.sealer is not before
        got += program.read_input() or b""
    remote.settle()
    while read := program.read_input():
        got += read
        remote.settle()
    assert (got, channel.hoard) == (sent, len(sent))
    assert len(program.signals) == begun
    assert channel.events.count((b"signal", True)) == begun
    program.finish(Exit(0))
    remote.settle()
    assert channel.events[-1] == "closed"
    assert b"exit-status" in channel.events


def test_keys_are_renewed_by_volume() -> None:
    """Connections that renew their keys often, each at its own moment, lose nothing."""
    remote = Remote(Limits(rekey_octets=100_000), Limits(rekey_octets=170_000))
    channel = remote.run(ProgramRequest("exec", b"cat"))
    (program,) = remote.programs
    data = bytes(range(256)) * (2 * MIB // 256)
    channel.write(data)
    channel.send_eof()
    got = bytearray()
    while (read := program.read_input()) != b"":
        got += read or b""
        program.write_output(read or b"")
        remote.settle()
    program.finish(Exit(0))
    remote.settle()
    assert (bytes(got), output(channel)) == (data, data)
    remote.close()


def test_many_sessions(remote: Remote) -> None:
    """Two hundred, each with its own program, data and status."""
    remote.permit(max_sessions=200)
    channels = [remote.run(ProgramRequest("exec", b"%d" % number)) for number in range(200)]
    for program in remote.programs:
        program.write_output(program.request.command)
        program.finish(Exit(int(program.request.command) % 100))
    remote.settle()
    ended: list[Exit] = []
    for number, channel in enumerate(channels):
        assert output(channel) == b"%d" % number
        channel.ended.addCallback(ended.append)
    assert ended == [Exit(number % 100) for number in range(200)]
    assert not remote.far.client.service.channels


def test_a_client_that_takes_no_more_output(remote: Remote) -> None:
    """The target is told; what it sends meanwhile is dropped, and input goes on."""
    channel = remote.asking(hoards=True)
    (program,) = remote.programs
    while program.write_output(bytes(MIB)):
        remote.settle()
    channel.ask(b"eow@openssh.com", reply=False)
    channel.write(b"more")
    channel.use_up()
    remote.settle()
    assert program.read_input() == b"more"
    with pytest.raises(BrokenPipeError):
        program.write_output(b"x")
    program.finish(Exit(5))
    remote.settle()
    assert channel.events[-3:] == ["eof", b"exit-status", "closed"]


def test_output_ends_before_the_program(remote: Remote) -> None:
    """EOF of the target reaches the client with the status: OpenSSH's client would close the
    session after both EOFs, and take no status any more.
    """
    channel = remote.asking()
    (there,) = remote.far.server.service.channels.values()
    there.send_eof()
    channel.write(b"still read")
    channel.send_eof()
    remote.settle()
    assert channel.events == [(b"exec", True)]
    assert remote.programs[0].read_input() == b"still read"
    remote.programs[0].finish(Exit(3))
    remote.settle()
    assert channel.events[1:] == ["eof", b"exit-status", "closed"]
    assert channel.status == 3


def test_a_window_that_lies(remote: Remote) -> None:
    """A target that sends more than its window ends its own connection only (attack)."""
    channel = remote.asking()
    (there,) = remote.far.server.service.channels.values()
    (ours,) = remote.far.client.service.channels.values()
    ours.localWindowLeft = 3
    there.write(b"four")
    remote.settle()
    assert remote.far.client.closing
    assert channel.events[-1] == "closed"
    assert not remote.near.server.closing


def test_windows_of_a_user(remote: Remote) -> None:
    """Those of the connection to the target count for the user, and are returned."""
    remote.budget = WindowBudget(limit=3 * WINDOW)
    channels = [remote.run(ProgramRequest("exec", b"cat")) for _ in range(4)]
    windows = [each.localWindowSize for each in remote.far.client.service.channels.values()]
    assert windows == [WINDOW] * 3 + [MIN_WINDOW]
    for program in remote.programs:
        program.finish()
    remote.settle()
    assert remote.budget.taken == 0
    assert len(channels) == 4


def test_requests_out_of_order(remote: Remote) -> None:
    """One program for each session; what belongs before it is refused after it (attack)."""
    channel = remote.asking()
    for name, data in (
        (b"exec", string(b"other")),
        (b"shell", b""),
        (b"subsystem", string(b"sftp")),
        (b"pty-req", PTY),
        (b"env", string(b"LANG") + string(b"C")),
        (b"auth-agent-req@openssh.com", b""),
        (b"x11-req", X11),
        (b"window-change", uint32(1) * 4),
    ):
        channel.ask(name, data)
    remote.settle()
    assert [answer for _, answer in channel.events] == [True] + [False] * 8
    assert len(remote.programs) == 1


def test_the_client_leaves_while_a_program_is_started(remote: Remote) -> None:
    """What is started then is hung up at once, and its output goes nowhere."""
    started: Deferred[Any] = Deferred()
    remote.target.programs.answer = lambda _: started
    channel = remote.run(ProgramRequest("exec", b"id"))
    channel.loseConnection()
    remote.settle()
    program = remote.target.programs.make(ProgramRequest("exec", b"id"))
    program.write_output(bytes(1000))
    started.callback(program)
    remote.settle()
    assert program.hung_up
    assert not remote.far.client.service.channels


def test_a_slow_client_stalls_one_channel_only(remote: Remote) -> None:
    """Beside a session whose output is not read, another one goes on; each keeps one window."""
    stalled = remote.asking(hoards=True)
    for _ in range(40):
        remote.programs[0].write_output(bytes(MIB))
        remote.settle()
    assert stalled.hoard == WINDOW
    other = remote.run(ProgramRequest("exec", b"cat"))
    left = 4 * MIB
    while left:
        left -= remote.programs[1].write_output(bytes(min(left, MIB)))
        remote.settle()
    assert len(output(other)) == 4 * MIB


def test_more_sessions_than_granted(remote: Remote) -> None:
    """The client's limit is the grant's, whatever the target would open (attack)."""
    remote.permit(max_sessions=3)
    opened = [remote.open(Asking()) for _ in range(5)]
    assert [channel.is_open for channel in opened] == [True] * 3 + [False] * 2
