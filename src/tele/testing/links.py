"""How are two ends connected in memory, over a link of any speed?

Invariant: bytes and time move only when a test moves them.
"""

from __future__ import annotations

import select
from collections.abc import Iterable
from typing import Any

from attrs import Factory, define
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import (
    IPushProducer,
    IReactorFDSet,
    IReadDescriptor,
    ITransport,
    IWriteDescriptor,
)
from twisted.python.failure import Failure
from zope.interface import implementer

from tele.testing.clocks import SettableClock
from tele.testing.ssh import START, Address

#: Bytes that one end of the link buffers before it pauses its producer.
LINK_BUFFER = 64 * 1024


@implementer(IReactorFDSet)
class ManualReactor(SettableClock):
    """A clock that also polls descriptors, when a test calls :meth:`poll`."""

    def __init__(self) -> None:
        super().__init__()
        self.advance(START.timestamp())
        self.readers: dict[IReadDescriptor, None] = {}
        self.writers: dict[IWriteDescriptor, None] = {}

    def addReader(self, reader: IReadDescriptor) -> None:
        """See ``IReactorFDSet``."""
        self.readers.setdefault(reader)

    def removeReader(self, reader: IReadDescriptor) -> None:
        """See ``IReactorFDSet``."""
        self.readers.pop(reader, None)

    def addWriter(self, writer: IWriteDescriptor) -> None:
        """See ``IReactorFDSet``."""
        self.writers.setdefault(writer)

    def removeWriter(self, writer: IWriteDescriptor) -> None:
        """See ``IReactorFDSet``."""
        self.writers.pop(writer, None)

    def getReaders(self) -> list[IReadDescriptor]:
        """See ``IReactorFDSet``."""
        return list(self.readers)

    def getWriters(self) -> list[IWriteDescriptor]:
        """See ``IReactorFDSet``."""
        return list(self.writers)

    def removeAll(self) -> list[IReadDescriptor | IWriteDescriptor]:
        """See ``IReactorFDSet``."""
        removed: list[IReadDescriptor | IWriteDescriptor] = [*self.readers, *self.writers]
        self.readers.clear()
        self.writers.clear()
        return removed

    def poll(self) -> bool:
        """Call ``doRead`` or ``doWrite`` once for each ready descriptor; False if none is ready."""
        poll = select.poll()
        by_number: dict[int, list[Any]] = {}
        for descriptors, events in (
            (self.readers, select.POLLIN),
            (self.writers, select.POLLOUT),
        ):
            for watched in descriptors:
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
    """One end of a link; :meth:`carry` moves bytes to the other one."""

    protocol: Any
    peer: LinkEnd | None = None
    waiting: bytearray = Factory(bytearray)
    carried: int = 0
    paused: bool = False
    closing: bool = False
    closed: bool = False
    _producer: IPushProducer | None = None
    _producer_paused: bool = False

    def write(self, data: bytes) -> None:
        """Buffer ``data`` until it is carried; a full buffer pauses the producer."""
        if self.closing:
            return
        self.waiting += data
        if len(self.waiting) > LINK_BUFFER and self._producer and not self._producer_paused:
            self._producer_paused = True
            self._producer.pauseProducing()

    def writeSequence(self, data: Iterable[bytes]) -> None:
        """See :meth:`write`."""
        self.write(b"".join(data))

    def loseConnection(self) -> None:
        """Close when everything was carried."""
        self.closing = True

    def abortConnection(self) -> None:
        """Close, without what was not carried."""
        self.waiting.clear()
        self.closing = True

    def getPeer(self) -> Address:
        """Return the address of the other end."""
        return Address()

    def getHost(self) -> Address:
        """Return the address of this end."""
        return Address(2)

    def registerProducer(self, producer: IPushProducer, streaming: bool) -> None:
        """Pause ``producer`` while the buffer is full."""
        self._producer = producer

    def unregisterProducer(self) -> None:
        """See ``ITransport``."""
        self._producer = None

    def pauseProducing(self) -> None:
        """Carry nothing to this end."""
        self.paused = True

    def resumeProducing(self) -> None:
        """Carry again."""
        self.paused = False

    def carry(self, limit: int) -> bool:
        """Carry up to ``limit`` bytes to the other end; False if there was nothing to do."""
        other = self.peer
        assert other is not None
        if self.waiting and not other.paused and not other.closed:
            data = bytes(self.waiting[:limit])
            del self.waiting[:limit]
            self.carried += len(data)
            other.protocol.dataReceived(data)
            if not self.waiting and self._producer_paused and self._producer:
                self._producer_paused = False
                self._producer.resumeProducing()
            return True
        if self.closing and not self.waiting and not self.closed:
            self.close()
            return True
        return False

    def close(self) -> None:
        """Close both ends."""
        for end in (self, self.peer):
            if end is not None and not end.closed:
                end.closed = end.closing = True
                end.protocol.connectionLost(Failure(ConnectionDone()))
