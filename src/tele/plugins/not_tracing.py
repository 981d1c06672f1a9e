"""What traces sessions on a node that is to trace none?"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from twisted.internet.defer import Deferred, fail, succeed
from zope.interface import implementer

from tele.errors import Unavailable
from tele.interfaces import ISessionTracer, ITrace
from tele.model.trace import Traced, TracedProgram, TraceKind, TraceLost

WHY = "this node traces nothing (node.tracer: none)"


@implementer(ISessionTracer)
class NoTracer:
    """Traces nothing: programs that roles want traced do not start."""

    def missing(self) -> Mapping[TraceKind, str]:
        """See :class:`ISessionTracer`."""
        return dict.fromkeys(TraceKind, WHY)

    def open(
        self, program: TracedProgram, receiver: Callable[[Traced | TraceLost], None]
    ) -> Deferred[ITrace]:
        """See :class:`ISessionTracer`."""
        return fail(Unavailable(WHY))

    def stop(self) -> Deferred[None]:
        """See :class:`ISessionTracer`."""
        return succeed(None)
