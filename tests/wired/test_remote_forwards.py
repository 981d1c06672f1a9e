"""What is forwarded between a client and a target behind the server that it is connected to."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from twisted.conch.error import ConchError
from twisted.internet.defer import Deferred, fail, succeed

from remote_world import Asking, Line, Remote, queued
from tele.conch.connection.channel import WINDOW
from tele.conch.forwarding.listening import ACCEPTED_LIMIT, ANSWER_TIMEOUT, LISTENING_LIMIT
from tele.conch.forwarding.local import LOCAL_CHANNEL
from tele.conch.forwarding.remote import PATH_CHANNEL, PORT_CHANNEL, PathRequest, PortRequest
from tele.conch.session.session_forwarding import AGENT_CHANNEL, AGENT_REQUEST, DISPLAY_CHANNEL
from tele.model.access import Denied, Reason
from tele.model.actions import ForwardRules
from tele.model.frame import FrameKind
from tele.sessions.remote_forwards import CONNECT_SECONDS, LISTEN_SECONDS
from tele.wire.fields import boolean, string, uint32

MIB = 1 << 20
DB = string(b"db.example") + uint32(5432) + string(b"127.0.0.1") + uint32(40000)
SOCKET = string(b"/run/db.sock") + string(b"") + uint32(0)
ALL: dict[str, Any] = {"port_forwarding": True, "agent_forwarding": True, "x11_forwarding": True}
X11 = boolean(False) + string(b"MIT-MAGIC-COOKIE-1") + string(b"00ff") + uint32(0)


@pytest.fixture
def remote() -> Iterator[Remote]:
    """A user who may forward anything, with a recording."""
    made = Remote(records=True, **ALL)
    yield made
    made.close()


class Accepts:
    """A client that takes the channels that are opened to it."""

    def __init__(self, remote: Remote) -> None:
        self.taken: list[tuple[bytes, bytes, Line]] = []
        self.instead: Any = None
        remote.near.client.service.acceptor = self

    def accept(self, kind: bytes, data: bytes, remoteWindow: int, remoteMaxPacket: int) -> Any:
        line = Line(kind, remoteWindow=remoteWindow, remoteMaxPacket=remoteMaxPacket)
        self.taken.append((kind, data, line))
        return succeed(line) if self.instead is None else self.instead


def ask(remote: Remote, name: bytes, data: bytes) -> list[Any]:
    """Make a global request of the client's; its answer is in the list, once it is known."""
    answers: list[Any] = []
    answer = remote.near.client.service.sendGlobalRequest(name, data, wantReply=True)
    answer.addCallbacks(answers.append, lambda _: answers.append(False))
    remote.settle()
    return answers


def comes(remote: Remote, kind: bytes, data: bytes = b"") -> Line:
    """A connection is made on the target, which opens a channel."""
    line = Line(kind)
    remote.far.server.service.openChannel(line, data)
    remote.settle()
    return line


# -- to the target's side -------------------------------------------------------------
@pytest.mark.parametrize(
    ("kind", "data", "name"),
    [
        (b"direct-tcpip", DB, "db.example:5432"),
        (LOCAL_CHANNEL, SOCKET, "/run/db.sock"),
    ],
)
def test_a_forward_through_the_target(remote: Remote, kind: bytes, data: bytes, name: str) -> None:
    """The target connects; bytes, EOF and CLOSE pass in order; it is an event and recorded with
    what it carried.
    """
    line = remote.open(Line(kind), data)
    ((asked, there),) = remote.there.connected
    assert asked == data
    line.write(bytes(3 * MIB))
    line.send_eof()
    there.write(b"rows")
    remote.settle()
    assert (len(there.got), there.events, line.got) == (3 * MIB, ["open", "eof"], b"rows")
    there.send_eof()
    there.loseConnection()
    remote.settle()
    assert line.events == ["open", "eof", "closed"]
    (begun,), (ended,) = remote.named("forward"), remote.named("forward.end")
    assert begun["target"] == ended["target"] == name
    assert (ended["sent"], ended["received"]) == (3 * MIB, 4)
    (opened,) = remote.notes(FrameKind.OPEN)
    assert opened["target"] == name
    (closed,) = remote.notes(FrameKind.CLOSE)
    assert (closed["sent"], closed["received"]) == (3 * MIB, 4)
    assert not remote.far.client.service.channels
    assert not remote.slots.held("alice")


