"""How do bytes get from a descriptor into packets, and from packets into a descriptor?

Invariants:

* A descriptor is read only while its data can leave: there is window, the socket has taken
  what was sent before, keys are settled, and nobody who listens is behind.
* What is read goes straight into the packets that leave, many with one read; what is
  received goes straight from the packet into the descriptor. A copy is made only of what
  does not fit.
* Bounded work a turn: one busy channel does not keep others waiting.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from twisted.internet.interfaces import IReadDescriptor, IWriteDescriptor
from zope.interface import implementer

from tele.conch.connection.backlog import Backlog
from tele.log import make_logger
from tele.sockets.buffers import BATCH, DATA_BUFFERS, MAX_DATA

if TYPE_CHECKING:
    from tele.conch.connection.channel import Channel

log = make_logger(__name__)

#: A read of less than this is most likely all that is there now.
FULL_READ: Final = 4000
#: What is still read of a terminal whose program ended: more than the kernel keeps of one.
LAST_WORDS: Final = 256 * 1024
#: Pieces that one write to a descriptor takes.
PIECES: Final = 64

Rooms = Sequence[memoryview]
#: Reads into rooms, one after the other; returns how much it was, 0 at the end, None if
#: nothing is there now.
Read = Callable[[Rooms], int | None]
Hear = Callable[[memoryview], None]


def move(channel: Channel, read: Read, code: int | None = None, hear: Hear | None = None) -> bool:
    """Move what is there to ``channel``, up to a batch; return whether it was the end.

    The channel has to have room.
    """
    transport = channel.conn.transport
    number = channel.remote_number
    most = min(channel.remoteMaxPacket, MAX_DATA)
    left = read(_rooms(most, channel.remoteWindowLeft))
    if not left:
        return left == 0
    channel.remoteWindowLeft -= left
    room = 0
    while left > 0:
        size = min(left, most)
        if hear is not None:
            hear(DATA_BUFFERS[room][:size])
        transport.seal_data(number, size, code, room)
        left -= size
        room += 1
    transport.flush()
    return False


def _rooms(most: int, window: int) -> Rooms:
    """Return room for a batch of packets of ``most`` bytes, as far as ``window`` allows."""
    if most == MAX_DATA and window >= BATCH * MAX_DATA:
        return DATA_BUFFERS
    rooms = []
    for room in DATA_BUFFERS:
        if window <= 0:
            break
        rooms.append(room[: min(most, window)])
        window -= most
    return rooms


def _after(rooms: Rooms, filled: int) -> Rooms:
    """Return what is left of ``rooms``."""
    at = 0
    while at < len(rooms) and filled >= len(rooms[at]):
        filled -= len(rooms[at])
        at += 1
    return (rooms[at][filled:], *rooms[at + 1 :]) if at < len(rooms) else ()


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
        hear: Hear | None = None,
        behind: Callable[[], bool] | None = None,
    ) -> None:
        self._reactor = reactor
        self._descriptor = descriptor
        self._channel = channel
        self._code = code
        self._done = done
        self._hear = hear
        self._behind = behind
        self._reading = False
        self._last_words: int | None = None
        self.ended = False
        self.kick()

    def fileno(self) -> int:
        """See Twisted."""
        return -1 if self.ended else self._descriptor

    def logPrefix(self) -> str:
        """See Twisted."""
        return "pump"

    def _may_read(self) -> bool:
        return self._channel.has_room and (self._behind is None or not self._behind())

    def kick(self) -> None:
        """Something changed: read, or stop reading."""
        if self.ended:
            return
        if self._last_words is not None and self._may_read():
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
            connection.turns.wait(self._turn)

    def _turn(self) -> None:
        """The socket has room. There is most likely something to read: see at once."""
        self.doRead()

    def finish(self) -> None:
        """Its program ended: what is there is all there is, though others may hold it open."""
        self._last_words = LAST_WORDS
        self.kick()

    def doRead(self) -> None:
        """Move what is there, up to a batch of packets."""
        while not self.ended and self._may_read():
            if move(self._channel, self._read, self._code, self._hear):
                self.close()
                self._done()
                return
            if self._last_words is None:
                break
        if not self.ended:
            self._watch_or_wait()

    def _read(self, rooms: Rooms) -> int | None:
        """See ``Read``. Output often comes in small pieces: they are gathered."""
        if self._last_words is not None and self._last_words <= 0:
            return 0
        filled = 0
        while rooms:
            try:
                count = os.readv(self._descriptor, rooms)
            except BlockingIOError:
                if filled:
                    break
                return None if self._last_words is None else 0
            except OSError as error:
                # EIO is how a terminal's master says that nobody holds the other side.
                if error.errno != errno.EIO:
                    log.warn("a program's output cannot be read: {why}", why=error.strerror)
                break
            filled += count
            if count < FULL_READ:
                break
            rooms = _after(rooms, count)
        if self._last_words is not None:
            self._last_words -= filled
        return filled

    def close(self) -> None:
        """Stop, and close the descriptor."""
        if self.ended:
            return
        if self._reading:
            self._reading = False
            self._reactor.removeReader(self)
        self.ended = True
        self._channel.conn.turns.leave(self._turn)
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
    was written only. After the descriptor's reader is gone, which ``broken()`` tells, data
    are dropped and credited: the program closed its input, and the client may go on.
    """

    def __init__(
        self,
        reactor: Any,
        descriptor: int,
        channel: Channel,
        broken: Callable[[], None] | None = None,
    ) -> None:
        self._reactor = reactor
        self._descriptor = descriptor
        self._channel = channel
        self._broken = broken
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
        """Write ``view`` or what of it is possible now, and keep a copy of the rest."""
        count = 0
        if self.ended:
            count = len(view)
        elif not self._backlog:
            try:
                count = os.write(self._descriptor, view)
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
            count = os.writev(self._descriptor, views)
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
        """Close the descriptor after all that waits was written."""
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

    def connectionLost(self, reason: Any) -> None:
        """The reactor gives the descriptor up: its reader is gone."""
        if not self.ended:
            self._writing = False
            dropped = len(self._backlog)
            self._break()
            self._channel.consumed(dropped)
