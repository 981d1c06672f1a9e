"""How do connections to a listening socket become channels to the client?

Invariants:

* A listening socket belongs to one SSH connection, and is closed with it.
* While the client has ACCEPTED_LIMIT of these channels, no connection is accepted: connections
  wait in the kernel, whose queue has a limit.
* An accepted connection counts for the user; one that exceeds the user's limit is closed.
* A connection whose channel the client neither opens nor refuses is closed after a time-out.
"""

from __future__ import annotations

import socket as sockets
from collections.abc import Callable, Iterable
from typing import Any, Final

from attrs import define, field, frozen
from twisted.internet.interfaces import IDelayedCall, IReadDescriptor
from twisted.python.failure import Failure
from zope.interface import implementer

from tele.capacity.accepting import SHORTAGE
from tele.capacity.descriptors import Lease
from tele.conch.connection.channel_connection import ChannelConnection
from tele.conch.connection.relay import RelayChannel, RelayObserver, StreamEnd
from tele.errors import TeleError
from tele.log import make_logger
from tele.reactor import Reactor
from tele.sockets.direct import adopt

log = make_logger(__name__)

#: Channels of accepted connections, and listening sockets, of one SSH connection.
ACCEPTED_LIMIT: Final = 128
LISTENING_LIMIT: Final = 64
BACKLOG: Final = 128
#: Connections accepted in one turn of the reactor.
BATCH: Final = 16
#: Seconds until a client has to answer, and until accepting is tried again when descriptors or
#: memory are short.
ANSWER_TIMEOUT: Final = 30.0
SHORTAGE_PAUSE: Final = 1.0

#: (host, port) of the connecting peer; ("", 0) on a UNIX socket.
Peer = tuple[str, int]


@frozen
class ChannelType:
    """The type of channel that an accepted connection becomes.

    ``describe(peer)`` returns the data specific to the type, ``observe(peer)`` what is told of the
    channel. With ``once`` only the first connection is accepted.
    """

    name: bytes
    describe: Callable[[Peer], bytes]
    observe: Callable[[Peer], RelayObserver]
    once: bool = False


class AcceptedChannel(RelayChannel):
    """The channel of one accepted connection; ``ended()`` is called once, at its end."""

    def __init__(self, name: bytes, stream: StreamEnd, ended: Callable[[], None]) -> None:
        super().__init__(stream)
        self.name = name
        self._ended = ended
        self.timer: IDelayedCall | None = None

    def channelOpen(self, specificData: bytes) -> None:
        """The client opened it."""
        self._stop_waiting()
        super().channelOpen(specificData)

    def openFailed(self, reason: Any) -> None:
        """The client refused it."""
        self._stop_waiting()
        super().openFailed(reason)
        self._ended()

    def _stop_waiting(self) -> None:
        if self.timer is not None and self.timer.active():
            self.timer.cancel()

    def closed(self) -> None:
        """It is closed."""
        super().closed()
        self._ended()


