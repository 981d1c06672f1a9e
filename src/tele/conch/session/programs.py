"""Where do a session channel and the program that it runs meet?

Invariants:

* Values and interfaces only. Who starts programs, and what reads their descriptors, is
  elsewhere; neither knows the other.
* A descriptor has one owner: those of a program are the channel's as soon as it has them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from attrs import Factory, frozen
from zope.interface import Attribute, Interface

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred


#: Request of one end that writes no more of what the other sends (OpenSSH PROTOCOL, 2.1).
END_OF_WRITE: Final = b"eow@openssh.com"


@frozen
class PtyRequest:
    """A terminal as asked for (RFC 4254, 6.2). Sizes in characters, then pixels.

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
    variables only. ``display`` is an :class:`~tele.conch.session.session_forwarding.IDisplay`,
    ``agent`` the path of a forwarded agent's socket.
    """

    kind: str
    command: bytes = b""
    env: Mapping[str, str] = Factory(dict)
    pty: PtyRequest | None = None
    display: Any = None
    agent: bytes | None = None


@frozen
class Exit:
    """How a program ended: ``status``, or the ``signal`` that killed it (``TERM``).

    Neither is known when what watched it died first; ``message`` says so.
    """

    status: int | None
    signal: str | None = None
    core: bool = False
    message: str = ""


class ITap(Interface):
    """Sees what passes through a channel. Views are valid during the call only."""

    paused = Attribute("bool: read no more from the program until it resumes")

    def output(view: memoryview) -> None:
        """The program wrote to its terminal or standard output."""

    def error(view: memoryview) -> None:
        """The program wrote to its standard error."""

    def input(view: memoryview) -> None:
        """The client wrote to the program."""

    def resized(columns: int, rows: int) -> None:
        """The terminal has a new size."""

    def exited(exit: Exit) -> None:  # noqa: A002 - the seam's name
        """The program ended."""

    def when_resumed(callback: Callable[[], None]) -> None:
        """Call ``callback`` once, when ``paused`` turns false."""


class IProgram(Interface):
    """One running program.

    Descriptors are non-blocking and belong to the channel, which closes each once. With a
    terminal ``stdin`` and ``stdout`` are the same terminal and ``stderr`` is None.
    """

    stdin = Attribute("int | None: where its input goes")
    stdout = Attribute("int | None: where its output comes from")
    stderr = Attribute("int | None: where its standard error comes from")
    exited = Attribute("Deferred[Exit]: fires once, when it ended")
    tap = Attribute("ITap | None: who else sees what passes")

    def signal(name: str) -> bool:
        """Signal its process group (``TERM``); False if that cannot be."""

    def resize(columns: int, rows: int, width: int, height: int) -> None:
        """Its terminal has a new size."""

    def hang_up() -> None:
        """The client is gone: SIGHUP to its process group. May be called twice."""


class IHoldsDescriptors(Interface):
    """A program that wants to know when the channel has closed its descriptors."""

    def descriptors_closed() -> None:
        """All of them are closed. Called once."""


class ISessionPrograms(Interface):
    """Starts programs for one connection; an avatar is adapted to it."""

    def start(request: ProgramRequest, channel_number: int) -> Deferred[object]:
        """Start a program; fires with an :class:`IProgram`.

        Fails with a :class:`tele.errors.TeleError` whose text is for the person. Cancelling
        ends what was started.
        """

    def env_allowed(name: str) -> bool:
        """Whether a client may set the environment variable ``name``."""
