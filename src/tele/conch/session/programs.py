"""What do a session channel and the code that starts programs exchange?

Invariants:

* Values and interfaces only: what starts programs and what reads their descriptors do not know
  each other.
* A descriptor has one owner: those of a program belong to the channel as soon as it has them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from attrs import Factory, frozen
from twisted.internet.defer import Deferred
from zope.interface import Attribute, Interface

from tele.conch.session.session_forwarding import IDisplay

#: The request of an end that takes no more data from the other (OpenSSH PROTOCOL, 2.1).
END_OF_WRITE: Final = b"eow@openssh.com"


@frozen
class PtyRequest:
    """A requested terminal (RFC 4254, 6.2). Sizes in characters, then pixels.

    ``modes`` are (opcode, argument) in order of section 8, without TTY_OP_END.
    """

    term: str
    columns: int
    rows: int
    width: int = 0
    height: int = 0
    modes: tuple[tuple[int, int], ...] = ()


@frozen
class ProgramRequest:
    """What to run. ``kind`` is ``shell``, ``exec`` or ``subsystem``.

    ``command`` is the command line or the subsystem's name; ``env`` holds allow-listed
    variables only. ``agent`` is the path of a forwarded agent's socket.
    """

    kind: str
    command: bytes = b""
    env: Mapping[str, str] = Factory(dict)
    pty: PtyRequest | None = None
    display: IDisplay | None = None
    agent: bytes | None = None


@frozen
class Exit:
    """How a program ended: ``status``, or the ``signal`` that killed it (``TERM``).

    Neither is known when the process that waited for it died first; ``message`` says so.
    """

    status: int | None
    signal: str | None = None
    core: bool = False
    message: str = ""


class ITap(Interface):
    """Observes the data of a channel. Views are valid during the call only."""

    paused = Attribute("bool: whether to read no more from the program for now")
    drops_input = Attribute("bool: whether what is typed on a terminal must not reach it now")
    wants_typed = Attribute("bool: whether to tell what is typed on a terminal")

    holds = Attribute("bool: whether output waits for ``hold``")

    def hold() -> Deferred[None] | None:
        """Hold what was observed so far: None if it may reach the client now.

        Otherwise fires when it may, and fails if it must not; in order, never at once.
        """

    def on_notice(callback: Callable[[str], None]) -> Callable[[], None]:
        """Call ``callback`` with messages for the user's terminal, until what is returned is
        called. Called if ``holds``.
        """

    def output(*views: memoryview) -> None:
        """The program wrote to its terminal or standard output: ``views``, in order."""

    def error(*views: memoryview) -> None:
        """The program wrote to its standard error."""

    def input(view: memoryview) -> None:
        """The client wrote to the program."""

    def resized(columns: int, rows: int) -> None:
        """The terminal has a new size."""

    def typed(data: bytes) -> None:
        """A terminal took this and showed it; called if ``wants_typed``."""

    def typed_hidden() -> None:
        """A terminal took something and did not show it; called if ``wants_typed``."""

    def exited(exit: Exit) -> None:  # noqa: A002 - the seam's name
        """The program ended."""

    def when_resumed(callback: Callable[[], None]) -> None:
        """Call ``callback`` once, when ``paused`` turns false."""


class IProgram(Interface):
    """One running program.

    Descriptors are non-blocking and belong to the channel, which closes each once. With a
    terminal ``stdin`` and ``stdout`` are the same terminal and ``stderr`` is None.
    """

    stdin = Attribute("int | None: its standard input is written here")
    stdout = Attribute("int | None: its standard output is read here")
    stderr = Attribute("int | None: its standard error is read here")
    exited = Attribute("Deferred[Exit]: fires once, when it exited")
    tap = Attribute("ITap | None: what observes its data")

    def signal(name: str) -> bool:
        """Signal its process group (``TERM``); False if that cannot be."""

    def resize(columns: int, rows: int, width: int, height: int) -> None:
        """Its terminal has a new size."""

    def hang_up() -> None:
        """The channel is closed: send SIGHUP to its process group. May be called twice."""


class IHoldsDescriptors(Interface):
    """A program that is told when the channel has closed its descriptors."""

    def descriptors_closed() -> None:
        """All of them are closed. Called once."""


class ISessionPrograms(Interface):
    """Starts programs for one connection; an avatar is adapted to it."""

    def start(request: ProgramRequest, channel_number: int) -> Deferred[object]:
        """Start a program; fires with an :class:`IProgram`.

        Fails with a :class:`tele.errors.TeleError` whose text is for the user. Cancelling ends
        what was started.
        """

    def env_allowed(name: str) -> bool:
        """Whether a client may set the environment variable ``name``."""
