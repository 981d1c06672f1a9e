"""How does a session run what a Conch avatar offers (``ISession``, ``subsystemLookup``)?

Such programs use Conch's ``SSHSessionProcessProtocol``, which stays, with two corrections: the exit
status follows the output, and a program's transport is paused while the client does not read, if it
can be paused.

Invariants:

* Output of a program before the reply to its request was sent is queued.
* Input is credited when the program's transport takes more.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

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

from tele.conch.session.channel import SessionChannel
from tele.conch.session.program_runner import ProgramRunner
from tele.conch.session.programs import Exit, ISessionPrograms, ProgramRequest, PtyRequest
from tele.conch.session.runner import Runner, RunnerChannel
from tele.errors import NotFound, Unavailable, quoted
from tele.wire.fields import string

_SIGNALS: Final[Mapping[int, str]] = {
    int(getattr(signal, f"SIG{name}")): name for name in SUPPORTED_SIGNALS
}


class _Process(SSHSessionProcessProtocol):
    """The program's view of the channel."""

    #: Twisted's line protocols read this of their transport.
    disconnecting = False

    def __init__(self, runner: ConchRunner, channel: RunnerChannel) -> None:
        super().__init__(channel)
        self._runner = runner

    def connectionMade(self) -> None:
        """Conch would write what it has queued."""

    def outReceived(self, data: bytes) -> None:
        """The program wrote to its standard output."""
        self._runner.when_running(lambda: self.session.write(data))

    def errReceived(self, err: bytes) -> None:
        """The program wrote to its standard error."""
        self._runner.when_running(lambda: self.session.writeExtended(1, err))

    write = outReceived

    def writeSequence(self, seq: Iterable[bytes]) -> None:
        """The program wrote, in pieces."""
        self.outReceived(b"".join(seq))

    def outConnectionLost(self) -> None:
        """EOF is sent with the exit status, after all output."""

    def processEnded(self, reason: Failure | None = None) -> None:
        """The program exited."""
        error: Any = None if reason is None else reason.value
        number = getattr(error, "signal", None)
        status = getattr(error, "exitCode", None)
        if number is not None:
            how = Exit(None, _SIGNALS.get(number, f"{number}@tele"))
        else:
            how = Exit(0 if status is None else status)
        self._runner.when_running(lambda: self.session.program_ended(how))

    def connectionLost(self, reason: Failure | None = None) -> None:
        """The program closed the connection."""
        self._runner.when_running(self.session.loseConnection)

    def loseConnection(self) -> None:
        """The program closes the connection."""
        self.disconnecting = True
        self._runner.when_running(self.session.loseConnection)


@implementer(IPushProducer)
class ConchRunner:
    """The :class:`~tele.conch.session.runner.Runner` of what the avatar of ``channel`` offers."""

    def __init__(self, channel: RunnerChannel) -> None:
        self._channel = channel
        self._session: Any = ISession(channel.avatar, None)
        self._process: _Process | None = None
        #: What waits for the reply; None after it.
        self._waiting: list[Callable[[], None]] | None = []
        #: Bytes of input that were not credited.
        self._uncredited = 0
        self._paused = False

    @property
    def _transport(self) -> Any:
        return None if self._process is None else self._process.transport

    def when_running(self, call: Callable[[], None]) -> None:
        """Call ``call`` now, or after the reply to the request was sent."""
        if self._waiting is None:
            call()
        else:
            self._waiting.append(call)

    # -- starting ---------------------------------------------------------------------
    def set_env(self, name: str, value: str) -> bool:
        """See :class:`Runner`."""
        environment: Any = ISessionSetEnv(self._session, None)
        if environment is None:
            return False
        try:
            environment.setEnv(name.encode(), os.fsencode(value))
        except EnvironmentVariableNotPermitted:
            return False
        return True

    def request_pty(self, request: PtyRequest) -> bool:
        """See :class:`Runner`."""
        if self._session is None:
            return False
        size = request.rows, request.columns, request.width, request.height
        self._session.getPty(request.term.encode(), size, list(request.modes))
        return True

    def start(self, request: ProgramRequest, number: int) -> Deferred[None]:
        """See :class:`Runner`."""
        process = _Process(self, self._channel)
        if request.kind == "subsystem":
            # Conch does not tell an ISession of a subsystem.
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

    def start_input(self) -> None:
        """See :class:`Runner`."""
        register = getattr(self._transport, "registerProducer", None)
        if register is not None:
            register(self, True)

    def start_output(self) -> None:
        """See :class:`Runner`."""
        waiting, self._waiting = self._waiting, None
        for call in waiting or ():
            call()

    # -- data -------------------------------------------------------------------------
    def input(self, view: memoryview) -> None:
        """See :class:`Runner`."""
        self._uncredited += len(view)
        if self._transport is not None:
            self._transport.write(bytes(view))
        self._credit()

    def _credit(self) -> None:
        if not self._paused and self._uncredited:
            count, self._uncredited = self._uncredited, 0
            self._channel.consumed(count)

    def input_ended(self) -> None:
        """See :class:`Runner`. Without an ``ISession``: close."""
        if self._session is not None:
            self._session.eofReceived()
        else:
            self._channel.loseConnection()

    def pauseProducing(self) -> None:
        """See ``IPushProducer``: the program does not read its input."""
        self._paused = True

    def resumeProducing(self) -> None:
        """See ``IPushProducer``."""
        self._paused = False
        self._credit()

    def stopProducing(self) -> None:
        """See ``IPushProducer``: the program reads no more input. Drop it."""
        self.resumeProducing()

    def resume_output(self) -> None:
        """See :class:`Runner`."""
        resume = getattr(self._transport, "resumeProducing", None)
        if resume is not None and not self._channel.has_queue:
            resume()

    def close_output(self) -> None:
        """See :class:`Runner`. Conch has no such request."""

    def pause_output(self) -> None:
        """See :class:`Runner`."""
        pause = getattr(self._transport, "pauseProducing", None)
        if pause is not None:
            pause()

    # -- requests ---------------------------------------------------------------------
    def resize(self, columns: int, rows: int, width: int, height: int) -> None:
        """See :class:`Runner`."""
        if self._session is not None:
            self._session.windowChanged((rows, columns, width, height))

    def signal(self, name: str) -> bool:
        """See :class:`Runner`."""
        send = getattr(self._transport, "signalProcess", None)
        if send is None or name not in SUPPORTED_SIGNALS:
            return False
        try:
            send(name)
        except ProcessExitedAlready:
            return False
        return True

    def send_break(self) -> bool:
        """See :class:`Runner`. ``ISession`` has no such method."""
        return False

    def close(self) -> None:
        """See :class:`Runner`."""
        if self._transport is not None:
            self._transport.loseConnection()
        if self._session is not None:
            self._session.closed()


def run_conch(channel: RunnerChannel) -> Runner:
    """Return what runs programs of the avatar of ``channel``: ours or Conch's."""
    programs = ISessionPrograms(channel.avatar, None)
    return ConchRunner(channel) if programs is None else ProgramRunner(channel, programs)


class ConchSession(SessionChannel):
    """A session for avatars of Conch programs, in the place of Conch's ``SSHSession``."""

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, make_runner=run_conch, **named)
