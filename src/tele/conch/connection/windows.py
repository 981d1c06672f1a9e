"""How large do the windows of a connection's channels have to be?

A window limits the bytes in flight in one round trip: 2 MiB fill a link of 1 Gbit/s up to 16 ms.
During a bulk transfer a global request measures the round trip time and the bytes that arrive in
it. The window grows if the transfer was limited by the window.

Invariants:

* A window grows only while data are consumed at once and the last growth raised the rate: not for
  a slow consumer, nor for a queue in the network.
* All windows of a connection together have a limit, and so have those of all connections that
  share a budget, such as a user's; a closed channel returns its own.
* An idle channel costs nothing: only bulk data are measured, by one request at a time, and
  seldom where a measurement did not lead to growth.
"""

from __future__ import annotations

from typing import Any, Final, Protocol

from attrs import define
from twisted.internet.defer import Deferred
from zope.interface import Attribute, Interface

from tele.conch.transport.keepalive import REQUEST

#: The window of a channel whose connection has reached its limit: two packets.
MIN_WINDOW: Final = 64 * 1024
#: Bytes a second: a window that allows this rate does not grow.
SUFFICIENT_RATE: Final = 256 * 1024 * 1024
#: The rate has to be so many times that before the last growth.
MIN_GAIN: Final = 1.2
#: Seconds until the next measurement, after one that did not lead to growth.
PAUSE: Final = 1.0


@define(eq=False)
class WindowBudget:
    """The limit of the windows of several connections together, and their sum, in bytes."""

    limit: int
    taken: int = 0


class ISharedWindows(Interface):
    """Connections share a window budget. An avatar provides it or adapts to it."""

    window_budget: WindowBudget | None = Attribute("the budget, if there is one")


def budget_of(avatar: Any) -> WindowBudget | None:
    """Return the window budget that ``avatar`` shares with others, or None."""
    shared = ISharedWindows(avatar, None)
    return None if shared is None else shared.window_budget


class _Channel(Protocol):
    """What of a channel is needed here, also of a Conch program's own."""

    localWindowSize: int
    localWindowLeft: int


class _Consumer(_Channel, Protocol):
    """A channel that says what it consumed."""

    @property
    def is_open(self) -> bool:
        """Whether data may be sent."""

    @property
    def unconsumed(self) -> int:
        """Bytes that were received and not consumed."""


class _Connection(Protocol):
    """What of a connection is needed here."""

    transport: Any

    def sendGlobalRequest(
        self, request: bytes, data: bytes, wantReply: bool = False
    ) -> Deferred[Any]:
        """Ask the peer, which replies."""

    def adjustWindow(self, channel: Any, bytesToAdd: int) -> None:
        """Give the peer credit."""


@define(eq=False)
class _Measure:
    """How many bytes ``channel`` has consumed since a request was sent."""

    channel: _Consumer | None
    sent_at: float
    consumed: int = 0


class Windows:
    """The windows of ``connection``: each at most ``window_limit`` bytes, all at most ``limit`` and
    what ``shared`` has left.
    """

    __slots__ = (
        "_connection",
        "_limit",
        "_measure",
        "_pause_until",
        "_rates",
        "_shared",
        "_taken",
        "_window_limit",
    )

    def __init__(
        self,
        connection: _Connection,
        window_limit: int,
        limit: int,
        shared: WindowBudget | None = None,
    ) -> None:
        self._shared = shared
        self._connection = connection
        self._window_limit = window_limit
        self._limit = limit
        self._taken = 0
        self._measure: _Measure | None = None
        self._pause_until = 0.0
        self._rates: dict[_Channel, float] = {}

    def open(self, channel: _Channel) -> None:
        """Give ``channel``, which the peer does not know yet, its window."""
        wanted = channel.localWindowSize
        if wanted > self._left():
            wanted = channel.localWindowSize = channel.localWindowLeft = min(wanted, MIN_WINDOW)
        self._take(wanted)

    def _left(self) -> int:
        left = self._limit - self._taken
        shared = self._shared
        return left if shared is None else min(left, shared.limit - shared.taken)

    def _take(self, size: int) -> None:
        self._taken += size
        if self._shared is not None:
            self._shared.taken += size

    def close(self, channel: _Channel) -> None:
        """Return the window of ``channel``."""
        self._take(-channel.localWindowSize)
        self._rates.pop(channel, None)
        if self._measure is not None and self._measure.channel is channel:
            self._measure.channel = None

    def consumed(self, channel: _Consumer, count: int) -> None:
        """``channel`` consumed ``count`` bytes and has just given credit for them."""
        measure = self._measure
        if measure is not None:
            if measure.channel is channel:
                measure.consumed += count
        elif channel.localWindowSize < self._window_limit:
            now = self._connection.transport.clock.seconds()
            if now >= self._pause_until:
                self._measure = _Measure(channel, now)
                answer = self._connection.sendGlobalRequest(REQUEST, b"", wantReply=True)
                answer.addBoth(self._answered)

    def _answered(self, _: object) -> None:
        """A round trip is over. A refusal is a reply, too."""
        measure, self._measure = self._measure, None
        now = self._connection.transport.clock.seconds()
        if measure is None or measure.channel is None or not measure.channel.is_open:
            return
        channel, trip = measure.channel, now - measure.sent_at
        if self._limits(channel, measure.consumed, trip) and self._grow(channel):
            self._rates[channel] = measure.consumed / trip
            # The data of the larger window arrive after one more round trip.
            self._pause_until = now + 2 * trip
        else:
            self._pause_until = now + PAUSE

    def _limits(self, channel: _Consumer, consumed: int, trip: float) -> bool:
        """Return whether the window of ``channel`` limits its rate."""
        size = channel.localWindowSize
        return (
            trip > size / SUFFICIENT_RATE
            and consumed >= size * 2 // 3
            and channel.unconsumed <= size // 8
            and consumed / trip >= self._rates.get(channel, 0.0) * MIN_GAIN
        )

    def _grow(self, channel: _Consumer) -> bool:
        size = channel.localWindowSize
        more = min(size, self._window_limit - size, self._left())
        if more <= 0:
            return False
        self._take(more)
        channel.localWindowSize += more
        self._connection.adjustWindow(channel, more)
        return True
