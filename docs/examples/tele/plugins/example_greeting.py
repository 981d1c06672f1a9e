"""A subsystem: ``ssh -s NODE greeting`` answers each line that it is sent.

With the folder above on Python's path, ``subsystems: ["greeting:Good morning"]`` in the
section ``node`` chooses it. It runs in the node's own process, so it does nothing that
a user may not request.
"""

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IHalfCloseableProtocol, IProtocol
from twisted.plugin import IPlugin
from twisted.protocols.basic import LineReceiver
from zope.interface import implementer

from tele.interfaces import ISubsystem, ISubsystemFactory, SubsystemSession, Surroundings


@implementer(IHalfCloseableProtocol)
class Greeter(LineReceiver):
    """Greets by name."""

    delimiter = b"\n"
    MAX_LENGTH = 256

    def __init__(self, greeting: str, user: str) -> None:
        self.greeting = greeting
        self.user = user

    def lineReceived(self, line: bytes) -> None:
        """One line is one greeting."""
        self.sendLine(f"{self.greeting}, {self.user}".encode())

    def readConnectionLost(self) -> None:
        """No more lines: end when the answers have left."""
        self.transport.loseConnection()

    def writeConnectionLost(self) -> None:
        """The client does not read any more: the session ends by itself."""


@implementer(ISubsystem)
class Greeting:
    """The subsystem; one for the whole node."""

    name = "greeting"

    def __init__(self, greeting: str) -> None:
        self.greeting = greeting

    def start(self, session: SubsystemSession) -> Deferred[IProtocol]:
        """Return a protocol for one session."""
        return succeed(Greeter(self.greeting, session.user))


@implementer(IPlugin, ISubsystemFactory)
class GreetingFactory:
    """Makes it from the configuration."""

    kind = "greeting"
    help = "greeting[:WORDS] - greets each user"

    def make(self, arguments: str, surroundings: Surroundings) -> ISubsystem:
        """See ``IFactory``."""
        return Greeting(arguments or "Hello")


greeting = GreetingFactory()