def test_a_target_that_refuses_to_connect(remote: Remote) -> None:
    """The client gets the target's reason, and so does the audit."""
    remote.there.connects = fail(ConchError(2, "connection refused"))
    line = remote.open(Line(b"direct-tcpip"), DB)
    assert line.events == ["connection refused"]
    (event,) = remote.named("forward")
    assert "connection refused" in event["error"]
    assert not remote.slots.held("alice")


def test_a_target_that_does_not_connect(remote: Remote) -> None:
    """The client learns so after a time; what is opened later is closed."""
    remote.there.connects = Deferred()
    line = remote.open(Line(b"direct-tcpip"), DB)
    remote.here.clock.advance(CONNECT_SECONDS)
    remote.settle()
    assert line.events == ["db1 has not connected in 60 seconds"]
    ((_, there),) = remote.there.connected
    remote.there.connects.callback(there)
    remote.settle()
    assert there.events == ["open", "closed"]
    assert [event.get("error") for event in remote.named("forward")] == [
        "db1 has not connected in 60 seconds"
    ]


def test_each_side_keeps_a_window(remote: Remote) -> None:
    """A side that does not read stops the other; between them one window waits, and another
    channel goes on.
    """
    line = remote.open(Line(b"direct-tcpip"), DB)
    ((_, there),) = remote.there.connected
    there.hoards = True
    line.write(bytes(16 * MIB))
    remote.settle()
    assert len(there.got) == WINDOW
    (waiting,) = queued(remote.far)
    assert 0 < waiting <= WINDOW
    other = remote.open(Line(b"direct-tcpip"), DB)
    other.write(bytes(4 * MIB))
    remote.settle()
    assert len(remote.there.connected[1][1].got) == 4 * MIB


def test_more_forwards_than_granted(remote: Remote) -> None:
    """Some wait for those before them; the client learns when too many wait."""
    remote.permit(max_forwards=1)
    lines = [remote.open(Line(b"direct-tcpip"), DB) for _ in range(4)]
    assert [line.events[:1] for line in lines[:3]] == [["open"], [], []]
    assert "wait to be forwarded here already" in lines[3].events[0]
    lines[0].loseConnection()
    remote.settle()
    remote.there.connected[0][1].loseConnection()
    remote.settle()
    assert [line.events[:1] for line in lines[1:3]] == [["open"], []]


def test_the_target_is_lost(remote: Remote) -> None:
    """What leads through it ends; a client for which it listened loses its connection."""
    line = remote.open(Line(b"direct-tcpip"), DB)
    remote.far.client_link.close()
    remote.settle()
    assert line.events == ["open", "closed"]
    assert not remote.near.server.closing
    ask(remote, b"tcpip-forward", string(b"localhost") + uint32(0))
    assert len(remote.fars) == 2
    remote.far.client_link.close()
    remote.settle()
    assert remote.near.server.closing
    assert len(remote.named("forward.end")) == 2


def test_what_is_open_ends_with_its_permission(remote: Remote) -> None:
    """A changed grant closes what it does not give, both ways and also for a client that keeps the
    channel; what it gives goes on, and the audit says why (attack).
    """
    client = Accepts(remote)
    kept = remote.open(
        Line(b"direct-tcpip"), string(b"web.example") + DB[len(string(b"db.example")) :]
    )
    ended = remote.open(Line(b"direct-tcpip"), DB)
    path = remote.open(Line(LOCAL_CHANNEL), SOCKET)
    ask(remote, b"tcpip-forward", string(b"localhost") + uint32(0))
    data = string(b"localhost") + uint32(4711) + string(b"192.0.2.9") + uint32(999)
    came = comes(remote, PORT_CHANNEL, data)
    ((_, _, taken),) = client.taken
    (_, to_web), (_, to_db), (_, to_path) = remote.there.connected
    to_db.hoards = True
    ended.write(bytes(3 * MIB))
    remote.settle()
    before = len(to_db.got)
    remote.permit(
        **ALL, forward=ForwardRules(local=("web.example:5432",), remote=(), streamlocal=())
    )
    remote.forwards.restrict()
    to_db.hoards = False
    ended.write(b"more")
    remote.settle()
    assert [line.events for line in (ended, path, taken)] == [["open", "closed"]] * 3
    assert [each.events[-1] for each in (to_db, to_path, came)] == ["closed"] * 3
    assert len(to_db.got) <= before + WINDOW
    kept.write(b"question")
    remote.settle()
    assert kept.events == ["open"]
    assert to_web.got == b"question"
    errors = [event.get("error", "") for event in remote.named("forward.end")]
    assert len([error for error in errors if "a role has changed" in error]) == 3


