"""A tracer: it reports the first process of each program, by what ``/proc`` has of it.

With the folder above on Python's path, ``tracer: first`` in the section ``node`` chooses it, for
roles with ``enhanced_recording: [command]``. It shows the interface; it does not see what the
program starts, as a tracer in the kernel does.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping

from attrs import define
from twisted.internet.defer import Deferred, succeed
from twisted.plugin import IPlugin
from zope.interface import implementer

from tele.interfaces import ISessionTracer, ISessionTracerFactory, ITrace, Surroundings
from tele.model.trace import Traced, TracedProgram, TraceEvent, TraceKind, TraceLost


@implementer(ITrace)
@define(eq=False)
class FirstProcess:
    """One program."""

    receiver: Callable[[Traced | TraceLost], None]
    number: int = 0  # processes do not join it

    def started(self, pid: int, cgroup: int) -> None:
        """Report the process that was started."""
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                words = file.read().split(b"\0")[:-1]
        except OSError:  # it has ended: what it ran is lost, and the node has to know
            self.receiver(TraceLost(1, 1))
            return
        details = {"argv": [word.decode("utf-8", "backslashreplace") for word in words]}
        name = os.fsdecode(words[0]) if words else ""
        self.receiver(
            Traced(
                TraceEvent.COMMAND, 1, time.time_ns(), "exec", pid, os.getpid(), os.getuid(), name,
                details=details,
            )
        )  # fmt: skip

    def flush(self) -> Deferred[None]:
        """All is reported at once."""
        return succeed(None)

    def close(self) -> Deferred[None]:
        """There is nothing to end."""
        return succeed(None)


@implementer(ISessionTracer)
class FirstProcessTracer:
    """The tracer; one for the whole node."""

    def missing(self) -> Mapping[TraceKind, str]:
        """Only programs are seen."""
        return {
            kind: "the tracer 'first' sees programs only"
            for kind in TraceKind
            if kind is not TraceKind.COMMAND
        }

    def open(
        self, program: TracedProgram, receiver: Callable[[Traced | TraceLost], None]
    ) -> Deferred[ITrace]:
        """Trace one program."""
        return succeed(FirstProcess(receiver))

    def stop(self) -> Deferred[None]:
        """Nothing is left anywhere."""
        return succeed(None)


@implementer(IPlugin, ISessionTracerFactory)
class FirstProcessFactory:
    """Makes it from the configuration."""

    kind = "first"
    help = "first - the first process of each program, by /proc"

    def make(self, arguments: str, surroundings: Surroundings) -> ISessionTracer:
        """See ``IFactory``."""
        return FirstProcessTracer()


first = FirstProcessFactory()
