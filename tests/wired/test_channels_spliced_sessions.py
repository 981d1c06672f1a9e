"""Sessions that are passed on to a server behind the one that the client is connected to."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from twisted.conch.error import ConchError
from twisted.internet.defer import Deferred

from channel_ends import ChannelEnds, ChannelUser, ChannelWorld, HeldProgram, output
from tele.admission.limits import Limits
from tele.conch.client.session import ProgramChannel
from tele.conch.connection.channel import REQUESTS_LIMIT, WINDOW, Channel
from tele.conch.connection.permissions import Permissions
from tele.conch.session.programs import Exit, ProgramRequest, PtyRequest
from tele.conch.session.spliced import open_spliced_session
from tele.errors import AccessDenied
from tele.wire.fields import string, uint32

MIB = 1 << 20


class Gate:
    """Passes all requests but those in ``refused``; commands become ``forced``, if it is set."""

    def __init__(self) -> None:
        self.refused: set[bytes] = set()
        self.forced: bytes | None = None
        self.seen: list[bytes] = []

    def __call__(self, name: bytes, data: bytes) -> tuple[bytes, bytes]:
        self.seen.append(name)
        if name in self.refused:
            raise AccessDenied("not permitted")
        if self.forced is not None and name in (b"shell", b"exec", b"subsystem"):
            return b"exec", string(self.forced)
        return name, data


class Asking(Channel):
    """A client's session that makes the requests of the test and notes what happens."""

    name = b"session"

    def __init__(self, *, hoards: bool = False) -> None:
        super().__init__()
        self.events: list[Any] = []
        self.hoards = hoards
        self.hoard = 0

    def ask(self, name: bytes, data: bytes = b"", *, reply: bool = True) -> None:
        """Make a request; its name and the answer become an event."""
        answer = self.conn.sendRequest(self, name, data, wantReply=reply)
        if answer is not None:
            answer.addCallbacks(
                lambda _: self.events.append((name, True)),
                lambda failure: (
                    self.events.append((name, False)) if failure.check(ConchError) else failure
                ),
            )

    def data_view(self, view: memoryview) -> None:
        if not self.events or self.events[-1] != "data":
            self.events.append("data")
        self.hoard += len(view)
        if not self.hoards:
            self.consumed(len(view))

    def use_up(self) -> None:
        """Read on."""
        self.hoards = False
        self.consumed(self.hoard)

    def eofReceived(self) -> None:
        self.events.append("eof")

    def receive_request(self, name: bytes, data: bytes, want_reply: bool) -> None:
        self.events.append(name)
        if want_reply:
            self.conn.reply_to_channel(self, False)

    def closed(self) -> None:
        super().closed()
        self.events.append("closed")


class Spliced:
    """A client, a server that passes sessions on, and a target that runs their programs."""

    def __init__(self, near: Limits | None = None, far: Limits | None = None) -> None:
        self.target = ChannelWorld(limits=far or Limits())
        self.gate = Gate()
        self.far = self.target.link()
        spliced = self

        class User(ChannelUser):
            def __init__(self, world: ChannelWorld) -> None:
                super().__init__(world)
                self.channelLookup[b"session"] = lambda remoteWindow, remoteMaxPacket, **_: (
                    open_spliced_session(
                        spliced.far.client.service,
                        spliced.gate,
                        remoteWindow=remoteWindow,
                        remoteMaxPacket=remoteMaxPacket,
                        avatar=self,
                    )
                )

        self.here = ChannelWorld(limits=near or Limits(), make_user=User)
        self.near = self.here.link()

    @property
    def programs(self) -> list[HeldProgram]:
        """What the target has started."""
        started: list[HeldProgram] = self.target.programs.started
        return started

    def settle(self) -> None:
        """Carry bytes on both connections until there is nothing to do."""
        for _ in range(100_000):
            moved = self.near.turn()
            if not self.far.turn() and not moved:
                return
        raise AssertionError("there is no end to it")

    def open(self, channel: Any) -> Any:
        """Open a session of the client's."""
        self.near.client.service.openChannel(channel)
        self.settle()
        return channel

    def run(self, request: ProgramRequest, kind: type[ProgramChannel] = ProgramChannel) -> Any:
        """Run a program; return the client's session."""
        received: list[tuple[int | None, bytes]] = []
        channel: Any = kind(request, lambda code, view: received.append((code, bytes(view))))
        channel.received = received
        return self.open(channel)

    def asking(self, **options: Any) -> Asking:
        """Return a session with a program that was asked for."""
        channel: Asking = self.open(Asking(**options))
        channel.ask(b"exec", string(b"something"))
        self.settle()
        assert channel.events == [(b"exec", True)]
        return channel

    def close(self) -> None:
        for program in self.programs:
            program.finish()
        for ends in (self.near, self.far):
            ends.client_link.close()


