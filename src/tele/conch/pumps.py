"""How do bytes get from a descriptor into packets, and from packets into a descriptor?

Laws of this file:

* A descriptor is read only while its data can leave: there is window, the socket has taken
  what was sent before, keys are settled, and nobody who listens is behind.
* What is read goes straight into the packet that leaves; what is received goes straight
  from the packet into the descriptor. A copy is made only of what does not fit.
* Bounded work a turn: one busy channel does not keep others waiting.
"""

from __future__ import annotations

import errno
import os
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from twisted.internet.interfaces import IReadDescriptor, IWriteDescriptor
from zope.interface import implementer

from tele.conch.scratch import BATCH, DATA_ROOM, MAX_DATA

if TYPE_CHECKING:
    from tele.conch.channel import Channel

#: A read of less than this is the end of what is there now.
_FULL_READ = 4000


@implementer(IReadDescriptor)
class Pump:
    """Reads ``descriptor`` into ``channel``; ``done()`` is called once, at its end.

    ``code`` is None for data, 1 for standard error. ``hear(view)`` sees the bytes before
    they are encrypted, and ``behind()`` says whether to wait. Owns the descriptor.
    """

    def __init__(
        self,
        reactor: Any,
        descriptor: int,
        channel: Channel,
        code: int | None,
        done: Callable[[], None],
        hear: Callable[[memoryview], None] | None = None,
        behind: Callable[[], bool] | None = None,
    ) -> None:
        self._reactor = reactor
        self._descriptor = descriptor
        self._channel = channel
        self._transport: Any = channel.conn.transport
        self._code = code
        self._done = done
        self._hear = hear
        self._behind = behind
        self._reading = False
        self._finishing = False
        self.ended = False
        self._transport.ready_observers.add(self.kick)
        self.kick()

    def fileno(self) -> int:
        """See Twisted."""
        return -1 if self.ended else self._descriptor

    def logPrefix(self) -> str:
        """See Twisted."""
        return "pump"

    def _may_read(self) -> bool:
        channel = self._channel
        return (
            channel.remoteWindowLeft > 0
            and not channel.has_queue
            and bool(self._transport.can_send())
            and (self._behind is None or not self._behind())
        )

    def kick(self) -> None:
        """Something changed: read, or stop reading."""
        if self.ended:
            return
        if self._may_read():
            if not self._reading:
                self._reading = True
                self._reactor.addReader(self)
        elif self._reading:
            self._reading = False
            self._reactor.removeReader(self)

    def finish(self) -> None:
        """Nobody writes any more: what is there is all there is, though it may stay open."""
        self._finishing = True
        self.kick()
        if self._may_read():
            self.doRead()

    def doRead(self) -> None:
        """Move what is there, up to a batch of packets."""
        channel, transport, room = self._channel, self._transport, DATA_ROOM
        if self.ended or not self._may_read():
            self.kick()
            return
        number = channel.remote_number
        most = min(channel.remoteMaxPacket, MAX_DATA)
        ended = sealed = False
        for _ in range(BATCH):
            limit = min(most, channel.remoteWindowLeft)
            if not limit:
                break
            length, more, ended = self._fill(room[:limit])
            if length:
                if self._hear is not None:
                    self._hear(room[:length])
                channel.remoteWindowLeft -= length
                transport.seal_data(number, length, self._code)
                sealed = True
            if ended or not more:
                break
        if sealed:
            transport.flush()
        if ended:
            self.close()
            self._done()
        else:
            self.kick()

    def _fill(self, room: memoryview) -> tuple[int, bool, bool]:
        """Read into ``room``; returns (bytes, whether there may be more now, whether it ended).

        A terminal gives its output in small pieces: they are gathered into one packet.
        """
        filled = 0
        while filled < len(room):
            try:
                count = os.readv(self._descriptor, (room[filled:],))
            except BlockingIOError:
                return filled, False, self._finishing
            except OSError as error:
                # EIO is how a terminal's master says that nobody holds the other side.
                if error.errno not in (errno.EIO, errno.EBADF):
                    raise
                return filled, False, True
            if not count:
                return filled, False, True
            filled += count
            if count < _FULL_READ and not self._finishing:
                return filled, False, False
        return filled, True, False

    def close(self) -> None:
        """Stop, and close the descriptor."""
        if self.ended:
            return
        self.ended = True
        self._transport.ready_observers.discard(self.kick)
        if self._reading:
            self._reading = False
            self._reactor.removeReader(self)
        os.close(self._descriptor)

    def connectionLost(self, reason: Any) -> None:
        """The reactor gives the descriptor up."""
        if not self.ended:
            self._reading = False
            self.close()
            self._done()


@implementer(IWriteDescriptor)
class Sink:
    """Writes what ``channel`` receives into ``descriptor``. Owns the descriptor.

    What does not fit waits, at most the channel's window, since credit is given for what
    was written only. After the descriptor's reader is gone, data are dropped and credited:
    the program ended or closed its input, and the client may go on.
    """

    def __init__(self, reactor: Any, descriptor: int, channel: Channel) -> None:
        self._reactor = reactor
        self._descriptor = descriptor
        self._channel = channel
        self._queue: deque[memoryview] = deque()
        self._writing = False
        self._ending = False
        self.ended = False

    def fileno(self) -> int:
        """See Twisted."""
        return -1 if self.ended else self._descriptor

    def logPrefix(self) -> str:
        """See Twisted."""
        return "sink"

    def write(self, view: memoryview) -> None:
        """Write ``view`` or what of it is possible now, and keep a copy of the rest."""
        length = len(view)
        if self.ended:
            self._channel.consumed(length)
            return
        if not self._queue:
            try:
                count = os.write(self._descriptor, view)
            except BlockingIOError:
                count = 0
            except OSError:
                self.close()
                self._channel.consumed(length)
                return
            if count:
                self._channel.consumed(count)
            if count == length:
                return
            view = view[count:]
        self._queue.append(memoryview(bytes(view)))
        if not self._writing:
            self._writing = True
            self._reactor.addWriter(self)

    def doWrite(self) -> None:
        """The descriptor takes more."""
        if self.ended:
            return
        try:
            count = os.writev(
                self._descriptor, [self._queue[i] for i in range(min(64, len(self._queue)))]
            )
        except BlockingIOError:
            return
        except OSError:
            waiting = sum(map(len, self._queue))
            self.close()
            self._channel.consumed(waiting)
            return
        left = count
        while left:
            first = self._queue[0]
            if left >= len(first):
                left -= len(first)
                self._queue.popleft()
            else:
                self._queue[0] = first[left:]
                left = 0
        if not self._queue:
            self._writing = False
            self._reactor.removeWriter(self)
            if self._ending:
                self.close()
        self._channel.consumed(count)

    def end(self) -> None:
        """Close the descriptor after all that waits was written."""
        self._ending = True
        if not self._queue:
            self.close()

    def close(self) -> None:
        """Stop, and close the descriptor."""
        if self.ended:
            return
        self.ended = True
        self._queue.clear()
        if self._writing:
            self._writing = False
            self._reactor.removeWriter(self)
        os.close(self._descriptor)

    def connectionLost(self, reason: Any) -> None:
        """The reactor gives the descriptor up."""
        self._writing = False
        self.close()
