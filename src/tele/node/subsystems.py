"""Which subsystems does a node have, and how is one of them served?

Invariants:

* ``sftp`` is the node's own: no configuration replaces what is recorded as file transfer.
* A protocol has pipes like any program, so that windows, limits and recording are the same.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IProtocol
from twisted.internet.stdio import StandardIO
from twisted.python.failure import Failure
from zope.interface import implementer

from tele.capacity.descriptors import Account
from tele.conch.session.programs import Exit, IHoldsDescriptors, IProgram
from tele.errors import InvalidInput, Unavailable, quoted
from tele.interfaces import ISubsystem
from tele.reactor import Reactor

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,127}", re.ASCII)


def by_name(subsystems: Iterable[ISubsystem]) -> Mapping[str, ISubsystem]:
    """Return them by their names; raises :class:`InvalidInput` for names that cannot be."""
    found: dict[str, ISubsystem] = {}
    for each in subsystems:
        name = str(each.name)
        if not _NAME.fullmatch(name):
            raise InvalidInput(f"{quoted(name)} is no name of a subsystem")
        if name == "sftp":
            raise InvalidInput("the subsystem sftp is the node's own")
        if name in found:
            raise InvalidInput(f"there are two subsystems {name}")
        found[name] = each
    return found


class _Pipes(StandardIO):
    """The protocol's side; ``over()`` is called once, at its end."""

    def __init__(
        self, protocol: Any, reading: int, writing: int, reactor: Reactor, over: Callable[[], None]
    ) -> None:
        self._over = over
        self._open = {"read": reading, "write": writing}
        # The checker sees the class that Windows has.
        super().__init__(protocol, stdin=reading, stdout=writing, reactor=reactor)  # type: ignore[call-arg]

    def childConnectionLost(self, fd: str, reason: Failure) -> None:
        """One pipe is done with. Twisted leaves standard input and output open."""
        descriptor = self._open.pop(fd, None)
        if descriptor is not None:
            os.close(descriptor)
        super().childConnectionLost(fd, reason)  # type: ignore[misc]

    def loseConnection(self) -> None:
        """End, after what was written; Twisted's does not if the client reads no more."""
        if "write" in self._open:
            super().loseConnection()
        else:
            self.connectionLost(Failure(ConnectionDone()))

    def connectionLost(self, reason: Failure) -> None:
        """The protocol's end, or the client's."""
        super().connectionLost(reason)  # type: ignore[misc]
        self._over()


@implementer(IProgram, IHoldsDescriptors)
class SpokenProgram:
    """A protocol in place of a process; see :class:`tele.conch.session.programs.IProgram`."""

    stderr: int | None = None
    tap: Any = None

    def __init__(self, reactor: Reactor, protocol: IProtocol, account: Account) -> None:
        self.exited: Deferred[Exit] = Deferred()
        self._channels = account.take(2)  # the ends of the two pipes that the channel closes
        try:
            self._protocols = account.take(2)
            reading, writing = self._make_pipes()
        except BaseException:
            self._channels.release()
            raise
        self._pipes = _Pipes(protocol, reading, writing, reactor, self._over)

    def _make_pipes(self) -> tuple[int, int]:
        """Make both pipes; return the ends of the protocol."""
        made: list[int] = []
        try:
            made += os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
            made += os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            for descriptor in made:
                os.close(descriptor)
            self._protocols.release()
            raise Unavailable(f"the node cannot start a session: {error.strerror}") from None
        reading, self.stdin, self.stdout, writing = made
        return reading, writing

    def _over(self) -> None:
        self._protocols.release()
        if not self.exited.called:
            self.exited.callback(Exit(0))

    def descriptors_closed(self) -> None:
        """See :class:`tele.conch.session.programs.IHoldsDescriptors`."""
        self._channels.release()

    def signal(self, name: str) -> bool:
        """Do nothing: there is no process."""
        return False

    def resize(self, columns: int, rows: int, width: int, height: int) -> None:
        """Do nothing: there is no terminal."""

    def hang_up(self) -> None:
        """The client is gone."""
        if not self.exited.called:
            self._pipes.loseConnection()
