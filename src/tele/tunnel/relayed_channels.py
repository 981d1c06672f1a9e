"""How is a client's channel opened on an SSH connection between members?

Invariants:

* Opening has a time limit, and ends in a channel or in an error that names the node.
* The client gets the refusal of the node.
"""

from __future__ import annotations

from typing import Any, Final, TypeVar

from twisted.conch.avatar import ConchUser
from twisted.conch.error import ConchError
from twisted.conch.ssh.channel import SSHChannel
from twisted.internet.defer import CancelledError, Deferred, fail
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.error import ConnectionLost
from twisted.internet.interfaces import IProtocol
from twisted.python.failure import Failure

from tele.conch.connection.channel import Channel
from tele.conch.connection.connection import SSHConnection
from tele.conch.connection.refusals import UNKNOWN_CHANNEL_TYPE, ChannelRefused
from tele.conch.connection.splice import open_splice
from tele.conch.connection.stream import open_stream
from tele.errors import Unreachable
from tele.tunnel.messages import CLIENT, LEAVING, TUNNEL, ClientAddress
from tele.tunnel.versions import advice

#: How long a node has to confirm a client's channel, in seconds.
OPEN_SECONDS: Final = 10.0
#: Channels of one tunnel: those of clients and all others.
CHANNELS_LIMIT: Final = 4096
#: Channels between two proxies, for the clients of all nodes.
PEER_CHANNELS_LIMIT: Final = 16 * CHANNELS_LIMIT

P = TypeVar("P", bound=IProtocol)


class MemberAvatar(ConchUser):
    """What logs in to a proxy: a user, a node or another proxy."""

    channels_limit = CHANNELS_LIMIT

    def gotGlobalRequest(self, requestType: bytes, data: bytes) -> int:
        """Refuse all global requests."""
        return 0

    def may_open(self) -> str:
        """Return why another channel is refused, or nothing."""
        return ""

    def set_channels(self, count: int) -> None:
        """There are so many channels now, those being opened included."""

    def logout(self) -> None:
        """The connection is gone; its channels are closed with it."""


class MemberConnection(SSHConnection):
    """The connection service of a proxy, for a :class:`MemberAvatar`."""

    channels_limit = CHANNELS_LIMIT

    @property
    def _avatar(self) -> MemberAvatar:
        avatar: MemberAvatar = self.transport.avatar
        return avatar

    def serviceStarted(self) -> None:
        """See :class:`SSHConnection`."""
        super().serviceStarted()
        self.channels_limit = self._avatar.channels_limit

    def _may_open(self, kind: bytes) -> str | None:
        problem = super()._may_open(kind) or self._avatar.may_open() or None
        if problem is None:
            self._count_channels(1)
        return problem

    def _not_opened(self, failure: Failure, sender: int, is_session: bool) -> None:
        super()._not_opened(failure, sender, is_session)
        self._count_channels()

    def _close_channel(self, channel: SSHChannel) -> None:
        super()._close_channel(channel)
        self._count_channels()

    def _count_channels(self, more: int = 0) -> None:
        self._avatar.set_channels(len(self.channels) + self._opening + more)

    def gotGlobalRequest(self, requestType: bytes, data: bytes) -> Any:
        """See :class:`SSHConnection`."""
        if requestType in (TUNNEL, LEAVING):
            return self._avatar.gotGlobalRequest(requestType, data)
        return super().gotGlobalRequest(requestType, data)


def open_client_splice(
    connection: SSHConnection, client: ClientAddress, name: str, **peer: Any
) -> Deferred[Channel]:
    """Open a channel for ``client`` to the node ``name``, spliced to one that a peer requests.

    ``peer`` are the arguments of :func:`open_splice` about the latter. Fails with
    :class:`Unreachable`, or with the node's own ``ConchError``; can be cancelled.
    """
    if _is_full(connection):
        return _channels_exhausted(name)
    opening: Deferred[Any] = open_splice(connection, CLIENT, client.encode(), **peer)
    return _with_timeout(opening, connection, name)


def open_client_stream(
    connection: SSHConnection, client: ClientAddress, name: str, protocol: P
) -> Deferred[P]:
    """Open a channel for ``client`` to the node ``name``, and connect ``protocol`` to it."""
    if _is_full(connection):
        return _channels_exhausted(name)
    opening: Deferred[Any] = open_stream(connection, CLIENT, client.encode(), protocol)
    return _with_timeout(opening, connection, name)


def _is_full(connection: SSHConnection) -> bool:
    # Channels that the peer has not confirmed count, too.
    return len(connection.channels) >= connection.channels_limit


def _channels_exhausted(name: str) -> Deferred[Any]:
    return fail(Unreachable(f"node {name} has too many channels on this tunnel; try again later"))


def _with_timeout(opening: Deferred[Any], connection: SSHConnection, name: str) -> Deferred[Any]:
    opening.addTimeout(OPEN_SECONDS, connection.transport.clock)
    return opening.addErrback(_explained, name, connection)


def _explained(failure: Failure, name: str, connection: SSHConnection) -> Failure:
    error = failure.value
    if isinstance(error, ChannelRefused) and error.data == UNKNOWN_CHANNEL_TYPE:
        line = connection.transport.otherVersionString
        raise Unreachable(
            f"the tunnel of node {name} takes no channels of this version"
            f"{advice('other side of the tunnel', line, 'proxy')}"
        ) from None
    if isinstance(error, CancelledError):
        return failure
    if isinstance(error, DeferredTimeout):
        raise Unreachable(
            f"node {name} did not answer within {OPEN_SECONDS:.0f} s; is its network down?"
        ) from None
    if isinstance(error, ConnectionLost) or not isinstance(error, ConchError | Unreachable):
        raise Unreachable(f"the tunnel of node {name} broke; try again") from None
    return failure
