"""How do users who join a session see its terminals, and type on them?

Invariants:

* Those who joined see the session's latest terminal that runs, and what it showed last.
* What is shown to them was recorded before, and is held back as long as from the session's user.
* Who joins and who leaves is recorded, with a number, and shown on the session's terminals; what a
  peer types is recorded with that number while the terminal shows it, whatever roles say about
  input.
* Nothing here waits for those who joined: see :mod:`tele.sessions.join_runner`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Protocol

from twisted.internet.interfaces import IReactorTime

from tele.conch.connection.channel import Channel
from tele.conch.connection.held_output import HeldOutput
from tele.conch.connection.pumps import Sink
from tele.conch.session.echo import EchoFilter, TerminalSink
from tele.errors import Unavailable
from tele.model.access import Denied, Reason
from tele.model.addresses import Address
from tele.model.frame import FrameKind
from tele.model.joining import JoinMode, Watcher
from tele.recording.tee import ConnectionTape
from tele.sessions.context import ConnectionContext
from tele.sessions.watch import Watch

#: Bytes of a terminal's last output that are shown to those who join; up to twice as many are kept.
RECENT: Final = 8 * 1024
#: Users who may take part in one session at once.
PARTICIPANTS_LIMIT: Final = 32


class Terminal(Protocol):
    """A program with a terminal of this machine; see :class:`tele.node.programs.Program`."""

    def share_input(self, closed: Callable[[], None]) -> int | None:
        """Return another descriptor of the terminal, or None if it is closed. The caller closes it
        when ``closed()`` is called, or before.
        """

    def size(self) -> tuple[int, int]:
        """Return columns and rows."""


class Participant(Protocol):
    """One who has joined a session."""

    user: str
    remote_addr: tuple[str, int]
    mode: JoinMode

    @property
    def roles(self) -> tuple[str, ...]:
        """The roles of the certificate, as far as they were not taken away."""

    def show(self, data: bytes) -> None:
        """The terminal that is shown wrote this."""

    def moved(self, terminal: SharedTerminal | None) -> None:
        """Another terminal is shown from now on, or none."""

    def resized(self, columns: int, rows: int) -> None:
        """The terminal that is shown has a new size."""

    def ended(self) -> None:
        """The session has ended."""


class Guest(Protocol):
    """The connection of one who may join a session."""

    def decide_again(self) -> None:
        """The roles that give the session have changed."""

    def session_ended(self) -> None:
        """There is nothing to join any more."""


class SharedTerminal:
    """One terminal of a session: what it shows, and what is typed on it by those who joined.

    ``tap`` is what records it, if it is recorded. Observes it as
    :class:`tele.sessions.program_end.AuditedTap` does.
    """

    __slots__ = ("_held", "_recent", "_session", "channel", "program")

    def __init__(self, session: SharedSession, program: Terminal, channel: int, tap: Any) -> None:
        self._session = session
        self.program = program
        self.channel = channel
        self._recent = bytearray()
        self._held: HeldOutput | None = None
        if tap is not None and tap.holds:
            self._held = HeldOutput(tap.hold, self._leaves, _nothing, _nothing)

    @property
    def watch(self) -> Watch:
        """Who has to watch the session."""
        return self._session.watch

    @property
    def recent(self) -> bytes:
        """What it showed last, from the begin of a line if that is not all."""
        recent = bytes(self._recent[-RECENT:])
        if len(self._recent) < RECENT:
            return recent
        return recent[recent.find(b"\n") + 1 :]

    def output(self, *views: memoryview) -> None:
        """The program wrote this, and it is recorded."""
        for view in views:
            if self._held is None:
                self._show(view)
            else:
                self._held.put(bytes(view), None)

    def _leaves(self, data: bytes, _: int | None) -> None:
        self._show(memoryview(data))

    def _show(self, view: memoryview) -> None:
        recent = self._recent
        recent += view[-RECENT:]
        if len(recent) > 2 * RECENT:
            del recent[:-RECENT]
        session = self._session
        if session.participants and session.current is self:
            data = bytes(view)
            for each in tuple(session.participants):
                each.show(data)

    def resized(self, columns: int, rows: int) -> None:
        """It has a new size."""
        if self._session.current is self:
            for each in tuple(self._session.participants):
                each.resized(columns, rows)

    def exited(self) -> None:
        """The program ended."""
        self._session.terminal_ended(self)

    def open_input(
        self, reactor: Any, channel: Channel, participant: Participant, closed: Callable[[], None]
    ) -> Sink | None:
        """Return what writes data of ``channel`` to it, recorded as typed by ``participant``.

        None if it is closed. ``closed()`` is called when it is, and has to close the sink.
        """
        descriptor = self.program.share_input(closed)
        if descriptor is None:
            return None
        typed, hidden = self._session.record_typed(participant, self.channel)
        echo = EchoFilter(reactor, descriptor, typed, hidden)
        return TerminalSink(reactor, descriptor, channel, _nothing, echo)


class SharedSession:
    """The terminals of one session, and those who joined it.

    :param tape: the recording of the session, if it has one.
    :param notify: shows a text on a channel, by its number in the audit.
    :param end: ends the session.
    """

    __slots__ = (
        "_clock", "_context", "_end", "_joins", "_notify", "_tape", "_terminals", "ended", "guests",
        "participants", "watch",
    )  # fmt: skip

    def __init__(
        self,
        clock: IReactorTime,
        context: ConnectionContext,
        tape: ConnectionTape | None,
        notify: Callable[[int, str], None],
        end: Callable[[Denied], None],
    ) -> None:
        self._clock = clock
        self._context = context
        self._tape = tape
        self._notify = notify
        self._end = end
        self._joins = 0
        self._terminals: list[SharedTerminal] = []
        #: Those who take part, and their numbers.
        self.participants: dict[Participant, int] = {}
        #: The connections of those who may.
        self.guests: dict[Guest, None] = {}
        self.ended = False
        #: Who has to be there.
        self.watch = Watch(
            clock, context, self._watchers, lambda: len(self._terminals), self._tell_on, end
        )

    @property
    def session_id(self) -> str:
        """The id of the session."""
        return self._context.session_id

    @property
    def user(self) -> str:
        """The user whose session it is."""
        return self._context.grant.identity.user

    @property
    def login(self) -> str:
        """The account that it is on."""
        return self._context.grant.login

    @property
    def roles(self) -> tuple[str, ...]:
        """The roles that give its user a terminal."""
        return tuple(each.role for each in self._context.grant.given if each.permit_pty)

    @property
    def is_recorded(self) -> bool:
        """Whether what those who join do is recorded."""
        return self._tape is not None and not self._tape.problem

    @property
    def current(self) -> SharedTerminal | None:
        """The terminal that is shown."""
        return self._terminals[-1] if self._terminals else None

    # -- terminals --------------------------------------------------------------------
    def follow(self, program: Terminal, channel: int, tap: Any) -> SharedTerminal:
        """Show a terminal that was opened to those who joined, from now on."""
        terminal = SharedTerminal(self, program, channel, tap)
        self._terminals.append(terminal)
        self._move()
        self._clock.callLater(0, self.watch.check)
        if self.participants:
            # The client is told of the program first.
            self._clock.callLater(0, self._announce, channel)
        return terminal

    def terminal_ended(self, terminal: SharedTerminal) -> None:
        """A program has ended: its terminal is shown no more."""
        if terminal in self._terminals:
            was_shown = self.current is terminal
            self._terminals.remove(terminal)
            if was_shown:
                self._move()

    def _move(self) -> None:
        for each in tuple(self.participants):
            each.moved(self.current)

    def _announce(self, channel: int) -> None:
        if self.participants:
            who = ", ".join(f"{each.user} ({each.mode.value})" for each in self.participants)
            self._notify(channel, f"in this session: {who}")

    def _tell(self, text: str) -> None:
        for terminal in self._terminals:
            self._notify(terminal.channel, text)
        if self.watch.reserved is not None:
            self._notify(self.watch.reserved, text)

    def _tell_on(self, channel: int | None, text: str) -> None:
        if channel is None:
            self._tell(text)
        else:
            self._notify(channel, text)

    def _watchers(self) -> list[Watcher]:
        return [Watcher(each.user, each.roles, each.mode) for each in self.participants]

    # -- those who join ---------------------------------------------------------------
    def check_room(self) -> None:
        """Raise :class:`Unavailable` if one more may not take part."""
        if self.ended:
            raise Unavailable("the session has ended")
        if len(self.participants) >= PARTICIPANTS_LIMIT:
            raise Unavailable(
                f"{PARTICIPANTS_LIMIT} users take part in this session, and no more may"
            )

    def join(self, participant: Participant) -> int:
        """Let one take part; return their number. Raises :class:`Unavailable`."""
        self.check_room()
        self._joins += 1
        number = self._joins
        self._tell(f"{participant.user} has joined this session ({participant.mode.value})")
        self.participants[participant] = number
        self._note(
            FrameKind.JOIN,
            user=participant.user,
            mode=participant.mode.value,
            remote_addr=str(Address(*participant.remote_addr)),
            join=number,
        )
        self.watch.check()
        return number

    def leave(self, participant: Participant, reason: str) -> None:
        """One takes part no more."""
        number = self.participants.pop(participant, None)
        if number is None:
            return
        self._note(FrameKind.LEAVE, user=participant.user, join=number, reason=reason)
        self._tell(f"{participant.user} has left this session")
        if not self.ended:
            self.watch.check()

    def end_by(self, participant: Participant) -> None:
        """A moderator ends the session."""
        self._end(
            Denied(Reason.MODERATED, f"this session was ended by {participant.user}, a moderator")
        )

    def regranted(self) -> None:
        """The roles that give the session may have changed."""
        for guest in tuple(self.guests):
            guest.decide_again()
        self.watch.check()

    def close(self) -> None:
        """The session has ended."""
        self.ended = True
        self._terminals.clear()
        self.watch.close()
        for each in tuple(self.participants):
            each.ended()
        for guest in tuple(self.guests):
            guest.session_ended()

    # -- the recording ----------------------------------------------------------------
    def _note(self, kind: FrameKind, /, channel: int = 0, **fields: Any) -> None:
        if self._tape is not None:
            self._tape.note(channel, kind, **fields)

    def record_typed(
        self, participant: Participant, channel: int
    ) -> tuple[Callable[[bytes], None], Callable[[], None]]:
        """Return what records that ``participant`` typed something on a channel, and what records
        that the terminal did not show it: once for each time that it begins to hide.
        """
        number, hides = self.participants[participant], False

        def typed(data: bytes) -> None:
            nonlocal hides
            hides = False
            text = data.decode("utf-8", "backslashreplace")
            self._note(
                FrameKind.TYPED, channel=channel, user=participant.user, join=number, text=text
            )

        def hidden() -> None:
            nonlocal hides
            if not hides:
                hides = True
                self._note(
                    FrameKind.TYPED, channel=channel, user=participant.user, join=number,
                    hidden=True,
                )  # fmt: skip

        return typed, hidden


def _nothing() -> None:
    """There is nothing to do."""
