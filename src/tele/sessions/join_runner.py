"""What does a user who joins a session see and do, on one channel?

Invariants:

* Nothing of an observer or a moderator reaches the session; only a peer's keys do, as they are.
* What reaches the terminal of a participant is filtered (:mod:`tele.terminal.watching`).
* A participant who does not read delays nothing: output beyond :data:`PENDING_LIMIT` is dropped,
  and they are told how much.
* It begins after its event is stored, and every end of it is an event.
"""

from __future__ import annotations

from typing import Any, Final

from twisted.internet.defer import Deferred

from tele.conch.connection.pumps import Sink
from tele.conch.session.programs import Exit, ProgramRequest, PtyRequest
from tele.conch.session.runner import RunnerChannel
from tele.errors import AccessDenied, InvalidInput, Unavailable, quoted
from tele.model.access import Reason
from tele.model.joining import JoinMode
from tele.sessions.joining import JoinAvatar
from tele.sessions.sharing import SharedTerminal
from tele.terminal.watching import WatchedOutput

#: Bytes of output that wait for a participant who does not read.
PENDING_LIMIT: Final = 256 * 1024
#: Keys of observers and moderators. No answer of a terminal has them.
LEAVE_KEY: Final = b"\x03"
END_KEY: Final = b"\x14"
_LEFT: Final = "left"
#: What a program may have changed of a terminal: colours, wrapping, the cursor, pasting, the mouse.
_RESTORE: Final = b"\x1b[0m\x1b[?7h\x1b[?25h\x1b[?2004l\x1b[?1000l\x1b[?1002l\x1b[?1003l\x1b[?1006l"
_ALTERNATE: Final = b"\x1b[?1049h"
_PRIMARY: Final = b"\x1b[?1049l"

_HINTS: Final = {
    JoinMode.OBSERVER: "Ctrl-C leaves",
    JoinMode.MODERATOR: "Ctrl-C leaves, Ctrl-T ends the session",
    JoinMode.PEER: "what you type is recorded with your name; Enter ~. leaves",
}


