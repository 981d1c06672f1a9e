"""What does a session channel need of what runs its program, and the other way round?

Invariant: neither class knows the other; they meet here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from twisted.internet.defer import Deferred

from tele.conch.connection.channel import Channel
from tele.conch.session.programs import Exit, ProgramRequest, PtyRequest


class Runner(Protocol):
    """Runs one program for one :class:`RunnerChannel`."""

    def set_env(self, name: str, value: str) -> bool:
        """Set an environment variable; False if clients may not set it."""

    def request_pty(self, request: PtyRequest) -> bool:
        """Return whether the program may have a terminal."""

    def start(self, request: ProgramRequest, number: int) -> Deferred[None]:
        """Start the program. Fails with a :class:`tele.errors.TeleError`, whose text is for the
        user.
        """

    def start_input(self) -> None:
        """The reply to the request was sent: :meth:`input` may be called."""

    def start_output(self) -> None:
        """Send output from now on."""

    def input(self, view: memoryview) -> None:
        """Take input, and credit it when it is consumed."""

    def input_ended(self) -> None:
        """The client sent EOF."""

    def resume_output(self) -> None:
        """The channel may take output again."""

    def pause_output(self) -> None:
        """The queue of the channel is long: pause."""

    def close_output(self) -> None:
        """The client takes no more output, though the channel stays (OpenSSH PROTOCOL, 2.1)."""

    def resize(self, columns: int, rows: int, width: int, height: int) -> None:
        """The terminal has a new size."""

    def signal(self, name: str) -> bool:
        """Signal the program; False if that is not possible."""

    def send_break(self) -> bool:
        """Send a break to its terminal; False if that is not possible."""

    def close(self) -> None:
        """The channel is closed."""


class RunnerChannel(Channel):
    """A session channel, as a runner knows it."""

    avatar: Any

    def program_ended(self, how: Exit) -> None:
        """The program exited, and all its output was written to the channel."""
        raise NotImplementedError

    def notice(self, text: str) -> bool:
        """Show the user a message of ours; False if no program runs."""
        raise NotImplementedError


MakeRunner = Callable[[RunnerChannel], Runner]
