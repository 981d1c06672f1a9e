"""Is the peer still there?

After some seconds of silence the peer is asked something that it has to answer, as OpenSSH
does (``ClientAliveInterval``, ``ServerAliveInterval``). After a few questions in vain it counts as
gone, and its connection ends at once: a line that broke without a word costs nothing for long.

Invariants:

* An interval of 0 asks nothing. How long somebody's connection may be silent is known when they
  have logged in: their avatar may have a ``keepalive_interval``, in seconds; the limits of the
  server hold for all others.
* Whatever the peer sends is a sign of life. That its kernel takes our bytes is none: a
  program that was stopped, and reads and answers nothing, counts as gone, as with OpenSSH.
  One whose user reads no output does answer: a full window stops data, and nothing else.
* One timer for all connections; a question is asked only in silence, and the questions that
  wait for an answer are as few as the misses that are allowed.
"""

from __future__ import annotations

from typing import Any, Final, Protocol

from attrs import define
from twisted.internet.interfaces import IReactorTime

from tele.admission.limits import Limits
from tele.conch.transport.incoming import Incoming
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


class Watched(Protocol):
    """A transport whose peer is watched. Its service asks the peer."""

    clock: IReactorTime
    limits: Limits
    incoming: Incoming
    service: Any
    closing: bool

    def peer_timed_out(self, seconds: float) -> None:
        """The peer was silent for so long, whatever it was asked."""


def watch(transport: Watched) -> Keepalive | None:
    """Watch the peer of ``transport``, which has logged in, for as long as may be."""
    avatar = getattr(transport, "avatar", None)
    own: float | None = getattr(avatar, "keepalive_interval", None)
    interval = transport.limits.keepalive_interval if own is None else own
    asks = hasattr(transport.service, "sendGlobalRequest") and not transport.closing
    return Keepalive(transport, interval) if interval and asks else None


class Keepalive:
    """Watches the peer of ``transport`` from now on until :meth:`stop`."""

    __slots__ = ("_interval", "_opener", "_packets", "_silent", "_tick", "_transport")

    def __init__(self, transport: Watched, interval: float) -> None:
        self._transport = transport
        self._interval = interval
        self._opener: Any = None
        self._packets = 0
        self._silent = 0
        clock, interval = self._key()
        shared = _shared.get((clock, interval))
        if shared is None:
            ticker = Ticker(clock, interval / LOOKS, SLOTS)
            shared = _shared[clock, interval] = _Shared(ticker)
        shared.users += 1
        self._tick: Tick | None = shared.ticker.add(self._look)

    def _key(self) -> tuple[IReactorTime, float]:
        return self._transport.clock, self._interval

    def stop(self) -> None:
        """Watch no more. May be called twice."""
        tick, self._tick = self._tick, None
        if tick is None:
            return
        tick.cancel()
        shared = _shared[self._key()]
        shared.users -= 1
        if not shared.users:
            shared.ticker.stop()
            del _shared[self._key()]

    def _look(self) -> None:
        transport = self._transport
        opener = transport.incoming.opener
        if opener is not self._opener or opener.packets != self._packets:
            self._opener, self._packets = opener, opener.packets
            self._silent = 0
            return
        self._silent += 1
        asked, since = divmod(self._silent, LOOKS)
        if since:
            return
        if asked > transport.limits.keepalive_misses:
            self.stop()
            transport.peer_timed_out(asked * self._interval)
        elif transport.service is not None:
            asking = transport.service.sendGlobalRequest(QUESTION, b"", wantReply=True)
            asking.addErrback(_no_matter)


def _no_matter(_: object) -> None:
    """A refusal is an answer; that the connection ended is told elsewhere."""