class JoinRunner:
    """The :class:`~tele.conch.session.runner.Runner` of one who joins the session of ``avatar``."""

    def __init__(self, channel: RunnerChannel, avatar: JoinAvatar) -> None:
        self.user = avatar.identity.user
        self.remote_addr = avatar.remote_addr
        self.mode = JoinMode.OBSERVER
        self._channel = channel
        self._avatar = avatar
        self._session = avatar.session
        self._pty: PtyRequest | None = None
        self._joined = False
        self._shown = False
        self._over = False
        self._began = 0.0
        self._typed = 0
        self._sink: Sink | None = None
        self._lease: Any = None
        self._filter = WatchedOutput()
        self._alternate = False
        self._pending = bytearray()
        self._dropped = 0

    @property
    def roles(self) -> tuple[str, ...]:
        """See :class:`tele.sessions.sharing.Participant`."""
        return self._avatar.grant.identity.roles

    # -- what the client asks for -------------------------------------------------------
    def set_env(self, name: str, value: str) -> bool:
        """See :class:`Runner`: nothing is run, so nothing has an environment."""
        return False

    def request_pty(self, request: PtyRequest) -> bool:
        """See :class:`Runner`. The session's terminal keeps the size that its user has."""
        self._pty = request
        return True

    def start(self, request: ProgramRequest, number: int) -> Deferred[None]:
        """See :class:`Runner`: join, in the mode that is the command."""
        return Deferred.fromCoroutine(self._start(request))

    async def _start(self, request: ProgramRequest) -> None:
        avatar, session = self._avatar, self._session
        self.mode = _mode_of(request)
        facts = {"mode": self.mode.value, "of_user": session.user}
        try:
            self._check()
        except (AccessDenied, Unavailable) as error:
            avatar.emit("session.join", **facts, error=error)
            raise
        self._began = avatar.clock.seconds()
        await avatar.stored("session.join", **facts)
        try:
            self._check()  # that took a while
            if self._over:
                raise Unavailable("the client has left")
            session.join(self)
        except (AccessDenied, Unavailable) as error:
            avatar.emit("session.leave", **facts, error=error)
            raise
        self._joined = True

    def _check(self) -> None:
        """Raise :class:`AccessDenied` or :class:`Unavailable` unless the user may join."""
        self._avatar.check()
        modes = self._avatar.grant.modes
        if self.mode not in modes:
            may = ", ".join(each.value for each in JoinMode if each in modes)
            raise AccessDenied(
                f"your roles let you join this session as {may}, not as {self.mode.value}",
                Reason.JOIN.value,
            )
        self._session.check_room()
        if self.mode is JoinMode.PEER and not self._session.is_recorded:
            raise AccessDenied(
                "this session is not recorded, and what a peer types has to be: observe it",
                Reason.RECORDING.value,
            )

    # -- output -----------------------------------------------------------------------
    def start_output(self) -> None:
        """See :class:`Runner`: it was sent from the start of input on."""

    def start_input(self) -> None:
        """See :class:`Runner`. What was typed before follows at once."""
        self._shown = True
        session = self._session
        self._channel.notice(
            f"session of {session.user} as {session.login}, {self.mode.value}: {_HINTS[self.mode]}"
        )
        if session.ended:
            self.ended()
        else:
            self.moved(session.current)

    def moved(self, terminal: SharedTerminal | None) -> None:
        """See :class:`tele.sessions.sharing.Participant`."""
        if not self._shown or self._over:
            return
        self._close_sink()
        self._restore()
        self._filter = WatchedOutput()
        if terminal is None:
            self._channel.notice("no terminal is open in this session: wait, or leave")
            return
        self._tell_size(*terminal.program.size())
        self.show(terminal.recent)
        if self.mode is JoinMode.PEER:
            self._open_sink(terminal)

    def _tell_size(self, columns: int, rows: int) -> None:
        own = self._pty
        smaller = own is not None and (own.columns < columns or own.rows < rows)
        hint = f", larger than yours ({own.columns}x{own.rows})" if own and smaller else ""
        self._channel.notice(f"its terminal has {columns}x{rows} characters{hint}")

    def _restore(self) -> None:
        """Undo what a program has done to the terminal of this user."""
        if self._pty is not None:
            self._channel.write(_RESTORE + (_PRIMARY if self._alternate else b""))
        self._alternate = False

    def resized(self, columns: int, rows: int) -> None:
        """See :class:`tele.sessions.sharing.Participant`."""
        if self._shown and not self._over:
            self._tell_size(columns, rows)

    def show(self, data: bytes) -> None:
        """See :class:`tele.sessions.sharing.Participant`."""
        if not self._shown or self._over:
            return
        passed = self._filter.feed(data)
        self._alternate = self._alternate or _ALTERNATE in passed
        if not self._pending and not self._dropped and self._channel.is_writable:
            self._channel.write(passed)
            return
        self._pending += passed
        if len(self._pending) > PENDING_LIMIT:
            self._dropped += len(self._pending)
            self._pending.clear()

    def resume_output(self) -> None:
        """See :class:`Runner`."""
        if self._over or not self._channel.is_writable:
            return
        if self._dropped:
            count, self._dropped = self._dropped, 0
            self._channel.notice(f"{count} bytes were not shown: this connection is too slow")
        if self._pending:
            pending, self._pending = bytes(self._pending), bytearray()
            self._channel.write(pending)

    def pause_output(self) -> None:
        """See :class:`Runner`: :meth:`show` asks the channel itself."""

    def close_output(self) -> None:
        """See :class:`Runner`: there is nothing to stay for."""
        self._end(_LEFT)

    # -- input ------------------------------------------------------------------------
    def input(self, view: memoryview) -> None:
        """See :class:`Runner`."""
        if self._sink is not None and not self._session.watch.paused:
            self._typed += len(view)
            self._sink.write(view)
            return
        self._channel.consumed(len(view))
        if self._over or self.mode is JoinMode.PEER:
            return
        keys = bytes(view)
        if self.mode is JoinMode.MODERATOR and END_KEY in keys:
            self._session.end_by(self)
        elif LEAVE_KEY in keys:
            self._end(_LEFT)

    def input_ended(self) -> None:
        """See :class:`Runner`: one who does not type may watch."""

    def _open_sink(self, terminal: SharedTerminal) -> None:
        lease = self._avatar.account.take()
        reactor = self._avatar.clock
        sink = terminal.open_input(reactor, self._channel, self, self._close_sink)
        if sink is None:
            lease.release()
            return
        self._sink, self._lease = sink, lease

    def _close_sink(self) -> None:
        sink, self._sink = self._sink, None
        if sink is not None:
            unwritten = self._channel.unconsumed
            sink.close()
            self._lease.release()
            # What was not taken is lost with its terminal, and the window is not.
            self._channel.consumed(unwritten)

    # -- requests ---------------------------------------------------------------------
    def resize(self, columns: int, rows: int, width: int, height: int) -> None:
        """See :class:`Runner`: the session's terminal keeps the size that its user has."""

    def signal(self, name: str) -> bool:
        """See :class:`Runner`: signals are of the session's user."""
        return False

    def send_break(self) -> bool:
        """See :class:`Runner`."""
        return False

    # -- the end ----------------------------------------------------------------------
    def ended(self) -> None:
        """See :class:`tele.sessions.sharing.Participant`."""
        self._end("the session has ended")

    def _end(self, reason: str) -> None:
        """Take part no more, and end the channel."""
        if self._over or not self._shown:
            return
        if self._pending:
            self._channel.write(bytes(self._pending))
        self._restore()
        self._channel.notice("you have left the session" if reason == _LEFT else reason)
        self._leave(reason)
        self._channel.program_ended(Exit(0))

    def _leave(self, reason: str) -> None:
        self._over = True
        self._pending.clear()
        self._close_sink()
        if self._joined:
            self._joined = False
            self._session.leave(self, reason)
            seconds = round(self._avatar.clock.seconds() - self._began, 3)
            self._avatar.emit(
                "session.leave",
                mode=self.mode.value,
                of_user=self._session.user,
                why=reason,
                seconds=seconds,
                bytes_in=self._typed,
            )

    def close(self) -> None:
        """See :class:`Runner`."""
        if not self._over:
            denied = self._avatar.ended
            self._leave(_LEFT if denied is None else denied.message)


def _mode_of(request: ProgramRequest) -> JoinMode:
    """Return the mode that a client asks for. Raises :class:`InvalidInput`."""
    if request.kind == "shell":
        return JoinMode.OBSERVER
    asked = request.command.decode("utf-8", "replace").strip()
    try:
        if request.kind != "exec":
            raise ValueError(asked)
        return JoinMode(asked)
    except ValueError:
        known = ", ".join(each.value for each in JoinMode)
        raise InvalidInput(
            f"{quoted(asked)} is not a mode to join a session in: {known}; nothing else is run"
        ) from None
