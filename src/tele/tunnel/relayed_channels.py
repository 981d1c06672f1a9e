"""How does a visitor's channel get to a node, over an SSH connection between members?

Invariants:

* An opening has its time, and ends in a channel or in a sentence that names the node.
* What a node refuses a visitor with, the visitor reads.
"""

from __future__ import annotations

from typing import Any, Final

from twisted.conch.error import ConchError
from twisted.internet.defer import CancelledError, Deferred, fail
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.error import ConnectionLost
from twisted.internet.interfaces import IProtocol
from twisted.python.failure import Failure

from tele.conch.connection.channel import Channel
from tele.conch.connection.connection import SSHConnection
from tele.conch.connection.splice import open_splice
from tele.conch.connection.stream import open_stream
from tele.errors import Unreachable
from tele.tunnel.messages import LEAVING, TUNNEL, VISITOR, Visitor

#: How long a node has to take a visitor in, in seconds.
OPEN_SECONDS: Final = 10.0
#: Visitors of one node through one tunnel, and everything else on it.
CHANNELS_LIMIT: Final = 4096
#: Visitors of all nodes between two proxies.
PEER_CHANNELS_LIMIT: Final = 16 * CHANNELS_LIMIT


class MemberConnection(SSHConnection):
    """The connection service between members: global requests of ours reach the avatar, which
    may have ``channels_limit``.

    An avatar may also say why it may not have another channel (``may_open()``, or nothing), and
    is told then how many there are (``has_channels(count)``), those that are opened included.
    """

    channels_limit = CHANNELS_LIMIT

    def serviceStarted(self) -> None:
        """See :class:`SSHConnection`."""
        super().serviceStarted()
        self.channels_limit = getattr(self.transport.avatar, "channels_limit", CHANNELS_LIMIT)

    def _may_open(self, kind: bytes) -> str | None:
        problem = super()._may_open(kind)
        may_open = getattr(self.transport.avatar, "may_open", None)
        if problem is None and may_open is not None:
            problem = may_open() or None
            if problem is None:
                self._count_channels(1)
        return problem

    def _not_opened(self, failure: Failure, sender: int, is_session: bool) -> None:
        super()._not_opened(failure, sender, is_session)
        self._count_channels()

    def _close_channel(self, channel: Any) -> None:
        super()._close_channel(channel)
        self._count_channels()

    def _count_channels(self, more: int = 0) -> None:
        tell = getattr(self.transport.avatar, "has_channels", None)
        if tell is not None:
            tell(len(self.channels) + self._opening + more)

    def gotGlobalRequest(self, requestType: bytes, data: bytes) -> Any:
        """See :class:`SSHConnection`."""
        if requestType in (TUNNEL, LEAVING):
            return self.transport.avatar.gotGlobalRequest(requestType, data)
        return super().gotGlobalRequest(requestType, data)


def pass_on(connection: Any, visitor: Visitor, name: str, **near: Any) -> Deferred[Channel]:
    """Open a channel for ``visitor`` of the node ``name``, spliced to one that a peer asks for.

    ``near`` is what :func:`open_splice` needs to know of that one. Fails with
    :class:`Unreachable`, or with the node's own ``ConchError``; can be cancelled.
    """
    if _is_full(connection):
        return _too_many(name)
    opening: Deferred[Any] = open_splice(connection, VISITOR, visitor.encode(), **near)
    return _in_time(opening, connection, name)


def speak_to(
    connection: Any, visitor: Visitor, name: str, protocol: IProtocol
) -> Deferred[IProtocol]:
    """Open a channel for ``visitor`` of the node ``name`` and connect ``protocol`` to it."""
    if _is_full(connection):
        return _too_many(name)
    opening: Deferred[Any] = open_stream(connection, VISITOR, visitor.encode(), protocol)
    return _in_time(opening, connection, name)


def _is_full(connection: Any) -> bool:
    # A peer that never answers has all channels that it was asked for.
    return bool(len(connection.channels) >= connection.channels_limit)


def _too_many(name: str) -> Deferred[Any]:
    return fail(Unreachable(f"node {name} has too many visitors on this way; try again later"))


def _in_time(opening: Deferred[Any], connection: Any, name: str) -> Deferred[Any]:
    opening.addTimeout(OPEN_SECONDS, connection.transport.clock)
    return opening.addErrback(_explained, name)


def _explained(failure: Failure, name: str) -> Failure:
    error = failure.value
    if isinstance(error, CancelledError):
        return failure
    if isinstance(error, DeferredTimeout):
        raise Unreachable(
            f"node {name} did not answer within {OPEN_SECONDS:.0f} s; is its network down?"
        ) from None
    if isinstance(error, ConnectionLost) or not isinstance(error, ConchError | Unreachable):
        raise Unreachable(f"the tunnel of node {name} broke; try again") from None
    return failure
