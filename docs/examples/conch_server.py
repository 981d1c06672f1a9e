"""A program written for Conch, on tele's engine: a calculator for users with a key.

python conch_server.py HOST_KEY AUTHORIZED_KEYS

Only the imports of ``tele.embed.ssh`` differ.
"""

import sys

from twisted.conch.avatar import ConchUser
from twisted.conch.checkers import InMemorySSHKeyDB, SSHPublicKeyChecker, readAuthorizedKeyFile
from twisted.conch.interfaces import ISession
from twisted.conch.ssh import keys
from twisted.cred.portal import IRealm, Portal
from twisted.internet import reactor
from twisted.protocols.basic import LineOnlyReceiver
from twisted.python.components import registerAdapter
from zope.interface import implementer

from tele.embed.ssh import factory, session


class Sums(LineOnlyReceiver):
    """Answers each line of numbers with their sum."""

    delimiter = b"\n"

    def lineReceived(self, line: bytes) -> None:
        """Add."""
        numbers = line.split()
        if all(number.isdigit() and len(number) < 20 for number in numbers):
            self.sendLine(b"%d" % sum(map(int, numbers)))
        else:
            self.sendLine(b"numbers, please")


class User(ConchUser):
    """A user with a key."""

    def __init__(self, name: bytes) -> None:
        super().__init__()
        self.name = name
        self.channelLookup[b"session"] = session.SSHSession


@implementer(ISession)
class Calculator:
    """The session of a user: a shell, and no commands."""

    def __init__(self, user: User) -> None:
        self.user = user
        self.shell = None

    def getPty(self, term, windowSize, modes) -> None:
        """A terminal makes no difference."""

    def openShell(self, process) -> None:
        """Sums read what the client sends, and write to it."""
        self.shell = Sums()
        self.shell.makeConnection(process)
        process.makeConnection(session.wrapProtocol(self.shell))

    def execCommand(self, process, command: bytes) -> None:
        """There is only the shell."""
        raise ValueError("no commands here")

    def windowChanged(self, size) -> None:
        """Lines are as long as they are."""

    def eofReceived(self) -> None:
        """The client sends no more: no answer follows."""
        self.shell.transport.loseConnection()

    def closed(self) -> None:
        """The client is gone."""


registerAdapter(Calculator, User, ISession)


@implementer(IRealm)
class Realm:
    """Every user whom a checker accepts."""

    def requestAvatar(self, name, mind, *interfaces):
        """Return the user."""
        return interfaces[0], User(name), lambda: None


class Factory(factory.SSHFactory):
    """The server: a host key, and the users' keys."""

    def __init__(self, host_key: str, authorized_keys: str) -> None:
        with open(authorized_keys, "rb") as lines:
            known = InMemorySSHKeyDB({b"alice": list(readAuthorizedKeyFile(lines))})
        self.portal = Portal(Realm(), [SSHPublicKeyChecker(known)])
        self.key = keys.Key.fromFile(host_key)

    def getPublicKeys(self):
        """Conch asks for these by type."""
        return {self.key.sshType(): self.key.public()}

    def getPrivateKeys(self):
        """As for these."""
        return {self.key.sshType(): self.key}


if __name__ == "__main__":
    port = reactor.listenTCP(0, Factory(*sys.argv[1:]), interface="127.0.0.1")
    print(f"serving on port {port.getHost().port}", flush=True)
    reactor.run()
