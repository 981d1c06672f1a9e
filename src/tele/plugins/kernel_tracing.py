"""How is the tracer of the kernel run, and what does it report? ``node.tracer: bpf``.

Invariants:

* The tracer's process is started with the first program that is to be traced: a node that traces
  none has none. One that died is started again for the next program.
* A tracer that dies has lost everything from there on of the programs that it traced.
* The reactor never waits for it, and takes a slice of what it reports at a time.
"""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

from attrs import define, field
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorFDSet, IReactorTime, IReadDescriptor
from twisted.python.failure import Failure
from zope.interface import implementer

from tele.errors import Unavailable
from tele.interfaces import IJoinedTracer, ITrace
from tele.log import make_logger
from tele.model.trace import Traced, TracedProgram, TraceKind, TraceLost
from tele.node.kernel_checks import tracing_problem
from tele.plugins.kernel_records import traced
from tele.single_flight import SingleFlight
from tele.tracer.hand_overs import Witnesses, hand_over
from tele.tracer.messages import MAX_MESSAGE, pack
from tele.tracer.records import BATCH, Lost, Record, RingAction, decode, kind_of
from tele.workers import SerialWorker

PROGRAM: Final = Path(__file__).parents[1] / "tracer" / "program.py"
#: Seconds in which the tracer has to say what it can do, and to answer that it begins.
READY_SECONDS: Final = 8.0

#: Bytes in the kernel for what was not read yet.
BUFFER: Final = 16 << 20
#: What is asked for with any kind: hand-overs are told of all sessions.
HANDOVERS: Final = "handovers"
#: Records that are taken in one go.
SLICE: Final = 64

_log = make_logger(__name__)


@implementer(ITrace)
@define(eq=False)
class KernelTrace:
    """One program, by its number."""

    number: int
    _tracer: KernelTracer
    kinds: frozenset[str]
    receiver: Callable[[Traced | TraceLost], None]
    #: The number of the last record.
    last: int = field(default=0, init=False)
    answer: Deferred[None] = field(factory=Deferred, init=False)
    flushing: list[Deferred[None]] = field(factory=list, init=False)
    stopped: Deferred[None] | None = field(default=None, init=False)

    def started(self, pid: int, cgroup: int) -> None:
        """See :class:`ITrace`: it has joined by itself."""

    def flush(self) -> Deferred[None]:
        """See :class:`ITrace`."""
        return self._tracer.flush(self)

    def kill(self) -> None:
        """End all of its processes, wherever they are."""
        self._tracer.kill(self)

    def close(self) -> Deferred[None]:
        """See :class:`ITrace`."""
        return self._tracer.end(self)

    def settle(self) -> None:
        """What was waited for has come."""
        flushing, self.flushing = self.flushing, []
        for each in flushing:
            each.callback(None)


@implementer(IReadDescriptor)
class _Process:
    """A tracer that runs, and the socket to it. ``ready`` fires with what it lacks."""

    def __init__(
        self,
        reactor: IReactorTime,
        process: subprocess.Popen[bytes],
        channel: socket.socket,
        received: Callable[[Mapping[str, Any] | Record], None],
        lost: Callable[[], None],
    ) -> None:
        self.ready: Deferred[dict[str, str]] = Deferred()
        self.process = process
        self._reactor = reactor
        self._descriptors = IReactorFDSet(reactor)
        self._channel = channel
        self._on_receipt = received
        self._on_loss = lost
        self._records: Iterator[Record] | None = None
        self.closed = False
        channel.setblocking(False)
        self._descriptors.addReader(self)

    def send(self, message: Mapping[str, Any]) -> None:
        """Send a request. Raises :class:`Unavailable` if the tracer takes none."""
        try:
            self._channel.send(pack(dict(message)))
        except OSError as error:
            raise Unavailable(f"the tracer does not answer: {error.strerror}") from None

    def doRead(self) -> None:
        """Read a message, or the end."""
        try:
            data = self._channel.recv(MAX_MESSAGE + 1)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        try:
            if not data:
                self.close()
            elif data[:1] == BATCH:
                self._records = decode(data)
                self._descriptors.removeReader(self)
                self._take()
            else:
                self._on_receipt(json.loads(data))
        except ValueError as error:
            _log.error("tracer failed", error=f"an invalid message: {error}")
            self.close()

    def _take(self) -> None:
        """Take a slice of the records of a message, and the rest in the reactor's next turns."""
        if self.closed or self._records is None:
            return
        try:
            for _ in range(SLICE):
                record = next(self._records, None)
                if record is None:
                    self._records = None
                    self._descriptors.addReader(self)
                    return
                self._on_receipt(record)
        except ValueError as error:
            _log.error("tracer failed", error=f"an invalid record: {error}")
            self.close()
            return
        self._reactor.callLater(0, self._take)

    def close(self) -> None:
        """It has ended, or is to end: it does when its socket is closed."""
        if self.closed:
            return
        self.closed = True
        self._descriptors.removeReader(self)
        self._channel.close()
        if not self.ready.called:
            self.ready.errback(Failure(Unavailable("the tracer of this node ended")))
        self._on_loss()

    def fileno(self) -> int:
        """Return the socket's descriptor."""
        return self._channel.fileno()

    def connectionLost(self, reason: Failure) -> None:
        """The reactor ends, or cannot poll the socket."""
        self.close()

    def logPrefix(self) -> str:
        """Return a name for the reactor's log."""
        return "tracer"


