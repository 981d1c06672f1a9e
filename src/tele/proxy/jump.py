"""Who may go through the proxy, and where to? The jump host.

A visitor says where by opening ``direct-tcpip`` (``ssh -J``), or by asking a session for the
subsystem ``proxy:HOST:PORT`` (``ssh -s``).

Invariants:

* Nobody logs in here: the only thing that a visitor gets is a way to a node's SSH.
* Who may not log in to a node at all cannot even dial it; unknown, ambiguous, offline and
  denied are four different answers.
* What one person uses over all connections is bounded (:mod:`tele.proxy.user_limits`).
* Who may not go there any more does not stay: if one of the nodes that a connection leads to is
  denied to its visitor, the whole connection ends, with the reason.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final
from weakref import WeakKeyDictionary

from attrs import evolve
from twisted.conch.avatar import ConchUser
from twisted.internet.defer import CancelledError, Deferred, fail
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure
from zope.interface import implementer

from tele.audit.lines import log_line
from tele.certs.check import LATEST
from tele.conch.connection.backlog import Backlog
from tele.conch.connection.channel import Answer, Channel, read_all
from tele.conch.connection.refusals import refusal, terminal_lines
from tele.conch.connection.relay import RelayChannel, StreamEnd
from tele.conch.connection.windows import ISharedWindows, WindowBudget
from tele.conch.forwarding.local import read_request
from tele.conch.server.credentials import CertificateCredentials
from tele.errors import AccessDenied, InvalidInput, TeleError, Unavailable, Unreachable
from tele.log import make_logger
from tele.loop import Expiry, now
from tele.membership.reviewing import Review
from tele.model import access
from tele.model.addresses import PORT_DIGITS, Address
from tele.model.api.members import ClusterState
from tele.model.identity import UserIdentity
from tele.model.presence import Host
from tele.proxy.user_limits import People
from tele.rbac.policy import Policy
from tele.routing.dialer import NodeDialer
from tele.routing.index import NodeIndex, check_online
from tele.tunnel.acceptor import Tunnels

log = make_logger(__name__)

#: What clients say when they mean a node's SSH, beside the port that it has.
SSH_PORTS: Final = frozenset({22, 3022})
SUBSYSTEM: Final = "proxy"
STDERR: Final = 1
FAILED_STATUS: Final = 255

#: Characters of what a visitor calls a node.
TARGET_LIMIT: Final = 255
#: Seconds that nodes have to end what somebody runs there, before their way there ends.
NODES_FIRST: Final = 1.5
#: Denials of one person in the audit in one go, and how many more each second.
DENIED_BURST: Final = 20.0
DENIED_PER_SECOND: Final = 1.0
#: Nodes that the line about the end of a connection names.
VISITED_LIMIT: Final = 16

Denied = Callable[["Visitor", str, TeleError], None]


class Jump:
    """Finds nodes for users of the cluster.

    ``denied(visitor, target, error)`` hears of everybody who may not go where they want, and
    ``ended(visitor, denied)`` of those who may not stay.
    """

    def __init__(
        self,
        clock: IReactorTime,
        state: Callable[[], ClusterState],
        policy: Callable[[], Policy],
        index: NodeIndex,
        tunnels: Tunnels,
        ways: NodeDialer,
        denied: Denied,
        ended: Callable[[Visitor, access.Denied], None],
        people: People,
    ) -> None:
        self._ways = ways
        self.people = people
        self._denied = denied
        self._ended = ended
        self._clock = clock
        self._state = state
        self._policy = policy
        self._index = index
        self._tunnels = tunnels
        #: Who passes through now.
        self.present: set[Visitor] = set()
        self._review = Review(clock, state, policy, lambda: self.present, self._again)

    def seconds(self) -> float:
        """Return the time by a clock that is never set."""
        return self._clock.seconds()

    def look(self) -> None:
        """The cluster's state may have changed: who may stay?"""
        self._review.check()

    def stop(self) -> None:
        """Ask about nobody any more."""
        self._review.stop()

    def admit(self, credentials: CertificateCredentials) -> Visitor:
        """Admit whoever the cluster knows and nobody locks; where they may go is asked when they
        go, and both again when the rules change.

        Nobody while sessions are to be recorded in a way that this proxy does not know.
        """
        if problem := self._state().recording.problem:
            raise Unavailable(
                "this proxy cannot record sessions as the cluster says, and lets nobody through:"
                f" {problem}"
            )
        identity = credentials.checked.identity
        refused = self._policy().refuses_user(identity, now(self._clock))
        if refused is not None:
            raise AccessDenied(refused.message, refused.reason.value)
        expiry = Expiry(self._clock, identity.expires)
        visitor = Visitor(self, identity, expiry, credentials.remote_addr)
        self.people.enter(identity.user, visitor)
        visitor.window_budget = self.people.window_budget(identity.user)
        visitor.keepalive_interval = self._keepalive(visitor)
        self.present.add(visitor)
        log_line("connection.start", **visitor.told)
        return visitor

    def _again(self, visitor: Visitor) -> None:
        """Decide about a visitor who is here, and about each node that they go to."""
        if visitor not in self.present:
            return  # they left meanwhile
        policy, moment = self._policy(), now(self._clock)
        # The end of their certificate is not their end.
        identity = evolve(visitor.identity, expires=LATEST)
        refused = policy.refuses_user(identity, moment)
        interval, visitor.keepalive_interval = visitor.keepalive_interval, self._keepalive(visitor)
        if interval != visitor.keepalive_interval:
            visitor.watch()
        # A node that is locked is cut off itself, and tells nobody anything.
        node_tells = True
        for host in visitor.goes_to():
            here = self._index.get(host.id) or host
            refused = refused or policy.may_reach(identity, here.labels, moment, host.id)
            node_tells = node_tells and policy.locks_host(host.id, moment) is None
        if refused is not None and not visitor.is_leaving:
            self._ended(visitor, refused)
            visitor.expel(refused, self._clock, NODES_FIRST if node_tells else 0.0)

    def _keepalive(self, visitor: Visitor) -> float:
        moment = now(self._clock)
        return self._policy().client_keepalive(visitor.identity, moment).total_seconds()

    def find(self, visitor: Visitor, wanted: str, port: int) -> Host:
        """Return the node that is meant. Raises a :class:`TeleError` with the answer."""
        try:
            return self._find(visitor, wanted, port)
        except AccessDenied as error:
            self._denied(visitor, wanted, error)
            raise

    def open(self, visitor: Visitor, host: Host, **near: Any) -> Deferred[Channel]:
        """Open a way for a channel of the visitor's; see :meth:`NodeDialer.open`."""
        return self._begin(
            visitor, host, lambda: self._ways.open(host, visitor.remote_addr, **near)
        )

    def connect(self, visitor: Visitor, host: Host) -> Deferred[StreamEnd]:
        """Open a way to ``host``; see :meth:`NodeDialer.connect`."""
        return self._begin(visitor, host, lambda: self._ways.connect(host, visitor.remote_addr))

    def _begin(
        self, visitor: Visitor, host: Host, start: Callable[[], Deferred[Any]]
    ) -> Deferred[Any]:
        opening = start()
        visitor.opening[opening] = host

        def ended(result: Any) -> Any:
            del visitor.opening[opening]
            if isinstance(result, Failure) and result.check(CancelledError):
                raise Unreachable("the visitor left") from None
            if not isinstance(result, Failure):
                visitor.ways[result] = host
                if len(visitor.visited) < VISITED_LIMIT:
                    visitor.visited.add(host.name)
            return result

        return opening.addBoth(ended)

    def _find(self, visitor: Visitor, wanted: str, port: int) -> Host:
        policy, moment = self._policy(), now(self._clock)
        if visitor.expiry.has_passed:
            moment = max(moment, visitor.identity.expires)

        def denied(host: Host) -> access.Denied | None:
            self.people.decides(visitor.identity.user, self._clock.seconds())
            return policy.may_reach(visitor.identity, host.labels, moment, host.id)

        if len(wanted) > TARGET_LIMIT:
            raise InvalidInput(f"a node has no name of more than {TARGET_LIMIT} characters")
        host = self._index.find(wanted, lambda host: denied(host) is None)
        problem = denied(host)
        if problem is not None:
            raise AccessDenied(f"denied: {problem.message}", problem.reason.value)
        ports = {Address.parse(address).port for address in host.addresses} | SSH_PORTS
        if port not in ports:
            raise InvalidInput(
                f"the proxy reaches SSH of {host.name} and no other port: not {port}"
            )
        # A tunnel that is here proves more than what auth heard last.
        return host if self._tunnels.get(host.id) is not None else check_online(host)