# -- to the client's side -------------------------------------------------------------
def test_a_port_of_the_target(remote: Remote) -> None:
    """The target listens; its connections reach the client with the host that it named."""
    client = Accepts(remote)
    (port,) = ask(remote, b"tcpip-forward", string(b"localhost") + uint32(0))
    assert port == uint32(4711)
    assert remote.there.listening == [PortRequest("localhost", 0)]
    data = string(b"localhost") + uint32(4711) + string(b"192.0.2.9") + uint32(999)
    there = comes(remote, PORT_CHANNEL, data)
    ((kind, got, line),) = client.taken
    assert (kind, got) == (PORT_CHANNEL, data)
    there.write(b"question")
    line.write(bytes(3 * MIB))
    remote.settle()
    assert line.got == b"question"
    assert len(there.got) == 3 * MIB
    there.loseConnection()
    remote.settle()
    assert line.events == ["open", "closed"]
    listen, connected = remote.named("forward")
    assert listen["bound"] == "localhost:4711"
    assert connected["originator"] == "192.0.2.9:999"
    (ended,) = remote.named("forward.end")
    assert (ended["sent"], ended["received"]) == (3 * MIB, 8)


def test_a_listener_is_cancelled(remote: Remote) -> None:
    """By the client that asked for it, on the target, too; then the target opens no more."""
    client = Accepts(remote)
    ask(remote, b"tcpip-forward", string(b"") + uint32(2222))
    assert ask(remote, b"cancel-tcpip-forward", string(b"") + uint32(2223)) == [False]
    assert ask(remote, b"cancel-tcpip-forward", string(b"") + uint32(2222)) == [b""]
    assert remote.there.cancelled == [PortRequest("", 2222)]
    assert len(remote.named("forward.end")) == 1
    data = string(b"") + uint32(2222) + string(b"192.0.2.9") + uint32(999)
    assert comes(remote, PORT_CHANNEL, data).events == ["the client did not ask for it"]
    assert not client.taken


def test_a_socket_of_the_target(remote: Remote) -> None:
    """A path, likewise."""
    client = Accepts(remote)
    assert ask(remote, b"streamlocal-forward@openssh.com", string(b"/run/x")) == [b""]
    there = comes(remote, PATH_CHANNEL, string(b"/run/x") + string(b""))
    ((_, _, line),) = client.taken
    line.write(b"answer")
    remote.settle()
    assert there.got == b"answer"
    assert ask(remote, b"cancel-streamlocal-forward@openssh.com", string(b"/run/x")) == [b""]
    assert remote.there.cancelled == [PathRequest(b"/run/x")]


def test_a_target_that_does_not_listen(remote: Remote) -> None:
    """It refuses, never answers, or answers what cannot be: the client is refused, in order."""
    remote.there.answer = Deferred()
    answers = ask(remote, b"tcpip-forward", string(b"") + uint32(0))
    answers += ask(remote, b"unknown@example.com", b"")
    assert not answers, "the second reply waits for the first"
    remote.here.clock.advance(LISTEN_SECONDS)
    remote.settle()
    remote.there.answer.callback(1)
    remote.there.answer = fail(ConchError(1, "no"))
    remote.settle()
    ask(remote, b"tcpip-forward", string(b"") + uint32(0))
    remote.there.answer = succeed(0)
    ask(remote, b"tcpip-forward", string(b"") + uint32(0))
    errors = [event["error"] for event in remote.named("forward")]
    assert errors == [
        "db1 has not begun to listen in 30 seconds",
        "db1 refuses to listen",
        "the target listens on a port that cannot be",
    ]