@implementer(IJoinedTracer)
class KernelTracer:
    """The tracer of this machine's kernel, in a process of its own.

    ``buffer`` are the bytes that the kernel keeps of what was not read yet, a power of two.
    """

    #: Whether it reports hand-overs: a role may forbid them then.
    tells_handovers = True

    def __init__(
        self, reactor: IReactorTime, program: Path = PROGRAM, buffer: int = BUFFER
    ) -> None:
        self._reactor = reactor
        self._options = json.dumps({"event_buffer": buffer})
        self._program = program
        self._joining, self._joined = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        problem = tracing_problem()[0]
        self._missing: dict[TraceKind, str] = dict.fromkeys(TraceKind, problem) if problem else {}
        self._running: _Process | None = None
        self._starting = SingleFlight(self._start)
        self._worker = SerialWorker(reactor, "tele-tracer")
        self._traces: dict[int, KernelTrace] = {}
        self._number = 0
        self._witnesses = Witnesses()
        self._stopped = False
        if problem:
            _log.warn("sessions cannot be traced", error=problem)

    @property
    def descriptor(self) -> int:
        """See :class:`IJoinedTracer`."""
        return self._joining.fileno()

    def missing(self) -> Mapping[TraceKind, str]:
        """See :class:`ISessionTracer`."""
        return self._missing

    def open(
        self, program: TracedProgram, receiver: Callable[[Traced | TraceLost], None]
    ) -> Deferred[ITrace]:
        """See :class:`ISessionTracer`."""
        return Deferred.fromCoroutine(self._open(program, receiver))

    async def _open(
        self, program: TracedProgram, receiver: Callable[[Traced | TraceLost], None]
    ) -> ITrace:
        running = self._running
        if running is None or not running.ready.called:
            running = await self._starting.call()
        for kind in program.kinds:
            if kind in self._missing:
                raise Unavailable(f"{kind.value}: {self._missing[kind]}")
        self._number += 1
        trace = self._traces[self._number] = KernelTrace(
            self._number, self, frozenset(kind.value for kind in program.kinds), receiver
        )
        try:
            request = {
                "kinds": [*sorted(trace.kinds), HANDOVERS],
                "syscalls": list(program.syscalls),
                "may_end": program.may_end,
            }
            running.send({"op": "start", "id": trace.number, **request})
            await trace.answer
        except BaseException:
            self._traces.pop(trace.number, None)
            raise
        return trace

    # -- its process ------------------------------------------------------------------
    async def _start(self) -> _Process:
        if self._stopped:
            raise Unavailable("the node is stopping")
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            process = await self._worker.call(
                _run, self._program, theirs, self._joined, self._options
            )
        except OSError as error:
            ours.close()
            raise Unavailable(f"the tracer cannot be started: {error.strerror}") from None
        finally:
            theirs.close()
        running = _Process(self._reactor, process, ours, self._received, self._lost)
        self._running = running
        try:
            ready = running.ready.addTimeout(READY_SECONDS, self._reactor)
            lacking: Any = await ready
            self._missing = {TraceKind(kind): str(why) for kind, why in lacking.items()}
        except Unavailable:
            raise
        except Exception:
            running.close()
            raise Unavailable("the tracer of this node does not answer") from None
        return running

    def _received(self, message: Any) -> None:
        if not isinstance(message, Mapping):
            self._recorded(message)
            return
        event, trace = message.get("event"), self._traces.get(message.get("id", 0))
        running = self._running
        if event == "ready" and running is not None:
            running.ready.callback(message["missing"])
        elif event == "unavailable" and running is not None:
            self._missing = dict.fromkeys(TraceKind, str(message["message"]))
            _log.warn("sessions cannot be traced", error=message["message"])
            running.ready.errback(Failure(Unavailable(message["message"])))
        elif event == "refused":
            _log.error("tracer refused a request", error=message["message"])
        elif trace is None:
            return
        elif event == "started" and not trace.answer.called:
            trace.answer.callback(None)
        elif event == "failed" and not trace.answer.called:
            trace.answer.errback(Failure(Unavailable(message["message"])))
        elif event == "flushed":
            _tell_missed(trace, message)
            trace.settle()
        elif event in ("stopped", "failed"):
            _tell_missed(trace, message)
            self._ended(trace)

    def _recorded(self, record: Record) -> None:
        session = record.session if isinstance(record, Lost) else record.origin.session
        trace = self._traces.get(session)
        if trace is None:
            return
        boot = time.time_ns() - time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        last = record.last if isinstance(record, Lost) else record.origin.sequence
        trace.last = max(trace.last, last)
        # Sockets are seen whatever is asked for: some of them are hand-overs.
        kind = kind_of(record)
        wanted = kind in trace.kinds if kind else not isinstance(record, RingAction)
        given = (record if wanted else None, hand_over(record), self._witnesses.look(record))
        for each in given:
            if each is not None:
                trace.receiver(traced(each, boot))

    def _lost(self) -> None:
        """Its process has ended."""
        running, self._running = self._running, None
        traces, self._traces = self._traces, {}
        self._witnesses = Witnesses()
        if running is not None:
            # It ends by itself, since its socket is closed; closing programs may take a while.
            self._worker.call(partial(_reap, running.process))
        if traces:
            _log.error("tracer ended", programs=len(traces))
        for trace in traces.values():
            if not trace.answer.called:
                trace.answer.errback(Failure(Unavailable("the tracer of this node ended")))
            elif trace.stopped is None:
                trace.receiver(TraceLost(trace.last + 1, 0))
            trace.settle()
            if trace.stopped is not None and not trace.stopped.called:
                trace.stopped.callback(None)

    # -- programs that end -------------------------------------------------------------
    def flush(self, trace: KernelTrace) -> Deferred[None]:
        """See :class:`ITrace`."""
        if self._traces.get(trace.number) is not trace or self._running is None:
            return succeed(None)
        flushed: Deferred[None] = Deferred()
        trace.flushing.append(flushed)
        with contextlib.suppress(Unavailable):
            self._running.send({"op": "flush", "id": trace.number})
        return flushed

    def kill(self, trace: KernelTrace) -> None:
        """See :class:`KernelTrace`."""
        if self._traces.get(trace.number) is trace and self._running is not None:
            with contextlib.suppress(Unavailable):
                self._running.send({"op": "end", "id": trace.number})

    def end(self, trace: KernelTrace) -> Deferred[None]:
        """See :class:`ITrace`."""
        if trace.stopped is not None:
            return succeed(None)
        trace.stopped = Deferred()
        if self._traces.get(trace.number) is not trace or self._running is None:
            trace.stopped.callback(None)
            return trace.stopped
        try:
            self._running.send({"op": "stop", "id": trace.number})
        except Unavailable:
            self._ended(trace)
        return trace.stopped

    def _ended(self, trace: KernelTrace) -> None:
        self._traces.pop(trace.number, None)
        self._witnesses.forget(trace.number)
        trace.settle()
        if trace.stopped is not None and not trace.stopped.called:
            trace.stopped.callback(None)

    def stop(self) -> Deferred[None]:
        """See :class:`ISessionTracer`."""
        if self._stopped:
            return succeed(None)
        self._stopped = True
        if self._running is not None:
            self._running.close()
        self._joining.close()
        self._joined.close()
        return self._worker.close()


def _run(
    program: Path, control: socket.socket, joining: socket.socket, options: str
) -> subprocess.Popen[bytes]:
    """In a thread: run the tracer with its ends of both sockets. Raises OSError."""
    fds = control.fileno(), joining.fileno()
    return subprocess.Popen(  # noqa: S603 - our own program
        [sys.executable, "-I", "-S", str(program), *map(str, fds), options],
        pass_fds=fds,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        cwd="/",
        env={},
        start_new_session=True,  # the terminal's Ctrl-C is for the node
    )


def _tell_missed(trace: KernelTrace, message: Mapping[str, Any]) -> None:
    """Report runs of the kernel's programs that were left out: a loss, of whichever session."""
    missed = int(message.get("missed", 0))
    if missed > 0:
        _log.warn("tracer lost events", missed=missed)
        trace.receiver(TraceLost(0, 0, missed))


def _reap(process: subprocess.Popen[bytes]) -> None:
    """In a thread: wait for the end of a tracer whose socket is closed."""
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
