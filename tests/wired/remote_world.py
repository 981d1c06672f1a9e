"""A client, a server that passes sessions on, and a target behind it: two connections in memory.

Everything between the links is real: the grant, the audit's session, the recording, the runner.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from twisted.conch.error import ConchError
from twisted.internet.defer import Deferred, fail, succeed
from zope.interface import implementer, noLongerProvides

from channel_ends import ChannelEnds, ChannelUser, ChannelWorld, HeldProgram
from grants import changed, one_role
from tele.admission.limits import Limits
from tele.admission.slots import Slots
from tele.conch.client.session import ProgramChannel
from tele.conch.client.target_connection import TargetConnection
from tele.conch.connection.channel import Channel
from tele.conch.connection.permissions import IPermissions, Permissions
from tele.conch.connection.windows import WindowBudget
from tele.conch.forwarding.local import LOCAL_CHANNEL, IForwarder
from tele.conch.forwarding.remote import REQUESTS, IListener, PathRequest, answer_request
from tele.conch.session.programs import ISessionPrograms, ProgramRequest
from tele.conch.session.remote_runner import RemoteSessionChannel
from tele.conch.session.session_forwarding import ISessionForwards
from tele.errors import Unavailable
from tele.model.frame import Frame, FrameKind
from tele.model.identity import HostIdentity, HostRole, UserIdentity
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
from tele.tape.details import details
from tele.testing.recorder import MemoryRecorder
from tele.wire.fields import string

LATER = datetime(2099, 1, 1, tzinfo=UTC)
HOST = HostIdentity("proxy-1", "proxy", "c", HostRole.PROXY, LATER)


class KeptAudit:
    """Keeps events."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []

    def emit(self, name: str, subject: Any, /, **fields: Any) -> None:
        self.events.append((name, fields))

    def emit_at(self, _: datetime, name: str, subject: Any, /, **fields: Any) -> None:
        self.emit(name, subject, **fields)


def kept_audit() -> Any:
    """Return what stands for the audit reporter."""
    return KeptAudit()


class Asking(Channel):
    """A client's session that makes the requests of the test and notes what happens."""

    name = b"session"

    def __init__(self, *, hoards: bool = False) -> None:
        super().__init__()
        self.events: list[Any] = []
        self.hoards = hoards
        self.hoard = 0
        self.status = -1

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
        if name == b"exit-status":
            self.status = int.from_bytes(data, "big")
        if want_reply:
            self.conn.reply_to_channel(self, False)

    def closed(self) -> None:
        super().closed()
        self.events.append("closed")


class Line(Channel):
    """A channel of either end that keeps what arrives."""

    def __init__(self, name: bytes, *, hoards: bool = False, **named: Any) -> None:
        super().__init__(**named)
        self.name = name
        self.events: list[Any] = []
        self.got = bytearray()
        self.hoards = hoards

    def channelOpen(self, specificData: bytes) -> None:
        self.events.append("open")

    def openFailed(self, reason: Any) -> None:
        self.events.append(str(reason))

    def data_view(self, view: memoryview) -> None:
        self.got += view
        if not self.hoards:
            self.consumed(len(view))

    def eofReceived(self) -> None:
        self.events.append("eof")

    def closed(self) -> None:
        super().closed()
        self.events.append("closed")


class RemoteUser(ChannelUser):
    """A user whose sessions are on the target."""

    def __init__(self, world: ChannelWorld, remote: Remote) -> None:
        super().__init__(world)
        self.remote = remote
        self.channelLookup = {
            b"session": RemoteSessionChannel,
            b"direct-tcpip": open_remote_tcpip,
            LOCAL_CHANNEL: open_remote_streamlocal,
        }
        noLongerProvides(self, IForwarder)

    def __conform__(self, interface: Any) -> Any:
        if interface is IPermissions:
            return self.remote.context.grant
        if interface in (IListener, ISessionForwards, IRemoteForwards):
            return self.remote.forwards
        return self.remote.session if interface is ISessionPrograms else None

    def gotGlobalRequest(self, requestType: bytes, data: bytes) -> Any:
        if requestType in REQUESTS:
            return answer_request(requestType, data, self)
        return False


class TargetUser(ChannelUser):
    """A user of the target, which listens and forwards as the test says."""

    def __init__(self, world: ChannelWorld, remote: Remote) -> None:
        super().__init__(world)
        self.remote = remote
        self.channelLookup[b"direct-tcpip"] = self._connect
        self.channelLookup[LOCAL_CHANNEL] = self._connect

    def _connect(self, remoteWindow: int, remoteMaxPacket: int, data: bytes, **_: Any) -> Any:
        there = self.remote.there
        line = Line(b"", remoteWindow=remoteWindow, remoteMaxPacket=remoteMaxPacket)
        there.connected.append((data, line))
        return line if there.connects is None else there.connects

    def __conform__(self, interface: Any) -> Any:
        if interface in (IListener, ISessionForwards):
            return self.remote.there
        return super().__conform__(interface)

    def gotGlobalRequest(self, requestType: bytes, data: bytes) -> Any:
        if requestType in REQUESTS:
            return answer_request(requestType, data, self)
        return False