def test_an_agent_and_a_display(remote: Remote) -> None:
    """The session on the target gets both; their channels reach the client."""
    client = Accepts(remote)
    session = remote.open(Asking())
    session.ask(AGENT_REQUEST)
    session.ask(b"x11-req", X11)
    session.ask(b"exec", string(b"id"))
    remote.settle()
    assert session.events == [(AGENT_REQUEST, True), (b"x11-req", True), (b"exec", True)]
    assert remote.there.agents == 1
    assert [each.cookie for each in remote.there.displays] == ["00ff"]
    agent = comes(remote, AGENT_CHANNEL)
    display = comes(remote, DISPLAY_CHANNEL, string(b"127.0.0.1") + uint32(6010))
    assert [kind for kind, _, _ in client.taken] == [AGENT_CHANNEL, DISPLAY_CHANNEL]
    client.taken[0][2].write(b"keys")
    client.taken[1][2].write(b"pixels")
    remote.settle()
    assert agent.got == b"keys"
    assert display.got == b"pixels"
    assert [event["kind"] for event in remote.named("forward")] == ["x11", "auth-agent", "x11"]
    assert len(remote.named("agent")) == 1
    remote.programs[0].finish()
    remote.settle()
    late = comes(remote, DISPLAY_CHANNEL, string(b"127.0.0.1") + uint32(6010))
    assert late.events == ["the client did not ask for it"], "its session is over"


def test_a_single_display(remote: Remote) -> None:
    """It is good for one connection."""
    client = Accepts(remote)
    session = remote.open(Asking())
    session.ask(b"x11-req", boolean(True) + X11[1:])
    session.ask(b"exec", string(b"id"))
    remote.settle()
    for _ in range(2):
        comes(remote, DISPLAY_CHANNEL, string(b"127.0.0.1") + uint32(6010))
    assert len(client.taken) == 1


# -- what is refused ------------------------------------------------------------------
def test_nothing_by_default() -> None:
    """A grant that does not name a kind gives none, and the target learns of nothing (attack)."""
    remote = Remote()
    Accepts(remote)
    session = remote.open(Asking())
    session.ask(AGENT_REQUEST)
    session.ask(b"x11-req", X11)
    session.ask(b"exec", string(b"id"))
    remote.settle()
    assert session.events == [(AGENT_REQUEST, False), (b"x11-req", False), (b"exec", True)]
    assert remote.open(Line(b"direct-tcpip"), DB).events == ["port forwarding is not allowed"]
    assert remote.open(Line(LOCAL_CHANNEL), SOCKET).events == ["port forwarding is not allowed"]
    assert ask(remote, b"tcpip-forward", string(b"") + uint32(0)) == [False]
    assert ask(remote, b"streamlocal-forward@openssh.com", string(b"/run/x")) == [False]
    there = remote.there
    assert not any((there.connected, there.listening, there.agents, there.displays))
    assert remote.forwards.agent_requested
    refused = [fields for name, fields in remote.audit.events if name in ("forward", "agent")]
    assert len(refused) == 6
    assert all("is not allowed" in fields["error"] for fields in refused)
    remote.close()


def test_an_agent_for_the_login_only() -> None:
    """It is not forwarded to the target, and asking for it is no event."""
    remote = Remote()
    remote.forwards.agent_for_login = True
    session = remote.open(Asking())
    session.ask(AGENT_REQUEST)
    session.ask(b"exec", string(b"id"))
    remote.settle()
    assert session.events == [(AGENT_REQUEST, True), (b"exec", True)]
    assert (remote.there.agents, remote.named("agent")) == (0, [])
    assert comes(remote, AGENT_CHANNEL).events == ["the client did not ask for it"]
    remote.close()


