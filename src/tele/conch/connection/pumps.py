"""How do bytes get from a descriptor into packets, and from packets into a descriptor?

Invariants:

* A descriptor is read only while its data can be sent: the window is open, the socket has taken
  what was sent before, no key exchange runs, and no observer is behind.
* Data are read into the packets that are sent, many with one read, and written to a descriptor
  from the packet that was received. Only what a descriptor does not take is copied.
* The work of one turn of the reactor is bounded: a busy channel does not keep others waiting.
  Beside other channels of its connection a program is read less at a time: what is typed on one
  of them waits for it before it is read, before it is shown, and behind it in the socket.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Final

from twisted.internet.interfaces import IReactorFDSet, IReadDescriptor, IWriteDescriptor
from twisted.python.failure import Failure
from zope.interface import implementer

from tele.conch.connection.backlog import Backlog
from tele.conch.connection.channel import Channel
from tele.log import make_logger
from tele.sockets.buffers import BATCH, DATA_BUFFERS, MAX_DATA

log = make_logger(__name__)

#: A read of fewer bytes has most likely emptied the descriptor.
FULL_READ: Final = 4000
#: Bytes still read of a terminal whose program ended: more than the kernel buffers.
FINAL_READ_LIMIT: Final = 256 * 1024
#: Pieces in one write to a descriptor: with 32 KiB each, twice what a pipe of a program holds.
PIECES: Final = 16

#: Packets of a program's output in one turn, while the connection has other channels.
SHARED_BATCH: Final = 3

Buffers = Sequence[memoryview]
#: Reads into buffers, one after the other; returns the number of bytes, 0 at the end, None if
#: there are no data now.
Read = Callable[[Buffers], int | None]
#: Writes to a descriptor, as ``os.writev`` does.
Write = Callable[[int, Buffers], int]
#: Sees data that are sent, in order: one view for each packet, valid during the call. Of a single
#: packet it sees a copy right after the packet has left, in the same turn: the client does not wait
#: for it. More packets are seen before.
Observe = Callable[..., None]


def move(
    channel: Channel,
    read: Read,
    code: int | None = None,
    observe: Observe | None = None,
    batch: int = BATCH,
) -> bool:
    """Read up to ``batch`` packets and send them on ``channel``, which has to be writable;
    return whether it was the end.
    """
    transport = channel.conn.transport
    most = min(channel.remoteMaxPacket, MAX_DATA)
    buffers = _buffers(most, channel.remoteWindowLeft, batch)
    count = read(buffers)
    if not count:
        return count == 0
    channel.remoteWindowLeft -= count
    views = filled(buffers, count)
    if observe is None or len(views) > 1:
        if observe is not None:
            observe(*views)
        transport.seal_data(channel.remote_number, list(map(len, views)), code)
        transport.flush()
    else:
        (view,) = views
        data = bytes(view)  # sending may use the buffer again
        transport.seal_data(channel.remote_number, (count,), code)
        transport.flush()
        observe(memoryview(data))
    return False


@lru_cache(maxsize=8)
def _pieces(most: int, batch: int) -> Buffers:
    """Return buffers for ``batch`` packets of ``most`` bytes: terminals read one of them at a time,
    and making them would be a tenth of the work.
    """
    return tuple(buffer[:most] for buffer in DATA_BUFFERS[:batch])


def _buffers(most: int, window: int, batch: int) -> Buffers:
    """Return buffers for ``batch`` packets of ``most`` bytes, as far as ``window`` allows."""
    if window >= batch * most:
        return _pieces(most, batch)
    buffers = []
    for buffer in DATA_BUFFERS[:batch]:
        if window <= 0:
            break
        buffers.append(buffer[: min(most, window)])
        window -= most
    return buffers


def filled(buffers: Buffers, count: int) -> list[memoryview]:
    """Return the first ``count`` bytes of ``buffers``."""
    views = []
    for buffer in buffers:
        size = len(buffer)
        if count <= size:
            views.append(buffer[:count])
            break
        views.append(buffer)
        count -= size
    return views


def _after(buffers: Buffers, filled: int) -> Buffers:
    """Return what is left of ``buffers`` after ``filled`` bytes."""
    at = 0
    while at < len(buffers) and filled >= len(buffers[at]):
        filled -= len(buffers[at])
        at += 1
    return (buffers[at][filled:], *buffers[at + 1 :]) if at < len(buffers) else ()


@implementer(IReadDescriptor)
class Pump:
    """Sends what ``descriptor`` gives on ``channel``; ``done()`` is called once, at its end.

    ``code`` is None for data, 1 for standard error. ``observe`` sees the data, and reading waits
    while ``is_behind()``. Owns the descriptor.
    """

    def __init__(
        self,
        reactor: IReactorFDSet,
        descriptor: int,
        channel: Channel,
        code: int | None,
        done: Callable[[], None],
        observe: Observe | None = None,
        is_behind: Callable[[], bool] | None = None,
    ) -> None:
        self._reactor = reactor
        self._descriptor = descriptor
        self._channel = channel
        self._code = code
        self._done = done
        self._observe = observe
        self._is_behind = is_behind
        self._reading = False
        self._final_bytes: int | None = None
        #: Whether the last read was of fewer bytes than it may be.
        self._drained = False
        self.ended = False
        self.resume()

    def fileno(self) -> int:
        """See Twisted."""
        return -1 if self.ended else self._descriptor

    def logPrefix(self) -> str:
        """See Twisted."""
        return "pump"

    def _may_read(self) -> bool:
        return self._channel.is_writable and (self._is_behind is None or not self._is_behind())

    def resume(self) -> None:
        """The channel or the observer has changed: start reading, or stop."""
        if self.ended:
            return
        if self._final_bytes is not None and self._may_read():
            self.doRead()
        else:
            self._watch_or_wait()

    def _watch_or_wait(self) -> None:
        wanted = self._may_read()
        if self._reading != wanted:
            self._reading = wanted
            (self._reactor.addReader if wanted else self._reactor.removeReader)(self)
        connection = self._channel.conn
        if not wanted and self._channel.remoteWindowLeft and not connection.transport.can_send():
            connection.write_scheduler.wait(self.doRead)

    def finish(self) -> None:
        """The program ended: read what is there now, though other processes may hold the other
        side open.
        """
        self._final_bytes = FINAL_READ_LIMIT
        self.resume()

    def doRead(self) -> None:
        """Read and send, up to a batch of packets."""
        while not self.ended and self._may_read():
            batch = SHARED_BATCH if len(self._channel.conn.channels) > 1 else BATCH
            if move(self._channel, self._read, self._code, self._observe, batch):
                self.close()
                self._done()
                return
            if self._final_bytes is None:
                if self._drained and self._reading:
                    return  # the next turn finds out, if it may not read any more
                break
        if not self.ended:
            self._watch_or_wait()

    def _read(self, buffers: Buffers) -> int | None:
        """See ``Read``. Output often comes in small pieces: they are gathered."""
        if self._final_bytes is not None and self._final_bytes <= 0:
            return 0
        filled = 0
        self._drained = False
        while buffers:
            try:
                count = os.readv(self._descriptor, buffers)
            except BlockingIOError:
                if filled:
                    break
                return None if self._final_bytes is None else 0
            except OSError as error:
                # The master of a terminal gives EIO when no process has the slave open.
                if error.errno != errno.EIO:
                    log.warn("program output cannot be read", error=error.strerror)
                break
            filled += count
            if count < FULL_READ:
                self._drained = True
                break
            buffers = _after(buffers, count)
        if self._final_bytes is not None:
            self._final_bytes -= filled
        return filled

    def close(self) -> None:
        """Stop, and close the descriptor."""
        if self.ended:
            return
        self._stop_reading()
        self.ended = True
        os.close(self._descriptor)

    def _stop_reading(self) -> None:
        if self._reading:
            self._reading = False
            self._reactor.removeReader(self)
        self._channel.conn.write_scheduler.cancel(self.doRead)

    def connectionLost(self, reason: Failure) -> None:
        """The reactor found an error or hang-up on the descriptor."""
        if not self.ended:
            self._reading = False
            self.close()
            self._done()


@implementer(IWriteDescriptor)
class Sink:
    """Writes what ``channel`` receives to ``descriptor``. Owns the descriptor.

    What it does not take is queued, at most the channel's window, since credit is given only for
    what was written. When the program has closed its input, ``broken()`` is called, and further
    data are dropped and credited: the client may continue. ``write`` is how it is written.
    """

    def __init__(
        self,
        reactor: IReactorFDSet,
        descriptor: int,
        channel: Channel,
        broken: Callable[[], None] | None = None,
        write: Write = os.writev,
    ) -> None:
        self._reactor = reactor
        self._descriptor = descriptor
        self._channel = channel
        self._broken = broken
        self._write = write
        self._backlog = Backlog()
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
        """Write ``view``, and queue a copy of what the descriptor does not take."""
        count = 0
        if self.ended:
            count = len(view)
        elif not self._backlog:
            try:
                count = self._write(self._descriptor, (view,))
            except BlockingIOError:
                count = 0
            except OSError:
                self._break()
                count = len(view)
        if count < len(view):
            self._backlog.append(view[count:])
            if not self._writing:
                self._writing = True
                self._reactor.addWriter(self)
        if count:
            self._channel.consumed(count)

    def doWrite(self) -> None:
        """The descriptor takes more."""
        if self.ended:
            return
        backlog = self._backlog
        views = backlog.front(PIECES)
        try:
            count = self._write(self._descriptor, views)
        except BlockingIOError:
            return
        except OSError:
            count = len(backlog)
            self._break()
        else:
            for view in views:
                view.release()
            backlog.drop(count)
            if not backlog:
                self._writing = False
                self._reactor.removeWriter(self)
                if self._ending:
                    self.close()
        self._channel.consumed(count)

    def _break(self) -> None:
        self.close()
        if self._broken is not None:
            self._broken()

    def end(self) -> None:
        """Close the descriptor when the queue was written."""
        self._ending = True
        if not self._backlog:
            self.close()

    def close(self) -> None:
        """Stop, and close the descriptor."""
        if self.ended:
            return
        if self._writing:
            self._writing = False
            self._reactor.removeWriter(self)
        self.ended = True
        self._backlog.clear()
        os.close(self._descriptor)

    def connectionLost(self, reason: Failure) -> None:
        """The reactor found that the other side was closed."""
        if not self.ended:
            self._writing = False
            dropped = len(self._backlog)
            self._break()
            self._channel.consumed(dropped)
