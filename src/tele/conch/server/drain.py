"""How does a server stop without cutting anybody off who is in the middle of something?

Nobody new is taken in by then. Whoever has a channel open may go on until there is none, or
until a deadline; they are told nothing. Then all connections end with a word why.

Invariants:

* Strangers are sent away at once: who has not logged in yet begins nothing here.
* It ends: at the deadline, or at once when somebody is in a hurry, and a peer that does not
  read our last words has as long as any other that lingers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from tele.conch.server.transport import SSHServerTransport
from tele.log import make_logger

log = make_logger(__name__)

#: How often it is looked whether all have ended, in seconds.
POLL_SECONDS: Final = 0.2


def has_channels(transport: SSHServerTransport) -> bool:
    """Whether somebody is in the middle of something, as far as a node can tell."""
    return bool(getattr(transport.service, "channels", None))


class Drain:
    """Ends the connections of one server. ``present()`` are those that it has."""

    def __init__(
        self,
        clock: IReactorTime,
        present: Callable[[], Iterable[SSHServerTransport]],
        busy: Callable[[SSHServerTransport], bool] = has_channels,
    ) -> None:
        self._clock = clock
        self._present = present
        self._busy = busy
        self._hurried = False
        self._waking: Deferred[None] | None = None
        self._timer: IDelayedCall | None = None

    def force(self) -> None:
        """Wait for nobody, now and later."""
        self._hurried = True
        self._wake()

    async def start(self, grace: float, why: str) -> None:
        """Wait up to ``grace`` seconds for those who are busy, then end all with ``why``."""
        for transport in list(self._present()):
            if not transport.isAuthenticated:
                transport.dismiss(why)
        deadline = self._clock.seconds() + grace
        told = False
        while not self._hurried and (busy := [t for t in self._present() if self._busy(t)]):
            left = deadline - self._clock.seconds()
            if left <= 0:
                log.info("{count} connections did not end in time: {why}",
                         count=len(busy), why=why)  # fmt: skip
                break
            if not told:
                told = True
                log.info("waiting up to {seconds:.0f} s for {count} connections to end: {why}",
                         seconds=grace, count=len(busy), why=why)  # fmt: skip
            await self._pause(min(POLL_SECONDS, left))
        await self._end_all(why)

    async def _end_all(self, why: str) -> None:
        linger = 0.0
        for transport in list(self._present()):
            linger = max(linger, transport.limits.linger)
            transport.dismiss(why)
        deadline = self._clock.seconds() + linger + POLL_SECONDS
        while any(self._present()) and (left := deadline - self._clock.seconds()) > 0:
            await self._pause(min(POLL_SECONDS / 4, left))

    def _pause(self, seconds: float) -> Deferred[None]:
        self._timer = self._clock.callLater(seconds, self._wake)
        self._waking = Deferred(lambda _: self._wake())
        return self._waking

    def _wake(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None and timer.active():
            timer.cancel()
        waking, self._waking = self._waking, None
        if waking is not None and not waking.called:
            waking.callback(None)
