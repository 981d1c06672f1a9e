"""Invariant: whatever an authenticated client sends, the server answers, or closes its
connection and no other; nothing fails, what is kept is bounded, and when the connection is gone
every channel is closed, every program is ended, and no descriptor is left.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from ipaddress import ip_network
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ConnectionDone
from twisted.python.failure import Failure

from attempts import Dice, main
from channel_ends import ChannelWorld, HeldProgram, HeldPrograms
from flooder import PRODUCER_LIMIT, Flooder, Unread, global_request, to_session
from tele.admission.limits import Limits
from tele.admission.penalties import PenaltyRules
from tele.conch.session.programs import Exit
from tele.errors import AccessDenied, Unreachable
from tele.wire import numbers as n
from tele.wire.fields import string, uint32

UNREAD = 256 * 1024
NO_PENALTIES = PenaltyRules(exempt=(ip_network("0.0.0.0/0"),))
WORLD = ChannelWorld(limits=Limits(unread_octets=UNREAD, penalties=NO_PENALTIES))
#: What one connection may make us keep: its windows, and what channels and requests cost.
MOST = 16 << 20

KINDS = (b"session", b"session", b"direct-tcpip", b"x11", b"forwarded-tcpip", b"")
REQUESTS: tuple[tuple[bytes, bytes], ...] = (
    (b"exec", string(b"true")),
    (b"shell", b""),
    (b"subsystem", string(b"sftp")),
    (b"pty-req", string(b"xterm") + bytes(16) + string(b"\x80\0\0\1\0\0")),
    (b"env", string(b"LANG") + string(b"C")),
    (b"window-change", uint32(80) + uint32(24) + bytes(8)),
    (b"signal", string(b"TERM")),
    (b"break", uint32(500)),
    (b"auth-agent-req@openssh.com", b""),
    (b"x11-req", b"\0" + string(b"MIT-MAGIC-COOKIE-1") + string(b"00") + uint32(0)),
    (b"xon-xoff", b"\1"),
    (b"eow@openssh.com", b""),
    (b"exit-status", uint32(1)),
    (b"no-such-request", b"x"),
)
GLOBALS = (
    b"keepalive@openssh.com", b"no-more-sessions@openssh.com", b"tcpip-forward",
    b"cancel-tcpip-forward", b"streamlocal-forward@openssh.com",
    b"hostkeys-prove-00@openssh.com", b"no-such-request", b"\xff",
)  # fmt: skip


class Talk(Dice):
    """Dice that know how many channels there have been, so that most messages are legal."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        #: How likely something is that ends the connection.
        self.malice = self.choice((0.0, 0.01, 0.05))
        self.channels = 0

    def evil(self) -> bool:
        return self.random() < self.malice

    def channel(self) -> bytes:
        """A channel's number, most often of one that there is or was."""
        if self.evil():
            return uint32(self.number())
        return uint32(max(0, self.channels - 1 - self.choice((0, 0, 0, 1, 1, 2, 4))))


def _open(talk: Talk) -> bytes:
    kind = talk.choice(KINDS)
    rest = b""
    if kind == b"direct-tcpip":
        rest = string(b"host") + uint32(talk.number()) + string(b"me") + uint32(1)
    window = talk.choice((0, 10, 1 << 20, 0xFFFFFFFF))
    most = talk.choice((1, 100, 32768, 0xFFFFFFFF)) if not talk.evil() else 0
    head = bytes((n.CHANNEL_OPEN,)) + string(kind) + uint32(talk.randint(0, 5))
    return head + uint32(window) + uint32(most) + rest


def _request(talk: Talk) -> bytes:
    name, rest = talk.choice(REQUESTS)
    message = to_session(name, rest, talk.random() < 0.7)
    return message[:1] + talk.channel() + message[5:]


def _data(talk: Talk) -> bytes:
    size = talk.choice((0, 1, 10, 1000, 32768)) if not talk.evil() else 40000
    return bytes((n.CHANNEL_DATA,)) + talk.channel() + string(bytes(size))


def _extended(talk: Talk) -> bytes:
    code = uint32(talk.choice((0, 1, 2, talk.number())))
    head = bytes((n.CHANNEL_EXTENDED_DATA,)) + talk.channel() + code
    return head + string(talk.bytes_up_to(100))


def _adjust(talk: Talk) -> bytes:
    credit = talk.number() if talk.evil() else talk.choice((0, 1, 1000, 1 << 20))
    return bytes((n.CHANNEL_WINDOW_ADJUST,)) + talk.channel() + uint32(credit)


def _eof(talk: Talk) -> bytes:
    return bytes((n.CHANNEL_EOF,)) + talk.channel()


def _close(talk: Talk) -> bytes:
    return bytes((n.CHANNEL_CLOSE,)) + talk.channel()


def _global(talk: Talk) -> bytes:
    rest = talk.choice((b"", string(b"") + uint32(talk.number()), talk.bytes_up_to(40)))
    return global_request(talk.choice(GLOBALS), talk.random() < 0.7, rest)


def _small(talk: Talk) -> bytes:
    number = talk.choice((n.IGNORE, n.DEBUG, n.UNIMPLEMENTED, n.PING, n.PONG, n.USERAUTH_REQUEST))
    return bytes((number,)) + b"\0" * (number == n.DEBUG) + string(b"x") * (1 + (number == n.DEBUG))


