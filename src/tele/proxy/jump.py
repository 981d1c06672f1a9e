"""Who may go through the proxy, and where to? The jump host.

A visitor says where by opening ``direct-tcpip`` (``ssh -J``), or by asking a session for the
subsystem ``proxy:HOST:PORT`` (``ssh -s``).

Laws of this file:

* Nobody logs in here: the only thing that a visitor gets is a way to a node's SSH.
* Who may not log in to a node at all cannot even dial it; unknown, ambiguous, offline and
  denied are four different answers.
* What one person uses over all connections is bounded (:mod:`tele.proxy.people`).
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any, Final

from twisted.conch.avatar import ConchUser
from twisted.internet.defer import CancelledError, Deferred, fail
from twisted.python.failure import Failure

from tele.conch.backlog import Backlog
from tele.conch.channel import Answer, Channel, read_all
from tele.conch.credentials import CertificateCredentials
from tele.conch.forwarding import read_request
from tele.conch.refusals import refusal, terminal_lines
from tele.conch.relay import RelayChannel, StreamEnd
from tele.conch.windows import WindowBudget
from tele.errors import AccessDenied, InvalidInput, TeleError, Unavailable, Unreachable
from tele.https.blocking import PORT_DIGITS, split_address
from tele.loop import make_logger
from tele.model.api.members import ClusterState
from tele.model.identity import UserIdentity
from tele.model.presence import Host
from tele.model.resources import Role
from tele.proxy.index import NodeIndex, check_online
from tele.proxy.people import People
from tele.proxy.ways import Ways
from tele.rbac.decision import locked, may_reach
from tele.tunnel.acceptor import Tunnels

log = make_logger(__name__)

#: What clients say when they mean a node's SSH, beside the port that it has.
SSH_PORTS: Final = frozenset({22, 3022})
SUBSYSTEM: Final = "proxy"
STDERR: Final = 1
FAILED_STATUS: Final = 255

#: Characters of what a visitor calls a node.
TARGET_LIMIT: Final = 255
#: Denials of one person in the audit in one go, and how many more each second.
DENIED_BURST: Final = 20.0
DENIED_PER_SECOND: Final = 1.0

Denied = Callable[["Visitor", str, TeleError], None]


class Jump:
    """Finds nodes for users of the cluster.

    ``denied(visitor, target, error)`` hears of everybody who may not go where they want.
    """

    def __init__(
        self,
        state: Callable[[], ClusterState],
        now: Callable[[], datetime],
        index: NodeIndex,
        tunnels: Tunnels,
        ways: Ways,
        denied: Denied,
        people: People,
        seconds: Callable[[], float],
    ) -> None:
        self._ways = ways
        self._seconds = seconds
        self.people = people
        self._denied = denied
        self._state = state
        self._now = now
        self._index = index
        self._tunnels = tunnels
        self._roles: tuple[ClusterState | None, dict[str, Role]] = (None, {})

    def admit(self, credentials: CertificateCredentials) -> Visitor:
        """Admit whoever is not locked; where they may go is asked when they go.

        Nobody while sessions are to be recorded in a way that this proxy does not know.
        """
        if problem := self._state().recording.problem:
            raise Unavailable(
                "this proxy cannot record sessions as the cluster says, and lets nobody through:"
                f" {problem}"
            )
        identity = credentials.checked.identity
        lock = locked(self._state().locks, identity, self._now())
        if lock is not None:
            said = lock.spec.message or lock.metadata.name
            raise AccessDenied(f"{identity.user} is locked: {said}", "locked")
        visitor = Visitor(self, identity, credentials.remote_addr)
        self.people.enter(identity.user, visitor)
        visitor.window_budget = self.people.window_budget(identity.user)
        return visitor

    def find(self, visitor: Visitor, wanted: str, port: int) -> Host:
        """Return the node that is meant. Raises a :class:`TeleError` with the answer."""
        try:
            return self._find(visitor, wanted, port)
        except AccessDenied as error:
            self._denied(visitor, wanted, error)
            raise

    def open(self, visitor: Visitor, host: Host, **near: Any) -> Deferred[Channel]:
        """Open a way for a channel of the visitor's; see :meth:`Ways.open`."""
        return self._begin(visitor, lambda: self._ways.open(host, visitor.remote_addr, **near))

    def connect(self, visitor: Visitor, host: Host) -> Deferred[StreamEnd]:
        """Open a way to ``host``; see :meth:`Ways.connect`."""
        return self._begin(visitor, lambda: self._ways.connect(host, visitor.remote_addr))

    def _begin(self, visitor: Visitor, start: Callable[[], Deferred[Any]]) -> Deferred[Any]:
        opening = start()
        visitor.opening.add(opening)

        def ended(result: Any) -> Any:
            visitor.opening.discard(opening)
            if isinstance(result, Failure) and result.check(CancelledError):
                raise Unreachable("the visitor left") from None
            return result

        return opening.addBoth(ended)

    def _find(self, visitor: Visitor, wanted: str, port: int) -> Host:
        state = self._state()
        if self._roles[0] is not state:
            self._roles = (state, {role.metadata.name: role for role in state.roles})
        roles = self._roles[1]

        def denied(host: Host) -> Any:
            self.people.decides(visitor.identity.user, self._seconds())
            return may_reach(
                visitor.identity, host.labels, roles, state.locks, self._now(), host.id
            )

        if len(wanted) > TARGET_LIMIT:
            raise InvalidInput(f"a node has no name of more than {TARGET_LIMIT} characters")
        host = self._index.find(wanted, lambda host: denied(host) is None)
        problem = denied(host)
        if problem is not None:
            raise AccessDenied(f"denied: {problem.message}", problem.reason.value)
        ports = {split_address(address)[1] for address in host.addresses} | SSH_PORTS
        if port not in ports:
            raise InvalidInput(
                f"the proxy reaches SSH of {host.name} and no other port: not {port}"
            )
        # A tunnel that is here proves more than what auth heard last.
        return host if self._tunnels.get(host.id) is not None else check_online(host)


