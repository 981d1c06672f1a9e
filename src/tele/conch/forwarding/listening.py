"""How do connections that others make here reach the client?

Invariants:

* What listens is one connection's, and ends with it.
* While the client has as many of these channels as it may, nobody is accepted: who
  connects waits in the kernel, whose queue has a limit.
* What is accepted counts for the user; who connects when that would be too much is closed.
* A client that does not answer keeps nobody's socket for longer than a time-out.
"""

from __future__ import annotations

import socket as sockets
from collections.abc import Callable, Iterable
from typing import Any, Final

from attrs import define, field, frozen
from twisted.internet.interfaces import IReadDescriptor
from twisted.python.failure import Failure
from zope.interface import implementer

from tele.capacity.accepting import SHORTAGE
from tele.capacity.descriptors import Lease
from tele.conch.connection.relay import RelayChannel, RelayWatch, StreamEnd
from tele.errors import TeleError
from tele.log import make_logger
from tele.sockets.direct import adopt

log = make_logger(__name__)

#: Channels of one connection that others made, and sockets that listen for it.
ACCEPTED_LIMIT: Final = 128
LISTENING_LIMIT: Final = 64
BACKLOG: Final = 128
#: Accepted in one turn of the reactor.
BATCH: Final = 16
#: Seconds that a client has to answer, and that we wait when there are no descriptors.
ANSWER_TIMEOUT: Final = 30.0
SHORTAGE_PAUSE: Final = 1.0

#: (host, port) of whoever connected; nothing and 0 on a UNIX socket.
Peer = tuple[str, int]


@frozen
class Kind:
    """What becomes of an accepted connection: a channel of type ``name``.

    ``describe(peer)`` is what is specific to it, ``watch(peer)`` hears of it. With ``once``
    the first connection is the only one.
    """

    name: bytes
    describe: Callable[[Peer], bytes]
    watch: Callable[[Peer], RelayWatch]
    once: bool = False


class AcceptedChannel(RelayChannel):
    """The channel of one accepted connection; ``gone()`` is called once, at its end."""

    def __init__(self, kind: bytes, stream: StreamEnd, gone: Callable[[], None]) -> None:
        super().__init__(stream)
        self.name = kind
        self._gone = gone
        self.timer: Any = None

    def channelOpen(self, specificData: bytes) -> None:
        """The client takes it."""
        self._stop_waiting()
        super().channelOpen(specificData)

    def openFailed(self, reason: Any) -> None:
        """The client does not."""
        self._stop_waiting()
        super().openFailed(reason)
        self._gone()

    def _stop_waiting(self) -> None:
        if self.timer is not None and self.timer.active():
            self.timer.cancel()

    def closed(self) -> None:
        """It is over."""
        super().closed()
        self._gone()


class Listeners:
    """All that listens for one connection. ``connection()`` is that, once it is served.

    ``take()`` counts what is accepted, or raises a :class:`TeleError` when it is too much.
    """

    def __init__(
        self,
        reactor: Any,
        connection: Callable[[], Any],
        take: Callable[[], Lease] | None = None,
    ) -> None:
        self._take_lease = take
        self._reactor = reactor
        self._connection = connection
        self._entries: dict[object, _Entry] = {}
        self._accepted = 0
        self._closed = False

    @property
    def has_room(self) -> bool:
        """Whether one more may be added."""
        return not self._closed and len(self._entries) < LISTENING_LIMIT

    def __contains__(self, key: object) -> bool:
        return key in self._entries

    def add(
        self,
        key: object,
        listening: Iterable[sockets.socket],
        kind: Kind,
        closed: Callable[[], None],
    ) -> None:
        """Accept from sockets that listen, which are ours from now on.

        ``closed()`` is called once, when they do not any more.
        """
        entry = self._entries[key] = _Entry(kind, closed)
        for each in listening:
            each.setblocking(False)
            entry.ports.append(_Port(self._reactor, each, lambda s, a: self._take(key, s, a)))
        self._look()

    @property
    def all(self) -> list[object]:
        """Under what keys somebody listens."""
        return list(self._entries)

    def remove(self, key: object) -> bool:
        """Listen there no more; False if nobody did. What was accepted goes on."""
        entry = self._entries.pop(key, None)
        if entry is None:
            return False
        for port in entry.ports:
            port.close()
        entry.closed()
        return True

    def close(self) -> None:
        """The connection is gone."""
        self._closed = True
        for key in list(self._entries):
            self.remove(key)

    def _look(self) -> None:
        full = self._accepted >= ACCEPTED_LIMIT
        for entry in self._entries.values():
            for port in entry.ports:
                port.watch(not full)

    def _take(self, key: object, accepted: sockets.socket, peer: Peer) -> bool:
        """Make a channel of a connection; return whether there may be another one."""
        kind = self._entries[key].kind
        stream = StreamEnd()
        stream.watch = kind.watch(peer)
        try:
            lease = None if self._take_lease is None else self._take_lease()
        except TeleError as error:
            accepted.close()
            stream.watch.refused(error)
            return True
        try:
            adopt(self._reactor, accepted, stream, lease=lease)
        except OSError:
            accepted.close()
            if lease is not None:
                lease.release()
            return True  # it is gone already
        self._accepted += 1
        channel = AcceptedChannel(kind.name, stream, self._gone)
        channel.timer = self._reactor.callLater(ANSWER_TIMEOUT, stream.transport.abortConnection)
        if kind.once:
            self.remove(key)
        self._connection().openChannel(channel, kind.describe(peer))
        self._look()
        return self._accepted < ACCEPTED_LIMIT and key in self._entries

    def _gone(self) -> None:
        self._accepted -= 1
        self._look()


@define(eq=False)
class _Entry:
    kind: Kind
    closed: Callable[[], None]
    ports: list[_Port] = field(factory=list)


@implementer(IReadDescriptor)
class _Port:
    """One listening socket; ``take(socket, peer)`` says whether to go on."""

    def __init__(
        self,
        reactor: Any,
        listening: sockets.socket,
        take: Callable[[sockets.socket, Peer], bool],
    ) -> None:
        self._reactor = reactor
        self._socket = listening
        self._take = take
        self._watched = False
        self._pause: Any = None
        self._short = False

    def fileno(self) -> int:
        """See Twisted."""
        return self._socket.fileno()

    def logPrefix(self) -> str:
        """See Twisted."""
        return "listener"

    def watch(self, wanted: bool) -> None:
        """Accept, or leave it to the kernel's queue."""
        if self._watched != wanted and self._socket.fileno() >= 0 and self._pause is None:
            self._watched = wanted
            (self._reactor.addReader if wanted else self._reactor.removeReader)(self)

    def doRead(self) -> None:
        """Somebody is there."""
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
                return  # else whoever it was is gone again
            self._short = False
            peer = (address[0], address[1]) if isinstance(address, tuple) else ("", 0)
            if not self._take(accepted, peer):
                return

    def _wait(self, error: OSError) -> None:
        if not self._short:
            self._short = True
            log.warn("nobody can be accepted until it ends: {why}", why=error.strerror)
        self.watch(False)
        self._pause = self._reactor.callLater(SHORTAGE_PAUSE, self._go_on)

    def _go_on(self) -> None:
        self._pause = None
        self.watch(True)

    def close(self) -> None:
        """Stop, and close the socket."""
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None
        self.watch(False)
        self._socket.close()

    def connectionLost(self, reason: Failure) -> None:
        """The reactor ends, or cannot poll it."""
        self.close()
