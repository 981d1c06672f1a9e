"""How does a session run what a Conch avatar offers (``ISession``, ``subsystemLookup``)?

Such programs talk to Conch's ``SSHSessionProcessProtocol``, which is kept, with its two
mistakes mended: the end is told after the output, and a slow side slows the other one down
wherever the program's transport can be paused.

Invariants:

* What a program says before the client knows that it runs, waits.
* Input is credited when the program's transport has room for more.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from twisted.conch.interfaces import EnvironmentVariableNotPermitted, ISession, ISessionSetEnv
from twisted.conch.ssh.session import (
    SUPPORTED_SIGNALS,
    SSHSessionProcessProtocol,
    wrapProcessProtocol,
    wrapProtocol,
)
from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import ProcessExitedAlready
from twisted.internet.interfaces import IPushProducer
from twisted.python.failure import Failure
from zope.interface import implementer

from tele.conch.session.programs import Exit, ProgramRequest, PtyRequest
from tele.errors import NotFound, Unavailable, quoted
from tele.wire.fields import string

if TYPE_CHECKING:
    from tele.conch.session.channel import SessionChannel

_SIGNALS = {int(getattr(signal, f"SIG{name}")): name for name in SUPPORTED_SIGNALS}


class _Process(SSHSessionProcessProtocol):
    """The program's view of the channel."""

    #: What protocols of lines ask their transport.
    disconnecting = False

    def __init__(self, runner: ConchRunner, channel: SessionChannel) -> None:
        super().__init__(channel)
        self._runner = runner

    def connectionMade(self) -> None:
        """Conch would write what it has kept."""

    def outReceived(self, data: bytes) -> None:
        """The program wrote."""
        self._runner.say(lambda: self.session.write(data))

    def errReceived(self, err: bytes) -> None:
        """The program wrote to its standard error."""
        self._runner.say(lambda: self.session.writeExtended(1, err))

    write = outReceived

    def writeSequence(self, seq: Iterable[bytes]) -> None:
        """The program wrote, in pieces."""
        self.outReceived(b"".join(seq))

    def outConnectionLost(self) -> None:
        """EOF goes with the exit, after all that was written."""

    def processEnded(self, reason: Failure | None = None) -> None:
        """The program ended."""
        error: Any = None if reason is None else reason.value
        number = getattr(error, "signal", None)
        status = getattr(error, "exitCode", None)
        if number is not None:
            how = Exit(None, _SIGNALS.get(number, f"{number}@tele"))
        else:
            how = Exit(0 if status is None else status)
        self._runner.say(lambda: self.session.program_ended(how))

    def connectionLost(self, reason: Failure | None = None) -> None:
        """The program closed the connection."""
        self._runner.say(self.session.loseConnection)

    def loseConnection(self) -> None:
        """The program closes the connection."""
        self.disconnecting = True
        self._runner.say(self.session.loseConnection)