@implementer(IListener, ISessionForwards)
class There:
    """What listens on the target."""

    def __init__(self) -> None:
        #: What was asked to connect to, with the channel; ``connects`` is what comes of it.
        self.connected: list[tuple[bytes, Line]] = []
        self.connects: Any = None
        self.listening: list[Any] = []
        self.cancelled: list[Any] = []
        self.displays: list[Any] = []
        self.agents = 0
        self.answer: Deferred[int] | None = None

    def listen(self, request: Any) -> Deferred[int]:
        self.listening.append(request)
        if self.answer is not None:
            return self.answer
        return succeed(0 if isinstance(request, PathRequest) else request.port or 4711)

    def cancel(self, request: Any) -> bool:
        self.cancelled.append(request)
        return True

    def agent(self) -> Deferred[None]:
        self.agents += 1
        return succeed(None)

    def display(self, request: Any) -> Deferred[Any]:
        self.displays.append(request)
        return fail(Unavailable("the test opens what it needs"))


class Remote:
    """The three machines. ``grant`` are options of the user's grant; ``records``: with a tape."""

    def __init__(
        self,
        near: Limits | None = None,
        far: Limits | None = None,
        *,
        records: bool = False,
        recorder: Any = None,
        **grant: Any,
    ) -> None:
        self.there = There()
        self.target = ChannelWorld(
            limits=far or Limits(), make_user=lambda world: TargetUser(world, self)
        )
        self.fars: list[ChannelEnds] = []
        self.budget: WindowBudget | None = None
        self._connecting: list[Deferred[Any]] = []
        #: Set to fail to connect.
        self.problem: Exception | None = None
        self.here = ChannelWorld(
            limits=near or Limits(), make_user=lambda world: RemoteUser(world, self)
        )
        self.recorder = recorder or MemoryRecorder()
        user = UserIdentity("alice", "c", LATER)
        granted = one_role(user, "root", **grant)
        self.context = ConnectionContext(
            granted, "session-1", ("192.0.2.7", 50000), ("192.0.2.1", 3022)
        )
        self.tape = (
            make_tape(self.here.clock, self.recorder, self.context, HOST) if records else None
        )
        self.audit = kept_audit()
        self.ending = SessionEnding(self.here.clock, granted)
        self.behind = RemoteTarget(self.here.clock, "db1", self._connect)
        self.slots = Slots(waiting=2)
        self.forwards = RemoteForwards(
            self.here.clock,
            self.context,
            self.behind,
            ForwardRecords(self.here.clock, self.context, self.audit, self.tape),
            self.ending.check,
            lambda: self.conn,
            self.slots,
        )
        self.programs_behind = RemotePrograms(
            self.here.clock, self.behind, self.context, lambda: self.forwards.agent_forwarded
        )
        self.session = AuditedSession(
            self.here.clock, self.context, self.programs_behind, self.tape, self.audit, self.ending
        )
        self.near = self.here.link(TargetConnection)
        self.conn = self.near.server.service

    def _connect(self) -> Deferred[Any]:
        if self.problem is not None:
            return fail(self.problem)
        self._connecting.append(Deferred())
        return self._connecting[-1]

    def connect(self) -> ChannelEnds:
        """Connect to the target before a session does."""
        self.behind.connection()
        self.settle()
        return self.far

    @property
    def far(self) -> ChannelEnds:
        """The connection to the target."""
        return self.fars[-1]

    @property
    def programs(self) -> list[HeldProgram]:
        """What the target has started."""
        started: list[HeldProgram] = self.target.programs.started
        return started

    def permit(self, **grant: Any) -> None:
        """Change the user's grant."""
        self.context.grant = changed(self.context.grant, **grant)
        self.target.permissions = Permissions(max_sessions=self.context.grant.max_sessions)

    def settle(self) -> None:
        """Carry bytes on all connections until there is nothing to do."""
        for _ in range(100_000):
            moved = self.near.turn()
            while self._connecting:
                moved = True
                self.fars.append(self.target.link(lambda: TargetConnection(self.budget)))
                self._connecting.pop(0).callback(self.far.client.service)
            for far in list(self.fars):
                moved = far.turn() or moved
            if not moved:
                return
        raise AssertionError("there is no end to it")

    def open(self, channel: Any, extra: bytes = b"") -> Any:
        """Open a channel of the client's."""
        self.near.client.service.openChannel(channel, extra)
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

    def named(self, name: str) -> list[dict[str, Any]]:
        """The fields of the events of a name."""
        return [fields for each, fields in self.audit.events if each == name]

    def frames(self, kind: FrameKind) -> list[Frame]:
        """What was recorded of a kind."""
        return [frame for frame in self.recorder.frames if frame.kind is kind]

    def notes(self, kind: FrameKind) -> list[dict[str, Any]]:
        """What frames of a kind say."""
        return [dict(details(frame)) for frame in self.frames(kind)]

    def close(self) -> None:
        self.forwards.close()
        for program in self.programs:
            program.finish()
        for ends in (self.near, *self.fars):
            ends.client_link.close()


def queued(ends: ChannelEnds) -> list[int]:
    """Bytes that wait on each channel of the client's end."""
    return [len(channel._queue) for channel in ends.client.service.channels.values()]