class Listeners:
    """The listening sockets of one SSH connection, which ``connection()`` returns.

    ``lease()`` counts an accepted connection, or raises a :class:`TeleError` if it exceeds a limit.
    """

    def __init__(
        self,
        reactor: Reactor,
        connection: Callable[[], ChannelConnection],
        lease: Callable[[], Lease] | None = None,
    ) -> None:
        self._lease = lease
        self._reactor = reactor
        self._connection = connection
        self._entries: dict[object, _Entry] = {}
        self._accepted = 0
        self._closed = False

    @property
    def can_add(self) -> bool:
        """Whether another entry may be added."""
        return not self._closed and len(self._entries) < LISTENING_LIMIT

    def __contains__(self, key: object) -> bool:
        return key in self._entries

    def add(
        self,
        key: object,
        listening: Iterable[sockets.socket],
        channel_type: ChannelType,
        closed: Callable[[], None],
    ) -> None:
        """Accept from listening sockets, and own them.

        ``closed()`` is called once, when they are closed.
        """
        entry = self._entries[key] = _Entry(channel_type, closed)
        for each in listening:
            each.setblocking(False)
            entry.ports.append(_Port(self._reactor, each, lambda s, a: self._accept(key, s, a)))
        self._update_ports()

    @property
    def all(self) -> list[object]:
        """The keys of all entries."""
        return list(self._entries)

    def remove(self, key: object) -> bool:
        """Close the sockets of ``key``; False if there are none. Accepted connections stay."""
        entry = self._entries.pop(key, None)
        if entry is None:
            return False
        for port in entry.ports:
            port.close()
        entry.closed()
        return True

    def close(self) -> None:
        """The SSH connection was lost."""
        self._closed = True
        for key in list(self._entries):
            self.remove(key)

    def _update_ports(self) -> None:
        full = self._accepted >= ACCEPTED_LIMIT
        for entry in self._entries.values():
            for port in entry.ports:
                port.watch(not full)

    def _accept(self, key: object, accepted: sockets.socket, peer: Peer) -> bool:
        """Make a channel of a connection; return whether another one may be accepted."""
        channel_type = self._entries[key].channel_type
        stream = StreamEnd()
        stream.observer = channel_type.observe(peer)
        try:
            lease = None if self._lease is None else self._lease()
        except TeleError as error:
            accepted.close()
            stream.observer.refused(error)
            return True
        try:
            adopt(self._reactor, accepted, stream, lease=lease)
        except OSError:
            accepted.close()
            if lease is not None:
                lease.release()
            return True  # the peer has closed it already
        self._accepted += 1
        channel = AcceptedChannel(channel_type.name, stream, self._channel_ended)
        channel.timer = self._reactor.callLater(ANSWER_TIMEOUT, stream.transport.abortConnection)
        if channel_type.once:
            self.remove(key)
        self._connection().openChannel(channel, channel_type.describe(peer))
        self._update_ports()
        return self._accepted < ACCEPTED_LIMIT and key in self._entries

    def _channel_ended(self) -> None:
        self._accepted -= 1
        self._update_ports()


@define(eq=False)
class _Entry:
    channel_type: ChannelType
    closed: Callable[[], None]
    ports: list[_Port] = field(factory=list)


@implementer(IReadDescriptor)
class _Port:
    """One listening socket; ``accept(socket, peer)`` returns whether to accept another one."""

    def __init__(
        self,
        reactor: Reactor,
        listening: sockets.socket,
        accept: Callable[[sockets.socket, Peer], bool],
    ) -> None:
        self._reactor = reactor
        self._socket = listening
        self._accept = accept
        self._watched = False
        self._pause: IDelayedCall | None = None
        self._is_short = False

    def fileno(self) -> int:
        """See Twisted."""
        return self._socket.fileno()

    def logPrefix(self) -> str:
        """See Twisted."""
        return "listener"

    def watch(self, wanted: bool) -> None:
        """Accept connections, or leave them in the kernel's queue."""
        if self._watched != wanted and self._socket.fileno() >= 0 and self._pause is None:
            self._watched = wanted
            (self._reactor.addReader if wanted else self._reactor.removeReader)(self)

    def doRead(self) -> None:
        """Accept what waits, up to a batch."""
        for _ in range(BATCH):
            if not self._watched:
                return
            try:
                accepted, address = self._socket.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in SHORTAGE:
                    self._wait(error)
                return  # otherwise the peer has closed the connection
            self._is_short = False
            peer = (address[0], address[1]) if isinstance(address, tuple) else ("", 0)
            if not self._accept(accepted, peer):
                return

    def _wait(self, error: OSError) -> None:
        if not self._is_short:
            self._is_short = True
            log.warn("accepting paused", error=error.strerror, seconds=SHORTAGE_PAUSE)
        self.watch(False)
        self._pause = self._reactor.callLater(SHORTAGE_PAUSE, self._resume)

    def _resume(self) -> None:
        self._pause = None
        self.watch(True)

    def close(self) -> None:
        """Stop accepting, and close the socket."""
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None
        self.watch(False)
        self._socket.close()

    def connectionLost(self, reason: Failure) -> None:
        """The reactor stops, or cannot poll the socket."""
        self.close()