@pytest.fixture
def spliced() -> Iterator[Spliced]:
    """Two connections, one behind the other."""
    made = Spliced()
    yield made
    made.close()


def queued(ends: ChannelEnds) -> list[int]:
    """Bytes that wait on each channel of the client's end."""
    return [len(channel._queue) for channel in ends.client.service.channels.values()]


def test_a_program_behind(spliced: Spliced) -> None:
    """The target starts what the client asks for, with its terminal and variables; data, sizes and
    signals arrive, and so does how it ended.
    """
    request = ProgramRequest("exec", b"top", {"LANG": "C"}, PtyRequest("xterm", 80, 24))
    channel = spliced.run(request)
    (program,) = spliced.programs
    assert (program.request.command, program.request.env) == (b"top", {"LANG": "C"})
    assert program.request.pty is not None
    assert (program.request.pty.term, program.request.pty.columns) == ("xterm", 80)
    channel.write(b"typed")
    channel.resize(100, 40)
    channel.signal("INT")
    program.write_output(b"shown")
    program.write_error(b"wrong")
    spliced.settle()
    assert (program.read_input(), program.sizes, program.signals) == (
        b"typed", [(100, 40, 0, 0)], ["INT"],
    )  # fmt: skip
    assert (output(channel), output(channel, 1)) == (b"shown", b"wrong")
    program.finish(Exit(7))
    spliced.settle()
    ended: list[Exit] = []
    channel.ended.addCallback(ended.append)
    assert ended == [Exit(7)]
    assert not spliced.near.server.service.channels
    assert not spliced.far.client.service.channels


def test_a_program_that_is_killed(spliced: Spliced) -> None:
    """The client learns the signal."""
    channel = spliced.run(ProgramRequest("shell"))
    spliced.programs[0].finish(Exit(None, "KILL", core=True, message="killed"))
    spliced.settle()
    ended: list[Exit] = []
    channel.ended.addCallback(ended.append)
    assert ended == [Exit(None, "KILL", core=True, message="killed")]