class Visitor(ConchUser):
    """One who passes through. ``remote_addr`` is (host, port)."""

    def __init__(self, jump: Jump, identity: UserIdentity, remote_addr: tuple[str, int]) -> None:
        super().__init__()
        self.identity = identity
        self.remote_addr = remote_addr
        self.jump = jump
        #: What the windows of all connections of this person may have together.
        self.window_budget: WindowBudget | None = None
        #: Ways that are being opened; nobody needs them when the visitor has left.
        self.opening: set[Deferred[Any]] = set()
        self.channelLookup = {b"direct-tcpip": _open_jump, b"session": JumpSession}

    def gotGlobalRequest(self, requestType: bytes, data: bytes) -> int:
        """There is nothing to ask of a jump host."""
        return 0

    def may_open(self) -> str:
        """See :class:`MemberConnection`."""
        return self.jump.people.may_open(self.identity.user)

    def has_channels(self, count: int) -> None:
        """See :class:`MemberConnection`."""
        self.jump.people.has_channels(self.identity.user, self, count)

    def left(self) -> None:
        """The connection is gone; its channels are closed with it."""
        self.jump.people.leave(self.identity.user, self)
        for opening in list(self.opening):
            opening.cancel()


def _open_jump(
    remoteWindow: int, remoteMaxPacket: int, data: bytes, avatar: Visitor
) -> Deferred[Channel]:
    request = read_request(data)
    try:
        host = avatar.jump.find(avatar, request.host, request.port)
    except TeleError as error:
        return fail(error)
    return avatar.jump.open(
        avatar,
        host,
        remoteWindow=remoteWindow,
        remoteMaxPacket=remoteMaxPacket,
        avatar=avatar,
    )


