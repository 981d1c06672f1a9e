"""Invariant: whatever a target sends on our connection to it, it loses that connection at most;
nothing fails, the client stays connected and gets no more channels than it asked for; when the
connections are gone every channel is closed and nothing is held for the user.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import succeed

from attempts import Dice, main
from remote_world import Line, Remote
from tele.conch.connection.channel import WINDOW
from tele.wire import numbers as n
from tele.wire.fields import boolean, string, uint32

REQUESTS = (
    (b"exit-status", uint32(3)),
    (b"exit-signal", string(b"TERM") + boolean(False) + string(b"text") + string(b"")),
    (b"eow@openssh.com", b""),
    (b"exec", string(b"id")),
    (b"signal", string(b"INT")),
    (b"no-such-request", b"x"),
)
END = string(b"192.0.2.9") + uint32(999)
KINDS = (
    (b"forwarded-tcpip", string(b"localhost") + uint32(2222) + END),
    (b"forwarded-tcpip", string(b"localhost") + uint32(22) + END),
    (b"forwarded-streamlocal@openssh.com", string(b"/x") + string(b"")),
    (b"auth-agent@openssh.com", b""),
    (b"x11", END),
    (b"session", b""),
)
GLOBALS = (b"keepalive@openssh.com", b"hostkeys-00@openssh.com", b"tcpip-forward", b"\xff")


class Client:
    """The client, which accepts what is opened to it."""

    def __init__(self) -> None:
        self.taken = 0

    def accept(self, kind: bytes, data: bytes, remoteWindow: int, remoteMaxPacket: int) -> Any:
        assert kind == b"forwarded-tcpip"
        assert data == KINDS[0][1]
        self.taken += 1
        return succeed(Line(kind, remoteWindow=remoteWindow, remoteMaxPacket=remoteMaxPacket))


def _message(dice: Dice, malice: float) -> tuple[int, bytes]:
    evil = dice.random() < malice
    channel = uint32(dice.number() if evil else dice.randint(0, 4))
    match dice.randint(0, 10):
        case 0:
            kind, data = dice.choice(KINDS)
            if evil:
                data = dice.damaged(data, 3)
            most = 0 if dice.random() < malice else dice.choice((1, 32768))
            head = string(kind) + uint32(dice.randint(0, 5)) + uint32(dice.choice((0, 9, WINDOW)))
            return n.CHANNEL_OPEN, head + uint32(most) + data
        case 1 | 2:
            name, data = dice.choice(REQUESTS)
            if evil:
                data = dice.damaged(data, 3)
            answer = boolean(dice.random() < 0.5)
            return n.CHANNEL_REQUEST, channel + string(name) + answer + data
        case 3 | 4:
            size = 40_000 if evil else dice.choice((0, 1, 1000, 32768))
            return n.CHANNEL_DATA, channel + string(bytes(size))
        case 5:
            data = channel + uint32(dice.choice((0, 1, 2))) + string(b"error")
            return n.CHANNEL_EXTENDED_DATA, data
        case 6:
            credit = dice.number() if evil else dice.choice((0, 1, 100_000))
            return n.CHANNEL_WINDOW_ADJUST, channel + uint32(credit)
        case 7:
            return dice.choice((n.CHANNEL_EOF, n.CHANNEL_EOF, n.CHANNEL_CLOSE)), channel
        case 8:
            name = dice.choice(GLOBALS)
            return n.GLOBAL_REQUEST, string(name) + boolean(dice.random() < 0.5)
        case 9 if evil:
            return dice.choice((n.CHANNEL_SUCCESS, n.CHANNEL_FAILURE)), channel
        case 10 if evil:
            number = dice.choice((n.CHANNEL_OPEN_CONFIRMATION, n.REQUEST_SUCCESS))
            return number, channel + dice.bytes_up_to(12)
    return n.IGNORE, string(b"")


def attempt(dice: Dice) -> None:
    """A client with sessions and forwards, and a target that sends what it likes."""
    remote = Remote(records=True, port_forwarding=True)
    client = Client()
    remote.near.client.service.acceptor = client
    sessions = [remote.asking() for _ in range(2)]
    ask = remote.near.client.service.sendGlobalRequest
    ask(b"tcpip-forward", string(b"localhost") + uint32(2222), wantReply=True).addErrback(
        lambda _: None
    )
    remote.settle()
    malice = dice.choice((0.0, 0.02, 0.2))
    target = remote.far.server
    for _ in range(dice.randint(1, 60)):
        if target.closing:
            break
        target.sendPacket(*_message(dice, malice))
        if dice.random() < 0.2:
            remote.settle()
        if dice.random() < 0.1:
            dice.choice(sessions).write(bytes(1000))
        if dice.random() < 0.05:
            dice.choice(sessions).loseConnection()
    remote.settle()
    # The client's connection ends only if the target that listened for it is lost.
    assert remote.near.server.closing <= remote.far.client.closing
    held = sum(len(each._queue) for each in remote.conn.channels.values())
    assert held <= WINDOW * 8
    for ends in (remote.near, remote.far):
        ends.client_link.close()
    remote.forwards.close()
    remote.behind.close()
    remote.settle()
    for program in remote.programs:
        program.finish()
    assert not remote.slots.held("alice")
    assert not remote.far.client.service or not remote.far.client.service.channels


if __name__ == "__main__":
    main(attempt)