def test_channels_that_were_not_asked_for(remote: Remote) -> None:
    """A target reaches nothing of the client's that the client did not ask for; so many are an
    event, and no more (attack).
    """
    client = Accepts(remote)
    remote.connect()
    ask(remote, b"tcpip-forward", string(b"localhost") + uint32(2222))
    end = string(b"192.0.2.9") + uint32(999)
    for kind, data in (
        (PORT_CHANNEL, string(b"localhost") + uint32(2223) + end),
        (PORT_CHANNEL, string(b"127.0.0.1") + uint32(2222) + end),
        (PATH_CHANNEL, string(b"/run/x") + string(b"")),
        (AGENT_CHANNEL, b""),
        (DISPLAY_CHANNEL, end),
        (b"session", b""),
        (b"tun@openssh.com", b""),
        (b"direct-tcpip", DB),
    ):
        assert comes(remote, kind, data).events == ["the client did not ask for it"]
    assert not client.taken
    before = len(remote.named("forward"))
    for _ in range(1000):
        remote.far.server.service.openChannel(Line(AGENT_CHANNEL))
    remote.settle()
    assert before < len(remote.named("forward")) < 250
    assert not remote.far.client.closing
    assert not remote.near.server.closing


@pytest.mark.parametrize(
    "data",
    [
        b"",
        string(b"localhost") + uint32(2222) + string(b"\x1b[2J") + uint32(999),
        string(b"localhost") + uint32(2222) + string(b"192.0.2.9") + uint32(1 << 20),
        string(b"localhost") + uint32(2222) + string(b"192.0.2.9") + uint32(999) + b"more",
    ],
)
def test_a_channel_with_nonsense(remote: Remote, data: bytes) -> None:
    """It is refused, and nothing of it reaches the client (attack)."""
    client = Accepts(remote)
    ask(remote, b"tcpip-forward", string(b"localhost") + uint32(2222))
    line = comes(remote, PORT_CHANNEL, data)
    assert len(line.events) == 1
    assert line.events != ["open"]
    assert not client.taken


def test_a_flood_of_channels(remote: Remote) -> None:
    """So many of a target's channels are open at once, and no more; others go on (attack)."""
    client = Accepts(remote)
    ask(remote, b"tcpip-forward", string(b"localhost") + uint32(2222))
    data = string(b"localhost") + uint32(2222) + string(b"192.0.2.9") + uint32(999)
    lines = [comes(remote, PORT_CHANNEL, data) for _ in range(ACCEPTED_LIMIT + 3)]
    assert [line.events[0] for line in lines].count("open") == ACCEPTED_LIMIT
    assert lines[-1].events == ["128 are forwarded already"]
    lines[0].loseConnection()
    remote.settle()
    assert comes(remote, PORT_CHANNEL, data).events == ["open"]
    assert len(client.taken) == ACCEPTED_LIMIT + 1


def test_a_client_that_does_not_answer(remote: Remote) -> None:
    """The target learns so after a time; what the client opens later is closed."""
    client = Accepts(remote)
    ask(remote, b"tcpip-forward", string(b"localhost") + uint32(2222))
    client.instead = Deferred()
    data = string(b"localhost") + uint32(2222) + string(b"192.0.2.9") + uint32(999)
    line = comes(remote, PORT_CHANNEL, data)
    assert line.events == []
    remote.here.clock.advance(ANSWER_TIMEOUT)
    remote.settle()
    assert line.events == ["the client did not answer in 30 seconds"]
    late = client.taken[0][2]
    client.instead.callback(late)
    remote.settle()
    assert late.events == ["open", "closed"]


def test_so_many_listeners(remote: Remote) -> None:
    """A client has a limit of them (attack)."""
    for number in range(LISTENING_LIMIT + 1):
        answers = ask(remote, b"tcpip-forward", string(b"") + uint32(3000 + number))
    assert answers == [False]
    assert len(remote.there.listening) == LISTENING_LIMIT


# -- the grant changes, access ends ---------------------------------------------------
def test_a_grant_that_gives_less(remote: Remote) -> None:
    """Listeners are cancelled on the target, and the agent is reached no more."""
    Accepts(remote)
    ask(remote, b"tcpip-forward", string(b"localhost") + uint32(2222))
    session = remote.open(Asking())
    session.ask(AGENT_REQUEST)
    session.ask(b"exec", string(b"id"))
    remote.settle()
    remote.permit(port_forwarding=False, agent_forwarding=False)
    remote.forwards.restrict()
    remote.settle()
    assert remote.there.cancelled == [PortRequest("localhost", 2222)]
    assert comes(remote, AGENT_CHANNEL).events == ["the client did not ask for it"]
    assert (len(remote.named("forward.end")), len(remote.named("agent.end"))) == (1, 1)


