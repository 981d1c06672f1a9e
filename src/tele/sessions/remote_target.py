"""When is the connection of one client to its target made, and when does it end?

Invariants:

* It is made when it is needed first, once; after a loss, again.
* It ends with the client's connection: at once, or when what was told to end has ended, at most
  a grace period later.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from tele.conch.session.remote_program import LINGER
from tele.errors import Unreachable
from tele.single_flight import SingleFlight

#: Seconds between two looks at what still runs.
POLL_SECONDS: Final = 0.25


class RemoteTarget:
    """The target of one client's connection.

    :param name: what users call it.
    :param connect: connects and logs in; fires with the connection service.
    """

    def __init__(
        self, reactor: IReactorTime, name: str, connect: Callable[[], Deferred[Any]]
    ) -> None:
        self.name = name
        self._reactor = reactor
        self._connect = connect
        self._connecting = SingleFlight(self._make)
        self._connection: Any = None
        self._on_connected: list[Callable[[Any], object]] = []
        self._closed = False
        self._until = 0.0

    def on_connected(self, callback: Callable[[Any], object]) -> None:
        """Call ``callback`` with each connection service: with the present one at once, with others
        before they are used.
        """
        self._on_connected.append(callback)
        if (present := self.current) is not None:
            callback(present)

    def connection(self) -> Deferred[Any]:
        """Return the connection service of the target; can be cancelled.

        Fails with a :class:`tele.errors.TeleError`, whose text is for the user.
        """
        return self._connecting.call()

    async def _make(self) -> Any:
        self._check()
        if self._connection is None or self._connection.is_lost:
            self._connection = None
            made = await self._connect()
            try:
                self._check()
            except Unreachable:
                made.transport.loseConnection()
                raise
            self._connection = made
            for callback in self._on_connected:
                callback(made)
        return self._connection

    def _check(self) -> None:
        if self._closed:
            raise Unreachable("the client disconnected")

    @property
    def current(self) -> Any:
        """The connection service, if there is a connection now."""
        connection = self._connection
        return None if connection is None or connection.is_lost else connection

    def close(self) -> None:
        """The client's connection has ended."""
        if self._closed:
            return
        self._closed = True
        self._connecting.cancel()
        self._until = self._reactor.seconds() + LINGER
        self._close_when_done()

    def _close_when_done(self) -> None:
        """Programs that were told to end, and input that was sent, get some time."""
        connection = self.current
        if connection is None:
            return
        if connection.channels and self._reactor.seconds() < self._until:
            self._reactor.callLater(POLL_SECONDS, self._close_when_done)
        else:
            connection.transport.loseConnection()
