"""How does a server stop without breaking connections that are in use?

No new connections are accepted by then. A connection with open channels stays until it has none,
or until a deadline. Then all connections are closed with a reason.

Invariants:

* Unauthenticated connections are closed at once.
* It ends at the deadline, or at once when it is forced; a peer that does not read the reason has
  ``limits.linger`` seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from twisted.internet.interfaces import IReactorTime

from tele.conch.connection.connection import SSHConnection
from tele.conch.server.transport import SSHServerTransport
from tele.log import make_logger
from tele.wakeup import Wakeup

log = make_logger(__name__)

#: Seconds between two checks whether all connections are closed.
POLL_SECONDS: Final = 0.2


def has_channels(transport: SSHServerTransport) -> bool:
    """Whether the connection has open channels."""
    service = transport.service
    return isinstance(service, SSHConnection) and bool(service.channels)


class Drain:
    """Closes the connections of one server. ``present()`` returns them."""

    def __init__(
        self,
        clock: IReactorTime,
        present: Callable[[], Iterable[SSHServerTransport]],
        busy: Callable[[SSHServerTransport], bool] = has_channels,
    ) -> None:
        self._clock = clock
        self._present = present
        self._busy = busy
        self._forced = False
        self._wakeup = Wakeup(clock)

    def force(self) -> None:
        """Wait no longer, now or later."""
        self._forced = True
        self._wakeup.set()

    async def start(self, grace: float, why: str) -> None:
        """Wait up to ``grace`` seconds for busy connections, then close all with ``why``."""
        for transport in list(self._present()):
            if not transport.isAuthenticated:
                transport.dismiss(why)
        deadline = self._clock.seconds() + grace
        logged = False
        while not self._forced and (busy := [t for t in self._present() if self._busy(t)]):
            left = deadline - self._clock.seconds()
            if left <= 0:
                log.info("closing connections that are in use", count=len(busy), reason=why)
                break
            if not logged:
                logged = True
                log.info("draining: waiting for connections to close",
                         count=len(busy), seconds=round(grace), reason=why)  # fmt: skip
            await self._wakeup.wait(min(POLL_SECONDS, left))
        await self._end_all(why)

    async def _end_all(self, why: str) -> None:
        linger = 0.0
        for transport in list(self._present()):
            linger = max(linger, transport.limits.linger)
            transport.dismiss(why)
        deadline = self._clock.seconds() + linger + POLL_SECONDS
        while any(self._present()) and (left := deadline - self._clock.seconds()) > 0:
            await self._wakeup.wait(min(POLL_SECONDS / 4, left))