@implementer(ISharedWindows)
class Visitor(ConchUser):
    """One who passes through. ``remote_addr`` is (host, port)."""

    def __init__(
        self, jump: Jump, identity: UserIdentity, expiry: Expiry, remote_addr: tuple[str, int]
    ) -> None:
        super().__init__()
        self.identity = identity
        #: Of their certificate: after it they go nowhere else.
        self.expiry = expiry
        self.remote_addr = remote_addr
        self.jump = jump
        #: What the windows of all connections of this person may have together.
        self.window_budget: WindowBudget | None = None
        #: See :mod:`tele.conch.transport.keepalive`.
        self.keepalive_interval = 0.0
        #: Ways that are being opened; nobody needs them when the visitor has left.
        self.opening: dict[Deferred[Any], Host] = {}
        #: Channels and streams to nodes, as long as they are there.
        self.ways: WeakKeyDictionary[Any, Host] = WeakKeyDictionary()
        #: Names of nodes that they went to.
        self.visited: set[str] = set()
        self._since = jump.seconds()
        #: Whether their end is decided.
        self.is_leaving = False
        self._leaving: IDelayedCall | None = None
        #: Why they may not be here any more, or nothing.
        self._why = ""
        self.channelLookup = {b"direct-tcpip": _open_jump, b"session": JumpSession}

    @property
    def told(self) -> dict[str, str]:
        """Who they are, for the log."""
        return {
            "user": self.identity.user,
            "remote_addr": str(Address(*self.remote_addr)),
            "login_session": self.identity.login_session,
        }

    def gotGlobalRequest(self, requestType: bytes, data: bytes) -> int:
        """There is nothing to ask of a jump host."""
        return 0

    def may_open(self) -> str:
        """See :class:`MemberConnection`."""
        return self.jump.people.may_open(self.identity.user)

    def has_channels(self, count: int) -> None:
        """See :class:`MemberConnection`."""
        self.jump.people.has_channels(self.identity.user, self, count)

    def goes_to(self) -> list[Host]:
        """Return the nodes that they have a way to, or are about to have."""
        open_ways = [host for way, host in self.ways.items() if _is_there(way)]
        return [*self.opening.values(), *open_ways]

    def expel(self, denied: access.Denied, clock: IReactorTime, seconds: float) -> None:
        """They may not be here any more: all their ways end, and they are told why.

        The nodes have some ``seconds`` to do that first: only they can tell it on a terminal.
        """
        self.is_leaving = True
        self._why = denied.message
        if seconds:
            self._leaving = clock.callLater(seconds, self._evict, denied.message)
        else:
            self._evict(denied.message)

    def watch(self) -> None:
        """How long they may be silent is another time now."""
        connection: Any = self.conn
        if connection is not None:
            connection.transport.watch_peer()

    def _evict(self, why: str) -> None:
        connection: Any = self.conn
        if connection is not None:
            connection.transport.evict(why)

    def left(self) -> None:
        """The connection is gone; its channels are closed with it."""
        self.jump.present.discard(self)
        nodes = ",".join(sorted(self.visited))
        lasted = round(self.jump.seconds() - self._since, 3)
        log_line("connection.end", **self.told, nodes=nodes, seconds=lasted, error=self._why)
        if self._leaving is not None and self._leaving.active():
            self._leaving.cancel()
        self.jump.people.leave(self.identity.user, self)
        for opening in list(self.opening):
            opening.cancel()


def _is_there(way: Any) -> bool:
    """Whether a channel, or a stream, has not ended."""
    return bool(getattr(way, "is_open", True)) and not getattr(way, "lost", False)


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
