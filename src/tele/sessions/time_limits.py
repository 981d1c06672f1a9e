"""When does a connection end by time: its user is idle, or its certificate has expired?

Invariants:

* A terminal is idle while its user sends nothing, whatever it shows. A channel without a terminal
  is idle while no byte passes in either direction. A connection is idle while all its channels
  are, and none opens or closes. Keepalives and sizes of terminals are no activity.
* Nothing is counted where data pass: the windows of channels are compared now and then, so that an
  idle connection may last up to :data:`PERIOD` seconds longer than the limit.
* Terminals show it a minute before the end, or at half of a shorter time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any, Final, Protocol

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from tele.conch.session.channel import SessionChannel
from tele.loop import DateTimer
from tele.model.access import Denied, Grant, Reason
from tele.text import duration

#: Seconds between two looks at the channels of a connection, at most.
PERIOD: Final = 15.0
#: Looks in the time that a connection may be idle, at least.
LOOKS: Final = 8
#: Seconds before the end when it is announced, at most.
NOTICE: Final = 60.0


class LimitedConnection(Protocol):
    """What is needed of an SSH connection."""

    @property
    def channels(self) -> Mapping[int, Any]:
        """Those that are open, by their numbers."""


class TimeLimits:
    """The time limits of one connection, by its grant.

    :param connection: returns it, or None before it is there.
    :param expel: ends it, with the reason.
    """

    __slots__ = (
        "_active", "_connection", "_date", "_ends", "_expel", "_idle", "_noticed", "_reactor",
        "_seen", "_timer",
    )  # fmt: skip

    def __init__(
        self,
        reactor: IReactorTime,
        connection: Callable[[], LimitedConnection | None],
        expel: Callable[[Denied], None],
    ) -> None:
        self._reactor = reactor
        self._connection = connection
        self._expel = expel
        self._idle = 0.0
        self._ends: datetime | None = None
        self._active = reactor.seconds()
        self._noticed = False
        self._seen: object = None
        self._timer: IDelayedCall | None = None
        self._date: DateTimer | None = None

    def follow(self, grant: Grant) -> None:
        """Apply the limits of ``grant`` from now on."""
        idle = (grant.client_idle_timeout or timedelta(0)).total_seconds()
        if idle != self._idle:
            self._idle = idle
            self._stop_timer()
            if idle:
                self._begin()
        ends = grant.expires if grant.disconnect_expired_cert else None
        if ends != self._ends:
            self._ends = ends
            self._stop_date()
            if ends is not None:
                first = ends - timedelta(seconds=NOTICE)
                self._date = DateTimer(self._reactor, first, self._expires_soon)

    def stop(self) -> None:
        """The connection has ended."""
        self._stop_timer()
        self._stop_date()
        self._idle, self._ends = 0.0, None

    def _stop_timer(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()

    def _stop_date(self) -> None:
        date, self._date = self._date, None
        if date is not None:
            date.cancel()

    # -- idle -------------------------------------------------------------------------
    def _begin(self) -> None:
        self._active, self._noticed = self._reactor.seconds(), False
        self._seen = self._look()
        self._wait(self._idle)

    def _wait(self, left: float) -> None:
        pause = min(left, PERIOD, self._idle / LOOKS)
        self._timer = self._reactor.callLater(pause, self._check)

    def _check(self) -> None:
        self._timer = None
        seen = self._look()
        if seen != self._seen:
            self._seen = seen
            self._active, self._noticed = self._reactor.seconds(), False
        left = self._active + self._idle - self._reactor.seconds()
        if left <= 0:
            text = f"idle for {duration(self._idle)}, which is the limit here"
            self._expel(Denied(Reason.IDLE, text))
            return
        notice = min(NOTICE, self._idle / 2)
        if left <= notice and not self._noticed:
            self._noticed = True
            self._show(
                f"idle for {duration(self._idle - left)}: this connection ends in"
                f" {duration(left)} unless you type something"
            )
        self._wait(left if self._noticed else left - notice)

    def _channels(self) -> list[Any]:
        connection = self._connection()
        return [] if connection is None else list(connection.channels.values())

    def _look(self) -> object:
        """Return a value that differs from the one before if there was activity in between."""
        return [
            (
                id(channel),
                channel.localWindowLeft,
                None if _is_terminal(channel) else channel.remoteWindowLeft,
            )
            for channel in self._channels()
        ]

    def _show(self, text: str) -> None:
        for channel in self._channels():
            if _is_terminal(channel):
                channel.notice(text)

    # -- the certificate --------------------------------------------------------------
    def _expires_soon(self) -> None:
        self._date = None
        if self._ends is None:
            return
        self._show("your certificate expires within a minute, and this connection ends with it")
        self._date = DateTimer(self._reactor, self._ends, self._expired)

    def _expired(self) -> None:
        self._date = None
        text = "the certificate has expired, and a connection may not outlast it here: log in again"
        self._expel(Denied(Reason.EXPIRED, text))


def _is_terminal(channel: object) -> bool:
    return isinstance(channel, SessionChannel) and channel.has_terminal
