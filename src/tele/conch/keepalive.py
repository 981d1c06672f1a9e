"""Is the peer still there?

After some seconds of silence the peer is asked something that it has to answer, as OpenSSH
does (``ClientAliveInterval``, ``ServerAliveInterval``). After a few questions in vain it counts as
gone, and its connection ends at once: a line that broke without a word costs nothing for long.

Laws of this file:

* Whatever the peer sends is a sign of life. That its kernel takes our bytes is none: a
  program that was stopped, and reads and answers nothing, counts as gone, as with OpenSSH.
  One whose user reads no output does answer: a full window stops data, and nothing else.
* One timer for all connections; a question is asked only in silence, and the questions that
  wait for an answer are as few as the misses that are allowed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from attrs import define
from twisted.internet.interfaces import IReactorTime

from tele.conch.incoming import Incoming
from tele.loop import Tick, Ticker

#: Any peer answers it, most with a refusal (RFC 4254, section 4).
QUESTION: Final = b"keepalive@openssh.com"
#: How often in an interval we look whether there was silence.
LOOKS: Final = 3
#: How often the timer wakes between two looks at one peer: once a second by default.
SLOTS: Final = 5


@define
class _Shared:
    """The one timer of a clock and an interval, and how many use it."""

    ticker: Ticker
    users: int = 0


_shared: Final[dict[tuple[IReactorTime, float], _Shared]] = {}


class Keepalive:
    """Watches one peer from now on until :meth:`stop`.

    ``ask(name, data, want_reply)`` asks it something; ``gone(seconds)`` is called once when it
    was silent for so long in spite of ``misses`` questions, one every ``interval`` seconds.
    """

    __slots__ = ("_ask", "_gone", "_incoming", "_key", "_misses", "_opener", "_packets", "_silent",
                 "_tick")  # fmt: skip

    def __init__(
        self,
        clock: IReactorTime,
        interval: float,
        misses: int,
        incoming: Incoming,
        ask: Callable[[bytes, bytes, bool], Any],
        gone: Callable[[float], None],
    ) -> None:
        self._key = (clock, interval)
        self._misses = misses
        self._incoming = incoming
        self._ask = ask
        self._gone = gone
        self._opener: Any = None
        self._packets = 0
        self._silent = 0
        shared = _shared.get(self._key)
        if shared is None:
            shared = _shared[self._key] = _Shared(Ticker(clock, interval / LOOKS, SLOTS))
        shared.users += 1
        self._tick: Tick | None = shared.ticker.add(self._look)

    def stop(self) -> None:
        """Watch no more. May be called twice."""
        tick, self._tick = self._tick, None
        if tick is None:
            return
        tick.cancel()
        shared = _shared[self._key]
        shared.users -= 1
        if not shared.users:
            shared.ticker.stop()
            del _shared[self._key]

    def _look(self) -> None:
        opener = self._incoming.opener
        if opener is not self._opener or opener.packets != self._packets:
            self._opener, self._packets = opener, opener.packets
            self._silent = 0
            return
        self._silent += 1
        asked, since = divmod(self._silent, LOOKS)
        if since:
            return
        if asked > self._misses:
            self.stop()
            self._gone(asked * self._key[1])
        else:
            self._ask(QUESTION, b"", True).addErrback(_no_matter)


def _no_matter(_: object) -> None:
    """A refusal is an answer; that the connection ended is told elsewhere."""
