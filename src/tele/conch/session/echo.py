"""What of the input of a terminal was shown on it?

Passwords are typed while the terminal does not echo. The kernel takes what is written to a terminal
a moment later, and a program may switch echo off at any time: input is told only if the terminal
echoed before it was written, right after, and still :data:`SETTLE_SECONDS` later.

Invariants:

* Input is told when the terminal takes it, not when it arrives: what waits for a program that
  reads nothing may be taken at a prompt for a password.
* What is in doubt is not told. A terminal whose modes cannot be read does not echo.
* What waits to be told is bounded.
"""

from __future__ import annotations

import os
import termios
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from twisted.internet.interfaces import IDelayedCall, IReactorFDSet, IReactorTime

from tele.conch.connection.channel import Channel
from tele.conch.connection.pumps import Sink

_LOCAL_MODES: Final = 3
#: How long a terminal has to go on echoing.
SETTLE_SECONDS: Final = 0.1
#: Bytes that wait to be told.
WAITING_LIMIT: Final = 64 * 1024


def echoes(terminal: int) -> bool:
    """Whether the terminal whose master this is shows what is typed."""
    try:
        return bool(termios.tcgetattr(terminal)[_LOCAL_MODES] & termios.ECHO)
    except (termios.error, OSError):
        return False


class EchoFilter:
    """Writes to the master ``terminal``, and tells ``typed`` what it took and showed; ``hidden`` is
    called when it took what it did not show. :meth:`end` is called while it is open, and may be
    called again.
    """

    def __init__(
        self,
        clock: IReactorTime,
        terminal: int,
        typed: Callable[[bytes], None],
        hidden: Callable[[], None],
    ) -> None:
        self._clock = clock
        self._terminal = terminal
        self._typed = typed
        self._hidden = hidden
        #: What was written while it echoed, and when.
        self._waiting: deque[tuple[float, bytes]] = deque()
        self._size = 0
        self._settling: IDelayedCall | None = None
        self._ended = False

    def write(self, terminal: int, views: Sequence[memoryview]) -> int:
        """Write as ``os.writev`` does."""
        shown = echoes(terminal)
        count = os.writev(terminal, views)
        if count:
            self._took(b"".join(views)[:count], shown)
        return count

    def _took(self, data: bytes, shown: bool) -> None:
        if self._ended or self._size + len(data) > WAITING_LIMIT:
            self._hidden()
            return
        if not (shown and echoes(self._terminal)):
            self._drop()
            return
        self._waiting.append((self._clock.seconds(), data))
        self._size += len(data)
        if self._settling is None:
            self._settling = self._clock.callLater(SETTLE_SECONDS, self._settle)

    def _settle(self) -> None:
        self._settling = None
        if not self._waiting:
            return
        if not echoes(self._terminal):
            self._drop()
            return
        now = self._clock.seconds()
        while self._waiting and now - self._waiting[0][0] >= SETTLE_SECONDS:
            self._tell()
        if self._waiting:
            wait = self._waiting[0][0] + SETTLE_SECONDS - now
            self._settling = self._clock.callLater(wait, self._settle)

    def _tell(self) -> None:
        _, data = self._waiting.popleft()
        self._size -= len(data)
        self._typed(data)

    def _drop(self) -> None:
        """It does not echo: nothing that waits is told."""
        self._waiting.clear()
        self._size = 0
        self._hidden()

    def end(self) -> None:
        """The program ended: tell what waits, if the terminal echoes to the end."""
        self._ended = True
        settling, self._settling = self._settling, None
        if settling is not None:
            settling.cancel()
        if self._waiting and not echoes(self._terminal):
            self._drop()
        while self._waiting:
            self._tell()


class TerminalSink(Sink):
    """Writes to a terminal through ``echo``, which ends before the descriptor is closed."""

    def __init__(
        self,
        reactor: IReactorFDSet,
        descriptor: int,
        channel: Channel,
        broken: Callable[[], None],
        echo: EchoFilter,
    ) -> None:
        super().__init__(reactor, descriptor, channel, broken, echo.write)
        self._echo = echo

    def close(self) -> None:
        """See :class:`Sink`."""
        self._echo.end()
        super().close()
