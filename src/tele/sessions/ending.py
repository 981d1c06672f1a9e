"""When does a user's access end, and what ends with it?

Invariants:

* Nothing new begins after access has ended, or after the certificate has expired.
* What was started, or is being started, ends: it is told, and after a grace period it is killed.
  By a time limit the connection ends, and access does not: programs are hung up, as when a client
  disconnects, and detached ones go on.
* The client gets the reason as its last message.
"""

from __future__ import annotations

from typing import Any, Final

from twisted.internet.interfaces import IReactorTime

from tele.conch.session.programs import Exit, IProgram
from tele.errors import AccessDenied
from tele.loop import Expiry
from tele.model.access import Denied, Grant, Reason
from tele.spawner.control_groups import EXPELLED_GRACE

#: Why a connection ends whose user may begin another one.
TIME_LIMITS: Final = (Reason.IDLE, Reason.EXPIRED)


class IExpellable(IProgram):
    """A program that ends with the access of its user."""

    def expel() -> None:
        """Access has ended: end, with all that was started."""

    def kill() -> None:
        """End, whatever is ignored."""


class SessionEnding:
    """The end of access of one connection, which its ``grant`` gave."""

    __slots__ = ("_expiry", "_reactor", "_running", "denied")

    def __init__(self, reactor: IReactorTime, grant: Grant) -> None:
        #: Why access ended, once it has.
        self.denied: Denied | None = None
        self._reactor = reactor
        self._expiry = Expiry(reactor, grant.expires)
        self._running: dict[Any, None] = {}

    def check(self) -> None:
        """Raise :class:`AccessDenied` if nothing may begin any more."""
        if self.denied is not None:
            raise AccessDenied(self.denied.message, self.denied.reason.value)
        if self._expiry.has_passed:
            raise AccessDenied(
                "the certificate has expired since you logged in: log in again",
                Reason.EXPIRED.value,
            )

    def follow(self, program: Any) -> None:
        """Keep a running program, if it is :class:`IExpellable`, to end it when access ends."""
        if not IExpellable.providedBy(program):
            return
        self._running[program] = None

        def ended(how: Exit) -> Exit:
            self._running.pop(program, None)
            return how

        program.exited.addCallback(ended)
        if self.denied is not None and self.denied.reason not in TIME_LIMITS:
            # Access ended while it was being started.
            program.expel()

    def end(self, program: Any) -> None:
        """A program that runs is not permitted any more: it ends, and the connection goes on."""
        if program not in self._running:
            return
        program.expel()
        self._reactor.callLater(EXPELLED_GRACE, self._kill_one, program)

    def _kill_one(self, program: Any) -> None:
        if program in self._running:
            program.kill()

    def expel(self, denied: Denied, connection: Any) -> None:
        """Access has ended: so does what runs, and the ``connection``, if there is one yet."""
        self.denied = denied
        programs = [] if denied.reason in TIME_LIMITS else list(self._running)
        for program in programs:
            program.expel()
        if connection is not None:
            connection.transport.evict(denied.message)
        if programs:
            self._reactor.callLater(EXPELLED_GRACE, self._kill)

    def _kill(self) -> None:
        for program in list(self._running):
            program.kill()