def test_access_has_ended(remote: Remote) -> None:
    """Nothing is forwarded any more, and the target does not learn of it."""
    remote.ending.expel(Denied(Reason.LOCKED, "locked"), None)
    assert remote.open(Line(b"direct-tcpip"), DB).events == ["locked"]
    assert ask(remote, b"tcpip-forward", string(b"") + uint32(0)) == [False]
    assert not remote.fars


def test_access_ends_while_the_target_is_connected(remote: Remote) -> None:
    """Nothing is forwarded then either."""
    line = Line(b"direct-tcpip")
    remote.near.client.service.openChannel(line, DB)
    for _ in range(5):
        remote.near.turn()
    remote.ending.expel(Denied(Reason.LOCKED, "locked"), None)
    remote.settle()
    assert (len(remote.fars), line.events, remote.there.connected) == (1, ["locked"], [])


def test_the_client_leaves_while_the_target_begins_to_listen(remote: Remote) -> None:
    """The target is asked to stop."""
    remote.there.answer = Deferred()
    ask(remote, b"tcpip-forward", string(b"") + uint32(2222))
    remote.forwards.close()
    remote.there.answer.callback(2222)
    remote.settle()
    assert remote.there.cancelled == [PortRequest("", 2222)]


def only(world: Remote, **rules: tuple[str, ...]) -> None:
    """Have the user forward only what these rules say."""
    nothing: dict[str, tuple[str, ...]] = {"local": (), "remote": (), "streamlocal": ()}
    world.permit(forward=ForwardRules(**{**nothing, **rules}))  # type: ignore[arg-type]


def test_destinations_that_an_sshd_would_connect_to(remote: Remote) -> None:
    """A name is reached by a rule for it; where an address would decide nobody here knows, and the
    target learns of nothing (attack).
    """
    only(remote, local=("db.example:5432",))
    assert remote.open(Line(b"direct-tcpip"), DB).events == ["open"]
    other = string(b"db.example") + uint32(22) + string(b"127.0.0.1") + uint32(40000)
    refused = ["forwarding to 'db.example:22' is not allowed"]
    assert remote.open(Line(b"direct-tcpip"), other).events == refused
    only(remote, local=("10.0.0.0/8:*",))
    assert "not allowed" in remote.open(Line(b"direct-tcpip"), DB).events[0]
    only(remote, local=("*:*",))
    remote.permit(denied_forwards=ForwardRules(local=("10.0.0.0/8:*",)))
    assert "not allowed" in remote.open(Line(b"direct-tcpip"), DB).events[0]
    assert len(remote.there.connected) == 1
    errors = [event["error"] for event in remote.named("forward") if "error" in event]
    assert "access allow local *:*; but not local 10.0.0.0/8:*" in errors[-1]


def test_listeners_and_paths_of_an_sshd(remote: Remote) -> None:
    """Where an sshd listens, and where its paths lead, is not known: rules that depend on it allow
    nothing there (attack).
    """
    only(remote, remote=("localhost:8080",), streamlocal=("/run/db.sock",))
    assert ask(remote, b"tcpip-forward", string(b"localhost") + uint32(8080)) == [False]
    assert "cannot be seen" in remote.open(Line(LOCAL_CHANNEL), SOCKET).events[0]
    assert ask(remote, b"streamlocal-forward@openssh.com", string(b"/run/db.sock")) == [False]
    only(remote, remote=("*:8080",), streamlocal=("/**",))
    assert ask(remote, b"tcpip-forward", string(b"localhost") + uint32(8081)) == [False]
    assert ask(remote, b"tcpip-forward", string(b"localhost") + uint32(8080)) != [False]
    assert remote.open(Line(LOCAL_CHANNEL), SOCKET).events == ["open"]
