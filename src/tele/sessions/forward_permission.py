"""May one connection have this forwarded, now?

Invariants:

* Each kind needs its own permission of the grant, as it is now.
* So many connections of a user are forwarded at once, over all their connections; more wait.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from attrs import frozen
from twisted.internet.defer import CancelledError, Deferred

from tele.admission.slots import Slots
from tele.conch.forwarding.remote import PathRequest, PortRequest
from tele.errors import AccessDenied, Unavailable, quoted
from tele.sessions.context import ConnectionContext
from tele.sessions.forward_record import ForwardRecord

#: The kind, and the key, of a forwarded agent.
AGENT: Final = "auth-agent"


@frozen
class ForwardPermission:
    """Checks the grant before anything is made; ``check()`` raises when nothing new may begin."""

    context: ConnectionContext
    check: Callable[[], None]

    def port(self) -> None:
        """Raise :class:`AccessDenied` unless ports and sockets may be forwarded now."""
        self._need(self.context.grant.port_forwarding, "port forwarding")

    def agent(self) -> None:
        """Raise it unless an agent may."""
        self._need(self.context.grant.agent_forwarding, "agent forwarding")

    def display(self) -> None:
        """Raise it unless a display may."""
        self._need(self.context.grant.x11_forwarding, "X11 forwarding")

    def listens(self, key: object) -> bool:
        """Whether what listens under ``key`` still may."""
        grant = self.context.grant
        if key == AGENT:
            return grant.agent_forwarding
        if isinstance(key, PortRequest | PathRequest):
            return grant.port_forwarding
        return grant.x11_forwarding

    def _need(self, granted: bool, what: str) -> None:
        if not granted:
            raise AccessDenied(f"{what} is not allowed", "forwarding")
        self.check()


class ForwardSlots:
    """The places of one user's connection among those of ``slots``, of which the user may have
    ``most()``.
    """

    def __init__(self, slots: Slots, user: str, most: Callable[[], int]) -> None:
        self._slots = slots
        self._user = user
        self._most = most
        #: Connections that wait to be forwarded.
        self._waiting: set[Deferred[None]] = set()

    async def take(self, record: ForwardRecord) -> None:
        """Wait until one more connection may be forwarded for the user; it counts until ``record``
        is over. Raises :class:`Unavailable`.
        """
        ready: Deferred[None] = Deferred()
        slot = self._slots.enter(self._user, self._most, lambda: ready.callback(None))
        if slot is None:
            raise Unavailable(
                f"{self._slots.waiting} connections of {quoted(self._user)} wait to be forwarded"
                f" here already, beside {self._most()} that are: close some"
            )
        record.on_end = lambda: self._slots.leave(slot)
        self._waiting.add(ready)
        try:
            await ready
        except CancelledError:
            raise Unavailable("the client disconnected while its forward waited") from None
        finally:
            self._waiting.discard(ready)

    def check(self) -> None:
        """The limit may have changed: serve those that wait."""
        self._slots.check(self._user)

    def close(self) -> None:
        """The connection is gone."""
        for waiting in list(self._waiting):
            waiting.cancel()