def read_target(subsystem: bytes) -> tuple[str, int]:
    """Read ``proxy:HOST:PORT``. Raises :class:`InvalidInput`."""
    kind, _, target = subsystem.decode("utf-8", "replace").partition(":")
    host, _, port = target.rpartition(":")
    # A client in front of whose node's cluster another name stands: Teleport's @cluster.
    is_number = port.isascii() and port.isdigit() and len(port) <= PORT_DIGITS
    if kind != SUBSYSTEM or not host or not is_number:
        raise InvalidInput("a jump host has no sessions but the subsystem proxy:HOST:PORT")
    return host, int(port)


class JumpSession(RelayChannel):
    """A session that becomes a way to a node when it is asked for one."""

    name = b"session"

    def __init__(self, **named: Any) -> None:
        # Nothing is sent to it before there is a stream; see ``request_answered``.
        super().__init__(StreamEnd(), **named)
        self._finding: Deferred[Any] | None = None
        self._found: StreamEnd | None = None
        self._early = Backlog()
        self._asked = False
        self._problem = ""
        self._connected = False

    def channelOpen(self, specificData: bytes) -> None:
        """Nothing begins before it is asked for."""

    def openFailed(self, reason: Any) -> None:
        """The visitor left before the session was theirs."""

    def request_env(self, data: bytes) -> Answer:
        """Clients send variables along; nobody here needs them."""
        return False

    def request_subsystem(self, data: bytes) -> Answer:
        """Find the node, and a way to it."""
        words = read_all(data, lambda r: r.string())
        if self._asked:
            return False
        self._asked = True
        avatar: Any = self.avatar
        try:
            host = avatar.jump.find(avatar, *read_target(words))
        except TeleError as error:
            self._problem = str(error)
            return True
        self._finding = avatar.jump.connect(avatar, host)
        return self._finding.addCallbacks(self._has_found, self._has_not_found)

    def request_shell(self, data: bytes) -> Answer:
        """Nobody logs in here, and is told so."""
        return self.request_exec(data)

    def request_exec(self, data: bytes) -> Answer:
        """Nobody logs in here, and is told so."""
        if self._asked:
            return False
        self._asked = True
        self._problem = "this is a proxy: use it with ssh -J, or as tele config sets it up"
        return True

    def _has_found(self, stream: StreamEnd) -> bool:
        if not self.is_open:
            stream.close(self.conn.transport.clock)
            return False
        self._found = stream
        return True

    def _has_not_found(self, failure: Any) -> bool:
        _, self._problem = refusal(failure)
        return True

    def request_answered(self) -> None:
        """The answer is on its way: so may be what follows it."""
        if self._connected or not self.is_open:
            return
        if self._problem:
            self._connected = True
            self.writeExtended(STDERR, terminal_lines(self._problem))
            status = FAILED_STATUS.to_bytes(4, "big")
            self.conn.sendRequest(self, b"exit-status", status)
            self.loseConnection()
        elif self._found is not None:
            self._connected = True
            self._stream = self._found
            self._stream.attach(self)
            self._pass_on_early()

    def _pass_on_early(self) -> None:
        early = self._early
        while early:
            view, _ = early.first(self.localMaxPacket)
            with view:
                size = len(view)
                super().data_view(view)
            early.drop(size)
        if self.remote_eof:
            super().eofReceived()

    def data_view(self, view: memoryview) -> None:
        """Pass it on, or keep it until there is a way; the window bounds it."""
        if self._problem:
            self.consumed(len(view))
        elif self._connected:
            super().data_view(view)
        else:
            self._early.append(view)

    def eofReceived(self) -> None:
        """The visitor sends no more."""
        if self._connected and not self._problem:
            super().eofReceived()

    def window_opened(self) -> None:
        """There is credit again."""
        if self._connected and not self._problem:
            super().window_opened()
        else:
            Channel.window_opened(self)

    def closed(self) -> None:
        """The channel is gone."""
        self._early.clear()
        if self._connected and not self._problem:
            super().closed()
        else:
            Channel.closed(self)
            if self._finding is not None:
                self._finding.cancel()
            if self._found is not None:
                self._found.close(self.conn.transport.clock)
