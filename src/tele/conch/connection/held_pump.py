"""How do bytes get from a descriptor to a client that may not have them yet?

Invariants:

* What is held is bounded by :data:`HELD_LIMIT`: beyond, the descriptor is not read.
* The end of the descriptor is told after the last of its output has left.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Final

from twisted.internet.interfaces import IReactorFDSet
from twisted.python.failure import Failure

from tele.conch.connection.channel import Channel
from tele.conch.connection.held_output import HeldOutput, Hold
from tele.conch.connection.pumps import Observe, Pump, filled
from tele.sockets.buffers import DATA_BUFFERS, MAX_DATA

#: Bytes of one descriptor that are held.
HELD_LIMIT: Final = 256 * 1024


class HeldPump(Pump):
    """A :class:`Pump` whose output leaves when ``hold`` allows it."""

    def __init__(
        self,
        reactor: IReactorFDSet,
        descriptor: int,
        channel: Channel,
        code: int | None,
        done: Callable[[], None],
        observe: Observe,
        is_behind: Callable[[], bool],
        hold: Hold,
    ) -> None:
        self._held = HeldOutput(hold, self._send, self._left, self._forbidden)
        #: The descriptor is closed; what is held has not left.
        self._at_end = False
        super().__init__(reactor, descriptor, channel, code, done, observe, is_behind)

    def fileno(self) -> int:
        """See Twisted."""
        return -1 if self._at_end else super().fileno()

    def _may_read(self) -> bool:
        return not self._at_end and self._held.size < HELD_LIMIT and super()._may_read()

    def doRead(self) -> None:
        """Read up to what may be held."""
        while not self.ended and self._may_read():
            if self._read_some():
                self._close_descriptor()
                self._end_if_left()
                return
            if self._final_bytes is None:
                break
        if not self.ended:
            self._watch_or_wait()

    def _read_some(self) -> bool:
        """Read, observe and hold; return whether it was the end."""
        left = self._read(DATA_BUFFERS[: max(1, (HELD_LIMIT - self._held.size) // MAX_DATA)])
        if not left:
            return left == 0
        pieces = filled(DATA_BUFFERS, left)
        if self._observe is not None:
            self._observe(*pieces)
        self._held.put(b"".join(pieces), self._code)
        return False

    def _send(self, data: bytes, code: int | None) -> None:
        self._channel.send_view(data, code)

    def _left(self) -> None:
        """Some of it has left: read on, or end."""
        if self._at_end:
            self._end_if_left()
        else:
            self.resume()

    def _forbidden(self) -> None:
        """It must not leave: nothing more is read."""
        if not self.ended:
            self.close()
            self._done()

    def _end_if_left(self) -> None:
        if not self._held and not self.ended:
            self.ended = True
            self._done()

    def resume(self) -> None:
        """See :class:`Pump`."""
        if not self._at_end:
            super().resume()

    def _close_descriptor(self) -> None:
        self._stop_reading()
        self._at_end = True
        os.close(self._descriptor)

    def close(self) -> None:
        """Stop, and drop what is held."""
        if not self.ended:
            self.ended = True
            if not self._at_end:
                self._close_descriptor()
        self._held.drop()

    def connectionLost(self, reason: Failure) -> None:
        """The reactor found an error or hang-up on the descriptor: what is held leaves."""
        if not self.ended and not self._at_end:
            self._close_descriptor()
            self._end_if_left()
