"""How large do the windows of a connection's channels have to be?

A window is how much may be under way in one round trip: 2 MiB fill a link of 1 Gbit/s up to
16 ms. So in the midst of a bulk transfer we ask the peer something, see how long the answer
takes and how much came meanwhile, and let the window grow if it was the window that was
waited for.

Invariants:

* A window grows only while what comes is used up at once and the last growth made it come
  faster: never for a consumer that is behind, nor for a queue on the way.
* All windows of a connection together have a limit, and so have those of all connections that
  share a budget, such as a person's; a closed channel gives back its own.
* An idle channel costs nothing: only bulk data are measured, by one question at a time, and
  seldom where that was in vain.
"""

from __future__ import annotations

from typing import Any, Final

from attrs import define

from tele.conch.transport.keepalive import QUESTION

#: What a channel gets whose connection has used up its limit: two packets.
LEAST: Final = 64 * 1024
#: Bytes a second that are enough for anybody: a window that lets so much pass stays as it is.
ENOUGH: Final = 256 * 1024 * 1024
#: How much faster it has to be than before the last growth.
GAIN: Final = 1.2
#: Seconds until the next question, after a vain one.
REST: Final = 1.0


@define(eq=False)
class WindowBudget:
    """What the windows of several connections may have together, in bytes."""

    limit: int
    taken: int = 0


@define(eq=False)
class _Measure:
    """What ``channel`` used up since a question was asked."""

    channel: Any
    asked: float
    used: int = 0


class Windows:
    """The windows of ``connection``: each at most ``most`` bytes, together ``limit``, and what
    ``shared`` has left.
    """

    __slots__ = (
        "_connection",
        "_limit",
        "_measure",
        "_most",
        "_rates",
        "_rest_until",
        "_shared",
        "_taken",
    )

    def __init__(
        self, connection: Any, most: int, limit: int, shared: WindowBudget | None = None
    ) -> None:
        self._shared = shared
        self._connection = connection
        self._most = most
        self._limit = limit
        self._taken = 0
        self._measure: _Measure | None = None
        self._rest_until = 0.0
        self._rates: dict[Any, float] = {}

    def open(self, channel: Any) -> None:
        """Give ``channel``, of which the peer does not know yet, its window."""
        wanted = channel.localWindowSize
        if wanted > self._left():
            wanted = channel.localWindowSize = channel.localWindowLeft = min(wanted, LEAST)
        self._take(wanted)

    def _left(self) -> int:
        left = self._limit - self._taken
        shared = self._shared
        return left if shared is None else min(left, shared.limit - shared.taken)

    def _take(self, size: int) -> None:
        self._taken += size
        if self._shared is not None:
            self._shared.taken += size

    def close(self, channel: Any) -> None:
        """Take it back."""
        self._take(-channel.localWindowSize)
        self._rates.pop(channel, None)
        if self._measure is not None and self._measure.channel is channel:
            self._measure.channel = None

    def used(self, channel: Any, count: int) -> None:
        """``channel`` used up ``count`` bytes, for which it has just given credit."""
        measure = self._measure
        if measure is not None:
            if measure.channel is channel:
                measure.used += count
        elif channel.localWindowSize < self._most:
            now = self._connection.transport.clock.seconds()
            if now >= self._rest_until:
                self._measure = _Measure(channel, now)
                answer = self._connection.sendGlobalRequest(QUESTION, b"", wantReply=True)
                answer.addBoth(self._answered)

    def _answered(self, _: object) -> None:
        """A round trip is over. What the answer says is of no interest."""
        measure, self._measure = self._measure, None
        now = self._connection.transport.clock.seconds()
        if measure is None or measure.channel is None or not measure.channel.is_open:
            return
        channel, trip = measure.channel, now - measure.asked
        if self._is_too_small(channel, measure.used, trip) and self._grow(channel):
            self._rates[channel] = measure.used / trip
            # What the larger window lets come is here after one more trip.
            self._rest_until = now + 2 * trip
        else:
            self._rest_until = now + REST

    def _is_too_small(self, channel: Any, used: int, trip: float) -> bool:
        size = channel.localWindowSize
        return (
            trip > size / ENOUGH
            and used >= size * 2 // 3
            and channel.unused <= size // 8
            and used / trip >= self._rates.get(channel, 0.0) * GAIN
        )

    def _grow(self, channel: Any) -> bool:
        size = channel.localWindowSize
        more = min(size, self._most - size, self._left())
        if more <= 0:
            return False
        self._take(more)
        channel.localWindowSize += more
        self._connection.adjustWindow(channel, more)
        return True
