"""How do two ends meet in memory, over a link that is as slow as a test wants?

Invariant: nothing moves unless a test says so.
"""

from __future__ import annotations

import select
from typing import Any

from attrs import Factory, define
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import ITransport
from twisted.python.failure import Failure
from zope.interface import implementer

from tele.testing.clocks import SettableClock
from tele.testing.ssh import START, Address

#: What one end of the link keeps before it tells its producer to pause.
LINK_ROOM = 64 * 1024


class HandReactor(SettableClock):
    """A clock that also watches descriptors, when it is told to look."""

    def __init__(self) -> None:
        super().__init__()
        self.advance(START.timestamp())
        self.readers: dict[Any, None] = {}
        self.writers: dict[Any, None] = {}

    def addReader(self, reader: Any) -> None:
        """See ``IReactorFDSet``."""
        self.readers.setdefault(reader)

    def removeReader(self, reader: Any) -> None:
        """See ``IReactorFDSet``."""
        self.readers.pop(reader, None)

    def addWriter(self, writer: Any) -> None:
        """See ``IReactorFDSet``."""
        self.writers.setdefault(writer)

    def removeWriter(self, writer: Any) -> None:
        """See ``IReactorFDSet``."""
        self.writers.pop(writer, None)

    def look(self) -> bool:
        """Let every descriptor that is ready do its work once; False if none is."""
        poll = select.poll()
        by_number: dict[int, list[Any]] = {}
        for kind, events in ((self.readers, select.POLLIN), (self.writers, select.POLLOUT)):
            for watched in kind:
                by_number.setdefault(watched.fileno(), []).append((watched, events))
        for number, wanted in by_number.items():
            poll.register(number, sum(events for _, events in wanted))
        ready = poll.poll(0)
        for number, found in ready:
            for watched, events in by_number[number]:
                if found & events:
                    (watched.doRead if events == select.POLLIN else watched.doWrite)()
                elif found & (select.POLLHUP | select.POLLERR) and watched.fileno() >= 0:
                    self.readers.pop(watched, None)
                    self.writers.pop(watched, None)
                    watched.connectionLost(Failure(ConnectionDone()))
        return bool(ready)


@implementer(ITransport)
@define(eq=False)
class LinkEnd:
    """One end of a link that is as slow as ``carry`` is asked to be."""

    protocol: Any
    peer: LinkEnd | None = None
    waiting: bytearray = Factory(bytearray)
    carried: int = 0
    paused: bool = False
    closing: bool = False
    closed: bool = False
    _producer: Any = None
    _told: bool = False

    def write(self, data: bytes) -> None:
        """Keep what is written until it is carried; a producer is paused when it is much."""
        if self.closing:
            return
        self.waiting += data
        if len(self.waiting) > LINK_ROOM and self._producer and not self._told:
            self._told = True
            self._producer.pauseProducing()

    def writeSequence(self, data: Any) -> None:
        """See :meth:`write`."""
        self.write(b"".join(data))

    def loseConnection(self) -> None:
        """Close when all was carried."""
        self.closing = True

    def abortConnection(self) -> None:
        """Close, and forget what waits."""
        self.waiting.clear()
        self.closing = True

    def getPeer(self) -> Address:
        """Return where the other end is."""
        return Address()

    def getHost(self) -> Address:
        """Return where this end is."""
        return Address(2)

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """Tell ``producer`` when to pause."""
        self._producer = producer

    def unregisterProducer(self) -> None:
        """Tell it no more."""
        self._producer = None

    def pauseProducing(self) -> None:
        """Carry nothing to this end."""
        self.paused = True

    def resumeProducing(self) -> None:
        """Carry again."""
        self.paused = False

    def carry(self, limit: int) -> bool:
        """Bring up to ``limit`` bytes to the other end; False if there was nothing to do."""
        other = self.peer
        assert other is not None
        if self.waiting and not other.paused and not other.closed:
            data = bytes(self.waiting[:limit])
            del self.waiting[:limit]
            self.carried += len(data)
            other.protocol.dataReceived(data)
            if not self.waiting and self._told and self._producer:
                self._told = False
                self._producer.resumeProducing()
            return True
        if self.closing and not self.waiting and not self.closed:
            self.close()
            return True
        return False

    def close(self) -> None:
        """Both ends hear that the connection is gone."""
        for end in (self, self.peer):
            if end is not None and not end.closed:
                end.closed = end.closing = True
                end.protocol.connectionLost(Failure(ConnectionDone()))
