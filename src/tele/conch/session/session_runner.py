"""Which part of running a program is the same, wherever it runs?

The phases of a program, what a client may ask for before it starts, and its end: for
:class:`~tele.conch.session.program_runner.ProgramRunner` (it has descriptors here) and
:class:`~tele.conch.session.remote_runner.RemoteRunner` (it is on a server behind this one).

Invariants:

* What happens in which phase is one table; anything else is an error of ours.
* The end is reported once, after all output, and after what the recorder holds back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any, Final

from twisted.internet.defer import Deferred

from tele.conch.connection.held_output import not_reported
from tele.conch.connection.permissions import permissions_of
from tele.conch.session.programs import (
    END_OF_WRITE,
    Exit,
    ISessionPrograms,
    ProgramRequest,
    PtyRequest,
)
from tele.conch.session.runner import RunnerChannel
from tele.errors import Unavailable

_OPENSSH: Final = b"SSH-2.0-OpenSSH_"


class Phase(Enum):
    """Where a program is."""

    STARTING = "the program is being started"
    STARTED = "it runs; its output is not passed on yet"
    RUNNING = "its output is passed on"
    ENDED = "it ended and its output was passed on"
    CLOSED = "the channel is closed"


class RunnerEvent(Enum):
    """What happens to a program."""

    STARTED = "the program was started"
    OUTPUT = "output may be sent"
    ENDED = "it ended and its output was passed on"
    CLOSED = "the channel was closed"


_NEXT: Final[Mapping[Phase, Mapping[RunnerEvent, Phase]]] = {
    Phase.STARTING: {RunnerEvent.STARTED: Phase.STARTED, RunnerEvent.CLOSED: Phase.CLOSED},
    Phase.STARTED: {RunnerEvent.OUTPUT: Phase.RUNNING, RunnerEvent.CLOSED: Phase.CLOSED},
    Phase.RUNNING: {RunnerEvent.ENDED: Phase.ENDED, RunnerEvent.CLOSED: Phase.CLOSED},
    Phase.ENDED: {RunnerEvent.CLOSED: Phase.CLOSED},
    # The client left while the program was started.
    Phase.CLOSED: {RunnerEvent.STARTED: Phase.CLOSED},
}


class SessionRunner:
    """Runs one of ``programs`` for ``channel``: what is alike in all of them.

    Those that derive from it set ``_program`` in :meth:`_started`, and say how it ended in
    :meth:`_how`.
    """

    def __init__(self, channel: RunnerChannel, programs: ISessionPrograms) -> None:
        self._channel = channel
        self._programs = programs
        self._phase = Phase.STARTING
        self._program: Any = None
        self._has_terminal = False
        #: Ends messages of the tap.
        self._unregister: Callable[[], None] = _nothing

    def _advance(self, event: RunnerEvent) -> None:
        self._phase = _NEXT[self._phase][event]

    # -- starting ---------------------------------------------------------------------
    def set_env(self, name: str, value: str) -> bool:
        """See :class:`Runner`."""
        return self._programs.env_allowed(name)

    def request_pty(self, request: PtyRequest) -> bool:
        """See :class:`Runner`."""
        return permissions_of(self._channel.avatar).permit_pty

    def start(self, request: ProgramRequest, number: int) -> Deferred[None]:
        """See :class:`Runner`."""
        self._has_terminal = request.pty is not None
        starting: Deferred[Any] = self._programs.start(request, number)
        return starting.addCallback(self._started)

    def _started(self, program: Any) -> None:
        """The program runs; the client may have left meanwhile."""
        raise NotImplementedError

    def _show_notices(self) -> None:
        """Show messages of the tap on a terminal."""
        tap = self._program.tap
        if self._has_terminal and tap is not None and tap.holds:
            self._unregister = tap.on_notice(self._notice)

    def _notice(self, text: str) -> None:
        self._channel.notice(text)

    # -- requests ---------------------------------------------------------------------
    def resize(self, columns: int, rows: int, width: int, height: int) -> None:
        """See :class:`Runner`."""
        self._program.resize(columns, rows, width, height)
        if self._program.tap is not None:
            self._program.tap.resized(columns, rows)

    def signal(self, name: str) -> bool:
        """See :class:`Runner`."""
        return bool(self._program.signal(name))

    def input_closed(self) -> None:
        """Tell a client that knows this request (OpenSSH PROTOCOL, section 2.1)."""
        if self._channel.conn.transport.otherVersionString.startswith(_OPENSSH):
            self._channel.conn.sendRequest(self._channel, END_OF_WRITE, b"")

    # -- the end ----------------------------------------------------------------------
    def _how(self) -> Exit | None:
        """Return how the program ended, or None if it has not."""
        raise NotImplementedError

    def _end(self) -> None:
        """The program ended and its output was passed on: so is how, after what the tap holds."""
        self._advance(RunnerEvent.ENDED)
        self._notify_tap()
        tap = self._program.tap
        wait = tap.hold() if tap is not None and tap.holds else None
        if wait is None:
            self._report_end()
        else:
            wait.addCallbacks(lambda _: self._report_end(), not_reported)

    def _report_end(self) -> None:
        how = self._how()
        if self._phase is Phase.ENDED and how is not None:
            self._channel.program_ended(how)

    def _notify_tap(self) -> None:
        if self._program.tap is not None:
            self._program.tap.exited(self._how())


def programs_of(channel: RunnerChannel) -> ISessionPrograms:
    """Return the programs of the avatar of ``channel``. Raises :class:`Unavailable`."""
    programs: ISessionPrograms | None = ISessionPrograms(channel.avatar, None)
    if programs is None:
        raise Unavailable("this server runs no programs")
    return programs


def _nothing() -> None:
    """There is nothing to end."""
