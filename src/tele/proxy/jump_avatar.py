"""What may a user do on a connection to the jump host?

A client names a node by opening ``direct-tcpip`` (``ssh -J``), or by requesting the subsystem
``proxy:HOST:PORT`` of a session (``ssh -s``).

Invariants:

* The only thing that a client gets is a connection to a node's SSH server.
* A connection attempt ends with the client's connection.
* A user who may no longer have a connection loses it, with the reason.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Protocol
from weakref import WeakKeyDictionary

from attrs import frozen
from twisted.internet.defer import CancelledError, Deferred, fail
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure
from zope.interface import implementer

from tele.audit.lines import log_line
from tele.conch.connection.channel import Channel
from tele.conch.connection.relay import StreamEnd
from tele.conch.connection.windows import ISharedWindows, WindowBudget
from tele.conch.forwarding.local import read_request
from tele.errors import AccessDenied, TeleError, Unreachable
from tele.loop import Expiry
from tele.model import access
from tele.model.addresses import Address
from tele.model.identity import UserIdentity
from tele.model.joining import join_login
from tele.model.presence import Host
from tele.proxy.jump_session import JumpSession
from tele.proxy.user_limits import UserUsage
from tele.routing.finder import NodeFinder
from tele.tunnel.relayed_channels import MemberAvatar

#: Nodes that the log line about the end of a connection names.
LOGGED_NODES_LIMIT: Final = 16


class HostRoute(Protocol):
    """How clients are connected to hosts; see :class:`tele.routing.dialer.NodeDialer`."""

    def open(self, host: Host, remote_addr: tuple[str, int], **channel: Any) -> Deferred[Channel]:
        """Return a channel to ``host``."""

    def connect(self, host: Host, remote_addr: tuple[str, int]) -> Deferred[StreamEnd]:
        """Return a stream to ``host``."""


class JumpConnection(Protocol):
    """What an avatar needs of its SSH connection."""

    transport: Any


@frozen(eq=False)
class JumpContext:
    """What all users of a proxy share.

    ``denied(avatar, target, error)`` is called for each denied target, ``logged_out(avatar)`` at
    the end of a connection.
    """

    clock: IReactorTime
    finder: NodeFinder
    dialer: HostRoute
    usage: UserUsage
    denied: Callable[[JumpAvatar, str, AccessDenied], None]
    logged_out: Callable[[JumpAvatar], None]


@implementer(ISharedWindows)
class JumpAvatar(MemberAvatar):
    """A user on one connection. ``remote_addr`` is (host, port)."""

    conn: JumpConnection | None = None

    def __init__(
        self,
        context: JumpContext,
        identity: UserIdentity,
        expiry: Expiry,
        remote_addr: tuple[str, int],
    ) -> None:
        super().__init__()
        self.identity = identity
        #: Of the user's certificate: no node is found after it.
        self.expiry = expiry
        self.remote_addr = remote_addr
        #: What the windows of all connections of the user may have together.
        self.window_budget: WindowBudget | None = context.usage.add_connection(identity.user, self)
        #: See :mod:`tele.conch.transport.keepalive`.
        self.keepalive_interval = 0.0
        #: The id of the session that the client's user name means, if it means one.
        self.joins = ""
        #: Whether it is decided that the connection ends.
        self.is_ending = False
        self._context = context
        #: Connections to nodes that are being opened, and those that are open.
        self._opening: dict[Deferred[Any], Host] = {}
        self._open: WeakKeyDictionary[Any, Host] = WeakKeyDictionary()
        self._node_names: set[str] = set()
        self._since = context.clock.seconds()
        self._eviction: IDelayedCall | None = None
        self._error = ""
        self.channelLookup = {b"direct-tcpip": _open_direct_tcpip, b"session": JumpSession}
        log_line("connection.start", **self._log_fields)

    @property
    def usage(self) -> str:
        """See :class:`tele.proxy.jump_session.NodeAccess`."""
        if self.joins:
            return (
                "a proxy cannot read sessions: join one at its node, with tele join"
                f" {self.joins}, or ssh -t {join_login(self.joins)}@NODE"
            )
        return "this is a proxy: use it with ssh -J, or as tele config sets it up"

    @property
    def event_fields(self) -> dict[str, Any]:
        """See :class:`tele.membership.audit_reporter.EventSubject`."""
        return {**self._log_fields, "roles": self.identity.roles}

    @property
    def _log_fields(self) -> dict[str, Any]:
        return {
            "user": self.identity.user,
            "remote_addr": str(Address(*self.remote_addr)),
            "login_session": self.identity.login_session,
        }

    def may_open(self) -> str:
        """See :class:`MemberAvatar`."""
        return self._context.usage.may_open(self.identity.user)

    def set_channels(self, count: int) -> None:
        """See :class:`MemberAvatar`."""
        self._context.usage.set_channels(self.identity.user, self, count)

    # -- nodes ------------------------------------------------------------------------
    def find(self, target: str, port: int) -> Host:
        """Return the node that the client names. Raises a :class:`TeleError`."""
        try:
            return self._context.finder.find(self.identity, self.expiry, target, port)
        except AccessDenied as error:
            self._context.denied(self, target, error)
            raise

    def open(self, host: Host, **channel: Any) -> Deferred[Channel]:
        """Return a channel to ``host``; see :meth:`NodeDialer.open`."""
        return self._track(host, self._context.dialer.open(host, self.remote_addr, **channel))

    def connect(self, host: Host) -> Deferred[StreamEnd]:
        """Return a stream to ``host``; see :meth:`NodeDialer.connect`."""
        return self._track(host, self._context.dialer.connect(host, self.remote_addr))

    def _track(self, host: Host, opening: Deferred[Any]) -> Deferred[Any]:
        self._opening[opening] = host

        def ended(result: Any) -> Any:
            del self._opening[opening]
            if isinstance(result, Failure) and result.check(CancelledError):
                raise Unreachable("the client disconnected") from None
            if not isinstance(result, Failure):
                self._open[result] = host
                if len(self._node_names) < LOGGED_NODES_LIMIT:
                    self._node_names.add(host.name)
            return result

        return opening.addBoth(ended)

    @property
    def nodes(self) -> list[Host]:
        """The nodes that the user is connected to, or is being connected to."""
        connected = [host for each, host in self._open.items() if _is_open(each)]
        return [*self._opening.values(), *connected]

    # -- the end ----------------------------------------------------------------------
    def expel(self, denied: access.Denied, seconds: float) -> None:
        """End the connection with the reason, in so many seconds: until then the nodes may end
        their sessions, and show the reason on a terminal.
        """
        self.is_ending = True
        self._error = denied.message
        if seconds:
            self._eviction = self._context.clock.callLater(seconds, self._evict)
        else:
            self._evict()

    def _evict(self) -> None:
        if self.conn is not None:
            self.conn.transport.evict(self._error)

    def set_keepalive(self, seconds: float) -> None:
        """Change how long the client may be silent."""
        changed = seconds != self.keepalive_interval
        self.keepalive_interval = seconds
        if changed and self.conn is not None:
            self.conn.transport.watch_peer()

    def logout(self) -> None:
        """The connection is gone; its channels are closed with it."""
        clock, usage = self._context.clock, self._context.usage
        self._context.logged_out(self)
        nodes = ",".join(sorted(self._node_names))
        seconds = round(clock.seconds() - self._since, 3)
        log_line(
            "connection.end", **self._log_fields, nodes=nodes, seconds=seconds, error=self._error
        )
        if self._eviction is not None and self._eviction.active():
            self._eviction.cancel()
        usage.remove_connection(self.identity.user, self)
        for opening in list(self._opening):
            opening.cancel()


def _is_open(connection: Channel | StreamEnd) -> bool:
    return not connection.lost if isinstance(connection, StreamEnd) else connection.is_open


def _open_direct_tcpip(
    remoteWindow: int, remoteMaxPacket: int, data: bytes, avatar: JumpAvatar
) -> Deferred[Channel]:
    request = read_request(data)
    try:
        host = avatar.find(request.host, request.port)
    except TeleError as error:
        return fail(error)
    return avatar.open(
        host, remoteWindow=remoteWindow, remoteMaxPacket=remoteMaxPacket, avatar=avatar
    )
