"""How does a command serve a subsystem? As with sshd's ``Subsystem NAME COMMAND``."""

from __future__ import annotations

from attrs import frozen
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IProtocol
from zope.interface import implementer

from tele.interfaces import ISubsystem, SubsystemSession


@implementer(ISubsystem)
@frozen
class CommandSubsystem:
    """Runs the command ``line`` for the subsystem ``name``."""

    name: str
    line: str

    def start(self, session: SubsystemSession) -> Deferred[str | IProtocol]:
        """See :class:`ISubsystem`."""
        return succeed(self.line)
