"""How is what a program does traced, from before it starts until nothing of it runs any more?

Invariants:

* A program that a role wants traced is traced before it executes anything, or does not start. Only
  with ``break_glass`` it starts untraced, and that is an event.
* Its end is reported after what it did: a recording has everything that happened until then.
* What goes on after it in its control group is traced as well. A bounded number of those is kept;
  the oldest is given up for a new one, with an event.
* Where a role forbids hand-overs, what handed something over is killed with all that it started,
  also when its client has gone.
* A tracer that fails, or does not answer, ends no node.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from attrs import define, field
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from tele.conch.session.programs import Exit
from tele.errors import TeleError, Unavailable
from tele.interfaces import ISessionTracer, ITrace
from tele.log import make_logger
from tele.model.trace import Traced, TracedProgram, TraceEvent, TraceKind, TraceLost
from tele.sessions.context import ConnectionContext
from tele.sessions.trace_record import TraceRecords
from tele.spawner.control_groups import find_group, is_own, is_populated, kill_group

#: Seconds for a tracer to begin, and for what it has not reported yet at the end of a program.
OPEN_SECONDS: Final = 10.0
FLUSH_SECONDS: Final = 5.0
#: Seconds between two looks whether anything of an ended program still runs.
SHORTEST: Final = 0.5
LONGEST: Final = 15.0
#: Seconds for which what a program left running is traced where it has no control group.
UNKNOWN_SECONDS: Final = 600.0
#: Ended programs of which something still runs, over all sessions.
REMAINING_LIMIT: Final = 256

_log = make_logger(__name__)


@define(eq=False)
class ProgramTrace:
    """A program that is traced. Its owner says when it has started and ended."""

    _tracing: Tracing
    _trace: ITrace
    _lose: Callable[[str], None]
    _settle: Callable[[], None]
    _is_grouped: bool = field(default=True, init=False)
    _group: str | None = field(default=None, init=False)
    _timer: IDelayedCall | None = field(default=None, init=False)
    _pause: float = field(default=SHORTEST, init=False)

    @property
    def number(self) -> int:
        """By what its process joins, or 0."""
        number: int = self._trace.number
        return number

    def started(self, pid: int, cgroup: int) -> None:
        """Its first process runs, or did: it may have ended already."""
        self._is_grouped = bool(cgroup)
        if cgroup:
            self._group = find_group(pid, cgroup)
        self._trace.started(pid, cgroup)

    def ended(self, how: Exit) -> Deferred[Exit]:
        """Its first process has ended: fire with ``how`` once all that it did is reported."""
        flushed = maybeDeferred(self._trace.flush)
        flushed.addTimeout(FLUSH_SECONDS, self._tracing.clock)

        def done(_: Any) -> Exit:
            self._settle()
            self._tracing.remains(self)
            self._look()
            return how

        return flushed.addBoth(done)

    def _look(self) -> None:
        """Go on for as long as something of it runs."""
        self._timer = None
        if not self._is_grouped:
            # Nothing says whether that is so.
            self._is_grouped = True
            self._timer = self._tracing.clock.callLater(UNKNOWN_SECONDS, self._look)
            return
        if self._group is None or not is_populated(self._group):
            self.close()
            return
        self._timer = self._tracing.clock.callLater(self._pause, self._look)
        self._pause = min(self._pause * 2, LONGEST)

    def kill(self) -> None:
        """End all of its processes: those in its group now, others with their next system call."""
        kill = getattr(self._trace, "kill", None)
        if kill is not None:
            kill()
        if self._group is not None and is_own(self._group):
            kill_group(self._group)

    def give_up(self) -> None:
        """Too many others are traced whose programs have ended."""
        self._lose("what an ended program left running is not traced any more: there is too much")
        self.close()

    def close(self) -> None:
        """Trace it no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._tracing.gone(self)
        closing = maybeDeferred(self._trace.close)
        closing.addErrback(lambda failure: _log.failure("tracer failed", failure=failure))
        closing.addCallback(lambda _: self._settle())


class Tracing:
    """The tracing of a node's sessions. ``tracer`` None: there is none."""

    def __init__(self, clock: IReactorTime, tracer: ISessionTracer | None) -> None:
        self.clock = clock
        self.tracer = tracer
        self._remaining: dict[ProgramTrace, None] = {}

    def missing(self) -> Mapping[TraceKind, str]:
        """Return what cannot be traced here, each kind with the reason."""
        if self.tracer is None:
            return dict.fromkeys(TraceKind, "")
        try:
            missing: Mapping[TraceKind, str] = self.tracer.missing()
        except Exception:
            _log.failure("tracer failed")
            return dict.fromkeys(TraceKind, "the tracer of this node failed")
        return missing

    async def open(
        self, context: ConnectionContext, channel: int, records: TraceRecords
    ) -> ProgramTrace | None:
        """Begin to trace the next program of a connection; None: no role asks for it.

        Raises :class:`Unavailable` if it cannot be traced and must not run then.
        """
        grant = context.grant
        kinds = grant.recording.trace
        if not kinds:
            return None
        try:
            missing = self.missing()
            lacking = next((kind for kind in kinds if kind in missing), None)
            if lacking is not None or self.tracer is None:
                reason = missing.get(lacking or kinds[0], "") or "this node traces nothing"
                raise Unavailable(f"{(lacking or kinds[0]).value}: {reason}")
            denies = grant.recording.no_handovers
            if denies and not getattr(self.tracer, "tells_handovers", False):
                raise Unavailable(
                    "handovers: deny: the tracer of this node (node.tracer) does not tell them"
                )
            program = TracedProgram(
                context.session_id,
                channel,
                grant.identity.user,
                grant.login,
                kinds,
                grant.recording.syscalls,
                denies,
            )
            traces: list[ProgramTrace] = []

            def receive(record: Traced | TraceLost) -> None:
                records.take(channel, record)
                if denies and isinstance(record, Traced) and record.event is TraceEvent.HANDOVER:
                    for each in traces:
                        each.kill()

            trace = await self._begin(self.tracer, program, receive)
        except TeleError as error:
            why = f"it cannot be traced, and a role demands that (enhanced_recording): {error}"
            if not grant.break_glass:
                raise Unavailable(f"the program does not start: {why}") from None
            records.emit("recording.gap", recorder="tracer", why=str(error))
            return None
        traces.append(
            ProgramTrace(self, trace, lambda why: records.lose(channel, why), records.settle)
        )
        return traces[0]

    async def _begin(
        self,
        tracer: ISessionTracer,
        program: TracedProgram,
        receive: Callable[[Traced | TraceLost], None],
    ) -> ITrace:
        try:
            opening = maybeDeferred(tracer.open, program, receive)
            trace: ITrace = await opening.addTimeout(OPEN_SECONDS, self.clock)
        except TeleError:
            raise
        except Exception as error:
            _log.failure("tracer failed")
            raise Unavailable(f"the tracer of this node failed ({type(error).__name__})") from None
        return trace

    def remains(self, trace: ProgramTrace) -> None:
        """A program has ended; what it left running may go on."""
        while len(self._remaining) >= REMAINING_LIMIT:
            next(iter(self._remaining)).give_up()
        self._remaining[trace] = None

    def gone(self, trace: ProgramTrace) -> None:
        """It is traced no more."""
        self._remaining.pop(trace, None)

    async def stop(self) -> None:
        """The node stops."""
        for trace in list(self._remaining):
            trace.close()
        if self.tracer is not None:
            try:
                await maybeDeferred(self.tracer.stop)
            except Exception:
                _log.failure("tracer failed")
