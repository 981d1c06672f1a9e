"""Does the peer still respond?

After some seconds of silence the peer is sent a request that it has to answer, as OpenSSH does
(``ClientAliveInterval``, ``ServerAliveInterval``). After a few unanswered requests the connection
is closed at once, so that a broken network path does not hold resources for long.

Invariants:

* An interval of 0 sends nothing. An avatar may have a ``keepalive_interval``, in seconds; the
  limits of the server hold for all others.
* Any packet of the peer shows that it responds. That its kernel takes our bytes does not: the
  connection of a stopped program, which reads and answers nothing, is closed, as with OpenSSH.
  A client whose user reads no output does answer: a full window stops data only.
* One timer for all connections of one interval. A request is sent only in silence, and no more
  are unanswered than ``limits.keepalive_misses``.
"""

from __future__ import annotations

from typing import Any, Final, Protocol

from attrs import define
from twisted.internet.interfaces import IReactorTime

from tele.admission.limits import Limits
from tele.conch.transport.incoming import Incoming
from tele.loop import Tick, Ticker
from tele.wire.packets import Opener

#: Every peer answers it, most with a failure (RFC 4254, section 4).
REQUEST: Final = b"keepalive@openssh.com"
#: How often in an interval each peer is checked for silence.
CHECKS: Final = 3
#: How often the timer wakes between two checks of one peer: once a second by default.
SLOTS: Final = 5


@define
class _Shared:
    """The one timer of a clock and an interval, and how many use it."""

    ticker: Ticker
    users: int = 0


_shared: Final[dict[tuple[IReactorTime, float], _Shared]] = {}


class Watched(Protocol):
    """A transport whose peer is watched. Its service sends the requests."""

    clock: IReactorTime
    limits: Limits
    incoming: Incoming
    service: Any
    closing: bool

    def peer_timed_out(self, seconds: float) -> None:
        """The peer answered nothing for ``seconds``."""


def watch(transport: Watched) -> Keepalive | None:
    """Watch the peer of the authenticated ``transport``; None if it gets no requests."""
    avatar = getattr(transport, "avatar", None)
    own: float | None = getattr(avatar, "keepalive_interval", None)
    interval = transport.limits.keepalive_interval if own is None else own
    sends = hasattr(transport.service, "sendGlobalRequest") and not transport.closing
    return Keepalive(transport, interval) if interval and sends else None


class Keepalive:
    """Watches the peer of ``transport`` until :meth:`stop`."""

    __slots__ = ("_interval", "_opener", "_packets", "_silent", "_tick", "_transport")

    def __init__(self, transport: Watched, interval: float) -> None:
        self._transport = transport
        self._interval = interval
        self._opener: Opener | None = None
        self._packets = 0
        self._silent = 0
        clock, interval = self._key()
        shared = _shared.get((clock, interval))
        if shared is None:
            ticker = Ticker(clock, interval / CHECKS, SLOTS)
            shared = _shared[clock, interval] = _Shared(ticker)
        shared.users += 1
        self._tick: Tick | None = shared.ticker.add(self._check)

    def _key(self) -> tuple[IReactorTime, float]:
        return self._transport.clock, self._interval

    def stop(self) -> None:
        """Stop watching. May be called twice."""
        tick, self._tick = self._tick, None
        if tick is None:
            return
        tick.cancel()
        shared = _shared[self._key()]
        shared.users -= 1
        if not shared.users:
            shared.ticker.stop()
            del _shared[self._key()]

    def _check(self) -> None:
        transport = self._transport
        opener = transport.incoming.opener
        if opener is not self._opener or opener.packets != self._packets:
            self._opener, self._packets = opener, opener.packets
            self._silent = 0
            return
        self._silent += 1
        unanswered, since = divmod(self._silent, CHECKS)
        if since:
            return
        if unanswered > transport.limits.keepalive_misses:
            self.stop()
            transport.peer_timed_out(unanswered * self._interval)
        elif transport.service is not None:
            sent = transport.service.sendGlobalRequest(REQUEST, b"", wantReply=True)
            sent.addErrback(_ignore)


def _ignore(_: object) -> None:
    """A failure is an answer; the end of the connection is handled elsewhere."""