def test_input_ends(spliced: Spliced) -> None:
    """EOF of the client follows its data, and output goes on after it."""
    channel = spliced.run(ProgramRequest("exec", b"sort"))
    (program,) = spliced.programs
    data = bytes(range(256)) * (3 * MIB // 256)
    channel.write(data)
    channel.send_eof()
    got = bytearray()
    while (read := program.read_input()) != b"":
        got += read or b""
        spliced.settle()
    assert got == data
    program.write_output(b"sorted")
    spliced.settle()
    assert output(channel) == b"sorted"


def test_the_order_of_an_end(spliced: Spliced) -> None:
    """Reply, output, how it ended, EOF, CLOSE: in this order, however late the client reads; and no
    more than a window waits for it.
    """
    channel = spliced.asking(hoards=True)
    (program,) = spliced.programs
    left = 3 * WINDOW
    for _ in range(200):
        left -= program.write_output(bytes(min(left, MIB)))
        spliced.settle()
    assert (channel.hoard, left > 0) == (WINDOW, True)
    (middle,) = spliced.near.server.service.channels.values()
    assert 0 < len(middle._queue) <= WINDOW
    while left:
        channel.use_up()
        channel.hoard = 0
        left -= program.write_output(bytes(min(left, MIB)))
        spliced.settle()
    # The last window waits for the client when the program ends.
    channel.hoards = True
    channel.hoard = 0
    for _ in range(200):
        program.write_output(bytes(MIB))
        spliced.settle()
    program.finish(Exit(3))
    spliced.settle()
    assert channel.events == [(b"exec", True), "data"]
    channel.use_up()
    spliced.settle()
    assert channel.events == [(b"exec", True), "data", b"exit-status", "eof", "closed"]


def test_a_signal_passes_input_that_waits(spliced: Spliced) -> None:
    """A program that reads nothing can be interrupted, and one window waits for it."""
    channel = spliced.run(ProgramRequest("exec", b"sleep"))
    (program,) = spliced.programs
    channel.write(bytes(16 * MIB))
    spliced.settle()
    (waiting,) = queued(spliced.far)
    assert 0 < waiting <= WINDOW
    channel.signal("INT")
    spliced.settle()
    assert program.signals == ["INT"]


def test_a_slow_target_stalls_one_channel_only(spliced: Spliced) -> None:
    """Beside a session whose input is not read, another one goes on."""
    stalled = spliced.run(ProgramRequest("exec", b"sleep"))
    stalled.write(bytes(16 * MIB))
    spliced.settle()
    other = spliced.run(ProgramRequest("exec", b"cat"))
    data, got = bytes(4 * MIB), bytearray()
    other.write(data)
    for _ in range(1000):
        spliced.settle()
        got += spliced.programs[1].read_input() or b""
        if len(got) == len(data):
            break
    assert got == data
    assert spliced.programs[1].write_output(b"done") == 4
    spliced.settle()
    assert output(other) == b"done"


def test_replies_have_the_order_of_requests(spliced: Spliced) -> None:
    """Requests are made without waiting for replies; one that is refused here is answered after
    those before it, which the target has yet to answer.
    """
    spliced.gate.refused = {b"x11-req"}
    channel = spliced.open(Asking())
    channel.ask(b"env", string(b"LANG") + string(b"C"))
    channel.ask(b"x11-req")
    channel.ask(b"env", string(b"PATH") + string(b"/"))
    channel.ask(b"unknown@example.com")
    channel.ask(b"exec", string(b"id"))
    for _ in range(10):
        spliced.near.turn()
    assert spliced.gate.seen == [b"env", b"x11-req", b"env", b"unknown@example.com", b"exec"]
    assert channel.events == [], "nothing is answered before the target has"
    spliced.settle()
    assert channel.events == [
        (b"env", True),
        (b"x11-req", False),
        (b"env", False),
        (b"unknown@example.com", False),
        (b"exec", True),
    ]


def test_what_the_gate_makes_of_a_request(spliced: Spliced) -> None:
    """A forced command runs in place of the requested one; what is refused does not reach the
    target (attack).
    """
    spliced.gate.forced = b"forced"
    spliced.gate.refused = {b"pty-req"}
    channel = spliced.open(Asking())
    channel.ask(b"pty-req", string(b"xterm") + uint32(1) * 4 + string(b"\0"))
    channel.ask(b"shell")
    spliced.settle()
    assert channel.events == [(b"pty-req", False), (b"shell", True)]
    (program,) = spliced.programs
    assert (program.request.command, program.request.pty) == (b"forced", None)


def test_a_gate_that_fails_refuses(spliced: Spliced) -> None:
    """An error of ours passes nothing on, and ends neither session nor connection (attack)."""
    channel = spliced.open(Asking())
    spliced.gate.refused = None  # type: ignore[assignment]
    channel.ask(b"exec", string(b"id"))
    spliced.settle()
    spliced.gate.refused = set()
    channel.ask(b"exec", string(b"id"))
    spliced.settle()
    assert channel.events == [(b"exec", False), (b"exec", True)]
    assert len(spliced.programs) == 1


def test_a_target_that_ends_twice(spliced: Spliced) -> None:
    """The client learns the first end only (attack)."""
    channel = spliced.asking()
    (there,) = spliced.far.server.service.channels.values()
    for status in (1, 2):
        there.conn.sendRequest(there, b"exit-status", uint32(status))
    spliced.settle()
    assert channel.events[1:] == [b"exit-status"]


def test_requests_of_the_target(spliced: Spliced) -> None:
    """They reach the client, who judges them; its replies go back."""
    channel = spliced.asking()
    (there,) = spliced.far.server.service.channels.values()
    answers: list[bool] = []
    there.conn.sendRequest(there, b"eow@openssh.com", b"")
    there.conn.sendRequest(there, b"what@example.com", b"", wantReply=True).addErrback(
        lambda _: answers.append(False)
    )
    spliced.settle()
    assert channel.events[1:] == [b"eow@openssh.com", b"what@example.com"]
    assert answers == [False]


def test_a_lost_target(spliced: Spliced) -> None:
    """The session closes, and a request that was not answered fails first."""
    channel = spliced.asking()
    channel.ask(b"signal", string(b"INT"))
    for _ in range(5):
        spliced.near.turn()
    spliced.far.client_link.close()
    spliced.settle()
    assert channel.events[1:] == [(b"signal", False), "closed"]
    assert not spliced.near.server.service.channels
    assert not spliced.near.server.closing


def test_a_lost_client(spliced: Spliced) -> None:
    """Its programs are hung up; the connection to the target goes on."""
    spliced.run(ProgramRequest("shell"))
    spliced.near.client_link.close()
    spliced.settle()
    assert spliced.programs[0].hung_up
    assert not spliced.far.client.service.channels
    assert not spliced.far.client.closing


def test_requests_that_the_target_does_not_take(spliced: Spliced) -> None:
    """A client that sends more than a bounded number for a link that takes nothing loses its
    connection; the connection to the target stays (attack).
    """
    channel = spliced.asking()
    for _ in range(4):
        channel.ask(b"pad@example.com", bytes(32000), reply=False)
    spliced.near.settle()
    assert not spliced.near.server.closing
    for _ in range(REQUESTS_LIMIT + 64):
        channel.ask(b"pad@example.com", bytes(1000), reply=False)
    spliced.near.settle()
    assert spliced.near.server.closing
    assert len(spliced.far.client_link.waiting) < 2 * MIB
    spliced.settle()
    assert not spliced.far.client.closing


def test_replies_that_never_come(spliced: Spliced) -> None:
    """So many requests may wait for a target's replies, and no more (attack)."""
    started: Deferred[Any] = Deferred()
    spliced.target.programs.answer = lambda _: started
    channel = spliced.open(Asking())
    for _ in range(REQUESTS_LIMIT // 2):
        channel.ask(b"exec", string(b"id"))
    spliced.settle()
    assert not spliced.near.server.closing
    for _ in range(REQUESTS_LIMIT):
        channel.ask(b"exec", string(b"id"))
    spliced.near.settle()
    assert spliced.near.server.closing


@pytest.mark.parametrize("where", ["near", "far"])
@pytest.mark.parametrize("who", ["client", "server"])
def test_keys_are_renewed(spliced: Spliced, where: str, who: str) -> None:
    """What passes while either connection renews its keys, by either end, arrives in order."""
    channel = spliced.asking()
    (program,) = spliced.programs
    ends = getattr(spliced, where)
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
        spliced.near.turn()
        spliced.far.turn()
        if number % 10 == 9:
            spliced.settle()
            assert transport.outgoing.sealer is not before
        got += program.read_input() or b""
    spliced.settle()
    while read := program.read_input():
        got += read
        spliced.settle()
    assert (got, channel.hoard) == (sent, len(sent))
    assert len(program.signals) == begun
    assert channel.events.count((b"signal", True)) == begun
    program.finish(Exit(0))
    spliced.settle()
    assert channel.events[-1] == "closed"
    assert b"exit-status" in channel.events


def test_keys_are_renewed_by_volume() -> None:
    """Connections that renew their keys often, each at its own moment, lose nothing."""
    spliced = Spliced(Limits(rekey_octets=100_000), Limits(rekey_octets=170_000))
    channel = spliced.run(ProgramRequest("exec", b"cat"))
    (program,) = spliced.programs
    data = bytes(range(256)) * (2 * MIB // 256)
    channel.write(data)
    channel.send_eof()
    got = bytearray()
    while (read := program.read_input()) != b"":
        got += read or b""
        program.write_output(read or b"")
        spliced.settle()
    program.finish(Exit(0))
    spliced.settle()
    assert (bytes(got), output(channel)) == (data, data)
    spliced.close()


def test_many_sessions(spliced: Spliced) -> None:
    """Two hundred, each with its own program, data and status."""
    spliced.here.permissions = spliced.target.permissions = Permissions(max_sessions=200)
    channels = [spliced.run(ProgramRequest("exec", b"%d" % number)) for number in range(200)]
    for program in spliced.programs:
        program.write_output(program.request.command)
        program.finish(Exit(int(program.request.command) % 100))
    spliced.settle()
    ended: list[Exit] = []
    for number, channel in enumerate(channels):
        assert output(channel) == b"%d" % number
        channel.ended.addCallback(ended.append)
    assert ended == [Exit(number % 100) for number in range(200)]
    assert not spliced.far.client.service.channels
