"""Which events does a session leave in the audit, from its login to its end?

Invariants:

* Everything that is started is an event, and so are its end, and what could not be started; it is
  recorded if there is a recording.
* An event has what was requested, and what ran if that was something else.
* What a changed grant does not permit any more ends, with the reason; the rest of the connection
  goes on.
* A session that is not recorded from its start, or of which a part is lost, says why.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from attrs import define
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from zope.interface import implementer

from tele.conch.session.programs import ISessionPrograms, ProgramRequest
from tele.errors import TeleError
from tele.membership.audit_reporter import AuditReporter, cut
from tele.model.session import Launched
from tele.recording.capture import CaptureLimits
from tele.recording.program_tap import RecordedPrograms
from tele.recording.tee import ConnectionTape
from tele.sessions.context import ConnectionContext
from tele.sessions.ending import SessionEnding
from tele.sessions.launching import PermittedProgram, forbidden, permitted
from tele.sessions.program_end import AuditedTap
from tele.sessions.sharing import SharedSession
from tele.sessions.transfer_record import TransferRecords


@define(eq=False)
class _Running:
    """What runs on a channel, for which request, as permitted then; ``why`` it was ended."""

    program: Any
    request: ProgramRequest
    permitted: PermittedProgram
    channel: int
    why: str = ""


@implementer(ISessionPrograms)
class AuditedSession:
    """The audit of one connection, and of what is started on it.

    :param programs: starts programs, and reports what it launches, as :class:`RecordedPrograms`
        has it.
    :param tape: the recording of the connection, if it has one; closed here.
    :param ending: the end of access; nothing is started after that.
    :param shared: its terminals are shown to those who join the session, if they may.
    """

    __slots__ = (
        "_audit",
        "_began",
        "_context",
        "_ending",
        "_interactive",
        "_programs",
        "_reactor",
        "_running",
        "_shared",
        "_tape",
        "_transfers",
    )

    def __init__(
        self,
        reactor: IReactorTime,
        context: ConnectionContext,
        programs: Any,
        tape: ConnectionTape | None,
        audit: AuditReporter,
        ending: SessionEnding,
        shared: SharedSession | None = None,
    ) -> None:
        self._reactor = reactor
        self._context = context
        plan = context.grant.recording
        limits = CaptureLimits(plan.capture_head, plan.capture_tail)
        self._programs = programs if tape is None else RecordedPrograms(programs, tape, limits)
        self._tape = tape
        self._transfers: TransferRecords | None = None
        self._audit = audit
        self._ending = ending
        self._shared = shared
        self._began = reactor.seconds()
        self._interactive = False
        self._running: list[_Running] = []
        if tape is not None:
            tape.on_loss(self._lost)

    def _lost(self, recorder: str, reason: str) -> None:
        """A part of the session is not recorded, and it goes on."""
        self._audit.emit("recording.gap", self._context, recorder=recorder, why=cut(reason))

    def logged_in(self) -> None:
        """The user is logged in."""
        self._audit.emit("session.start", self._context)

    def regranted(self, notify: Callable[[int, str], None]) -> None:
        """The grant has changed: what it does not permit any more ends.

        ``notify`` shows a text on a channel, by its number in the audit.
        """
        for each in list(self._running):
            if self._is_forbidden(each):
                notify(each.channel, each.why)

    def _is_forbidden(self, running: _Running) -> bool:
        """Whether a program is not permitted any more: it is ended then, once."""
        why = forbidden(self._context.grant, running.request, running.permitted)
        if not why or running.why:
            return False
        running.why = f"{why}: a role has changed"
        self._ending.end(running.program)
        return True

    def logged_out(self) -> None:
        """The connection has ended."""
        seconds = round(self._reactor.seconds() - self._began, 3)
        recorded = self._tape is not None and self._tape.started
        if self._transfers is not None:
            self._transfers.flush()
        denied = self._ending.denied
        if self._tape is not None:
            self._tape.close("the connection ended" if denied is None else cut(denied.message))
        why = (
            {} if denied is None else {"error": cut(denied.message), "reason": denied.reason.value}
        )
        self._audit.emit(
            "session.end",
            self._context,
            seconds=seconds,
            interactive=self._interactive,
            recorded=recorded,
            **self._unrecorded(),
            **why,
        )

    def discarded(self) -> None:
        """The user was not logged in after all: nothing began, and nothing is an event."""
        if self._tape is not None:
            self._tape.close("the user was not logged in")

    def _made_transfers(self) -> TransferRecords:
        """Return what records transfers, made when the first program starts."""
        if self._transfers is None:
            self._transfers = TransferRecords(self._reactor, self._context, self._audit, self._tape)
        return self._transfers

    def _unrecorded(self) -> dict[str, str]:
        """Return the fields of an event of a session that is not recorded from its start."""
        problem = "" if self._tape is None else self._tape.problem
        return {"unrecorded": cut(problem)} if problem else {}

    def env_allowed(self, name: str) -> bool:
        """See :class:`tele.conch.session.programs.ISessionPrograms`."""
        return bool(self._programs.env_allowed(name))

    def start(self, request: ProgramRequest, channel_number: int) -> Deferred[Any]:
        """See :class:`tele.conch.session.programs.ISessionPrograms`."""
        return Deferred.fromCoroutine(self._start(request, channel_number))

    async def _start(self, request: ProgramRequest, channel_number: int) -> Any:
        try:
            return await self._start_watched(request, channel_number)
        finally:
            if self._shared is not None:
                self._shared.watch.settle(channel_number)

    async def _start_watched(self, request: ProgramRequest, channel_number: int) -> Any:
        name = "subsystem" if request.kind == "subsystem" else "exec"
        fields = {
            "kind": request.kind,
            "command": cut(request.command.decode("utf-8", "backslashreplace")),
            "pty": request.pty is not None,
            "channel": channel_number,
        }

        ran: list[Launched] = []

        def launching(launched: Launched) -> None:
            ran.append(launched)
            fields.pop("forced", None)
            if launched.forced is not None:
                fields["forced"] = cut(launched.forced)
            elif launched.command != request.command:
                fields["runs"] = cut(launched.command.decode("utf-8", "backslashreplace"))

        try:
            self._ending.check()
            if self._shared is not None:
                await self._shared.watch.begin(request, channel_number)
                self._ending.check()  # that may have taken minutes
            grant = self._context.grant
            plan = permitted(grant, request)
            if plan.launched.forced is not None:
                fields["forced"] = cut(plan.launched.forced)
            program = await self._programs.start(request, channel_number, launching)
        except CancelledError:
            raise
        except Exception as error:
            # What a plugin raises may hold anything: the log has it.
            known = isinstance(error, TeleError)
            text = str(error) if known else f"{type(error).__name__}, see the log of the host"
            self._audit.emit(name, self._context, error=cut(text), **fields)
            raise
        self._interactive = self._interactive or request.pty is not None
        what = dict(fields)
        fields |= self._unrecorded()
        if cgroup := getattr(program, "cgroup", 0):  # only processes of this machine have one
            fields["cgroup"] = cgroup
        self._audit.emit(name, self._context, **fields)

        running = _Running(program, request, plan, channel_number)
        self._running.append(running)

        def ended(how: Mapping[str, Any]) -> None:
            self._running.remove(running)
            if self._transfers is not None:
                self._transfers.flush()
            why = {"error": running.why} if running.why else {}
            self._audit.emit(f"{name}.end", self._context, **what, **how, **why)

        observer = None
        if request.pty is None and ran:
            observer = self._made_transfers().observe(ran[-1], channel_number)
        shared = None
        if request.pty is not None and self._shared is not None:
            shared = self._shared.follow(program, channel_number, program.tap)
        program.tap = AuditedTap(self._reactor, program.tap, observer, ended, shared)
        self._ending.follow(program)
        if self._context.grant is not grant:  # a role has changed while it was started
            self._is_forbidden(running)
        return program