def _unknown(talk: Talk) -> bytes:
    return bytes((talk.randint(200, 255),)) + talk.bytes_up_to(60)


def _evil(talk: Talk) -> bytes:
    """What ends a connection, or should: an answer to nothing, or anything."""
    number = talk.choice((talk.randint(0, 255), talk.randint(n.CHANNEL_OPEN, n.CHANNEL_FAILURE)))
    return bytes((number,)) + talk.channel() + talk.bytes_up_to(40)


MESSAGES: tuple[Callable[[Talk], bytes], ...] = (
    _open, _open, _request, _request, _request, _request, _data, _data, _data, _extended, _adjust,
    _adjust, _eof, _close, _global, _small, _unknown,
)  # fmt: skip


class Programs(HeldPrograms):
    """Programs that start, that fail, and that never answer."""

    def throw(self, dice: Dice, later: list[Callable[[], None]]) -> None:
        """Let ``dice`` decide how programs start."""

        def answer(request: Any) -> Deferred[Any]:
            return outcome(dice, later, lambda: self.make(request))

        self.answer = answer


def outcome(dice: Dice, later: list[Callable[[], None]], good: Callable[[], Any]) -> Deferred[Any]:
    """Something that succeeds, fails or breaks, now or later."""
    kind = dice.randint(0, 5)
    if kind <= 1:
        return succeed(good())
    if kind == 2:
        return fail(AccessDenied("no", "login"))
    if kind == 3:
        return fail(Unreachable("connection refused"))
    waiting: Deferred[Any] = Deferred()

    def settle() -> None:
        if not waiting.called:
            if dice.random() < 0.7:
                waiting.callback(good())
            else:
                waiting.errback(AccessDenied("not now", "login"))

    later.append(settle)
    return waiting


def attempt(dice: Dice) -> None:
    """A connection with a few dozen messages, and programs that do something meanwhile."""
    talk = Talk(dice.getrandbits(64))
    descriptors = len(os.listdir("/proc/self/fd"))
    programs, later = Programs(), list[Callable[[], None]]()
    programs.throw(dice, later)
    WORLD.programs = programs
    reached: list[tuple[Any, Unread]] = []

    def reach(factory: Any) -> Any:
        protocol = factory.buildProtocol(None)
        transport = Unread()  # type: ignore[no-untyped-call]
        protocol.makeConnection(transport)
        reached.append((protocol, transport))
        return protocol

    WORLD.forward = lambda asked, factory: outcome(dice, later, lambda: reach(factory))
    who = Flooder(WORLD)
    who.login()
    who.transport.read_all()
    for _ in range(dice.randint(1, 60)):
        if not who.transport.is_read_from:
            break
        talk.channels = who.server.service.localChannelID
        make = _evil if talk.evil() else talk.choice(MESSAGES)
        message = (make if talk.channels else _open)(talk)
        if talk.evil():
            message = talk.damaged(message, 2) or b"\0"
        who.send(*[message] * dice.choice((1, 1, 1, 3)))
        _meanwhile(dice, who, programs, later)
    assert len(who.transport.value()) < PRODUCER_LIMIT + UNREAD + 8 * 40000
    assert who.weight() < MOST
    connection = who.server.service
    who.server.connectionLost()
    for settle in later:
        settle()
    _nothing_is_left(who, connection, programs)
    for protocol, transport in reached:
        assert transport.disconnecting
        protocol.connectionLost(Failure(ConnectionDone()))
    assert not WORLD.clock.getDelayedCalls()
    assert len(os.listdir("/proc/self/fd")) == descriptors


def _meanwhile(
    dice: Dice, who: Flooder, programs: Programs, later: list[Callable[[], None]]
) -> None:
    for program in programs.started:
        if not program.exited.called:
            # The reader may have closed its end.
            with suppress(BrokenPipeError):
                _let_run(dice, program)
    if later and dice.random() < 0.2:
        later.pop(dice.randrange(len(later)))()
    if dice.random() < 0.5:
        WORLD.clock.poll()
    if dice.random() < 0.5:
        who.transport.read_all()


def _let_run(dice: Dice, program: HeldProgram) -> None:
    what, still = dice.randint(0, 12), program.open_ends
    if what == 0 and program.its_output in still:
        program.write_output(dice.bytes_up_to(70000))
    elif what == 1 and program.its_errors in still:
        program.write_error(dice.bytes_up_to(1000))
    elif what == 2 and program.its_input in still:
        program.read_input(dice.randint(1, 100000))
    elif what == 3:
        program.finish(dice.choice((Exit(0), Exit(3), Exit(None, "KILL"))))
    elif what == 4 and still:
        program.shut(dice.choice(sorted(still)))


def _nothing_is_left(who: Flooder, connection: Any, programs: Programs) -> None:
    assert not who.server.ready_observers
    if connection is not None:
        assert not connection.channels
        assert not connection.channelsToRemoteChannel
        assert not connection.localToRemoteChannel
        assert not connection._opening
    for program in programs.started:
        assert program.hung_up or program.exited.called
        program.finish()
    while WORLD.clock.poll():
        pass
    assert not WORLD.clock.readers
    assert not WORLD.clock.writers
    WORLD.realm.calls.clear()


if __name__ == "__main__":
    main(attempt)