@implementer(IPushProducer)
class ConchRunner:
    """Runs what the avatar of ``channel`` has for it."""

    def __init__(self, channel: SessionChannel) -> None:
        self._channel = channel
        self._session: Any = ISession(channel.avatar, None)
        self._process: _Process | None = None
        self._unsaid: list[Callable[[], None]] | None = []
        self._owed = 0
        self._paused = False

    @property
    def _transport(self) -> Any:
        return None if self._process is None else self._process.transport

    def say(self, what: Callable[[], None]) -> None:
        """Do ``what``, once the client knows that the program runs."""
        if self._unsaid is None:
            what()
        else:
            self._unsaid.append(what)

    # -- starting ---------------------------------------------------------------------
    def env(self, name: str, value: str) -> bool:
        """See :class:`tele.conch.session.channel.Runner`."""
        environment: Any = ISessionSetEnv(self._session, None)
        if environment is None:
            return False
        try:
            environment.setEnv(name.encode(), os.fsencode(value))
        except EnvironmentVariableNotPermitted:
            return False
        return True

    def terminal(self, request: PtyRequest) -> bool:
        """See :class:`tele.conch.session.channel.Runner`."""
        if self._session is None:
            return False
        size = request.rows, request.columns, request.width, request.height
        self._session.getPty(request.term.encode(), size, list(request.modes))
        return True

    def start(self, request: ProgramRequest, number: int) -> Deferred[None]:
        """See :class:`tele.conch.session.channel.Runner`."""
        process = _Process(self, self._channel)
        if request.kind == "subsystem":
            # Conch's sessions hear nothing of a subsystem.
            self._session = None
            name = request.command
            avatar: Any = self._channel.avatar
            subsystem = avatar.lookupSubsystem(name, string(name))
            if not subsystem:
                raise NotFound(f"there is no subsystem {quoted(name)} here")
            subsystem.makeConnection(wrapProcessProtocol(process))
            process.makeConnection(wrapProtocol(subsystem))
        elif self._session is None:
            raise Unavailable("this server runs no programs")
        elif request.kind == "shell":
            self._session.openShell(process)
        else:
            self._session.execCommand(process, request.command)
        self._process = process
        return succeed(None)

    def connect(self) -> None:
        """See :class:`tele.conch.session.channel.Runner`."""
        register = getattr(self._transport, "registerProducer", None)
        if register is not None:
            register(self, True)

    def go(self) -> None:
        """See :class:`tele.conch.session.channel.Runner`."""
        unsaid, self._unsaid = self._unsaid, None
        for what in unsaid or ():
            what()

    # -- bytes ------------------------------------------------------------------------
    def input(self, view: memoryview) -> None:
        """See :class:`tele.conch.session.channel.Runner`."""
        self._owed += len(view)
        if self._transport is not None:
            self._transport.write(bytes(view))
        self._credit()

    def _credit(self) -> None:
        if not self._paused and self._owed:
            owed, self._owed = self._owed, 0
            self._channel.consumed(owed)

    def input_ended(self) -> None:
        """See :class:`~tele.conch.session.channel.Runner`. Without an ``ISession``: close."""
        if self._session is not None:
            self._session.eofReceived()
        else:
            self._channel.loseConnection()

    def pauseProducing(self) -> None:
        """The program does not keep up with its input."""
        self._paused = True

    def resumeProducing(self) -> None:
        """It does again."""
        self._paused = False
        self._credit()

    def stopProducing(self) -> None:
        """It takes no input any more: drop it."""
        self.resumeProducing()

    def kick(self) -> None:
        """See :class:`tele.conch.session.channel.Runner`."""
        resume = getattr(self._transport, "resumeProducing", None)
        if resume is not None and not self._channel.has_queue:
            resume()

    def output_refused(self) -> None:
        """See :class:`tele.conch.session.channel.Runner`. Conch knows no such thing."""

    def stop_output(self) -> None:
        """See :class:`tele.conch.session.channel.Runner`."""
        pause = getattr(self._transport, "pauseProducing", None)
        if pause is not None:
            pause()

    # -- what else a client asks ------------------------------------------------------
    def resize(self, columns: int, rows: int, width: int, height: int) -> None:
        """See :class:`tele.conch.session.channel.Runner`."""
        if self._session is not None:
            self._session.windowChanged((rows, columns, width, height))

    def signal(self, name: str) -> bool:
        """See :class:`tele.conch.session.channel.Runner`."""
        send = getattr(self._transport, "signalProcess", None)
        if send is None or name not in SUPPORTED_SIGNALS:
            return False
        try:
            send(name)
        except ProcessExitedAlready:
            return False
        return True

    def send_break(self) -> bool:
        """See :class:`tele.conch.session.channel.Runner`. ``ISession`` has no word for it."""
        return False

    def close(self) -> None:
        """See :class:`tele.conch.session.channel.Runner`."""
        if self._transport is not None:
            self._transport.loseConnection()
        if self._session is not None:
            self._session.closed()
