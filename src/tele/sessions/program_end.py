"""Which event does the end of a program leave, and what passed between it and its client?

:class:`AuditedTap` observes each program, recorded or not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from tele.conch.session.programs import Exit
from tele.model.transfer import OK
from tele.sessions.sharing import SharedTerminal
from tele.transfers.observer import Observer

#: Called once, with the fields of the event.
Report = Callable[[Mapping[str, Any]], None]


class AuditedTap:
    """Counts what passes, and reports how it ended (``conch.session.programs.ITap``).

    ``tap`` is what records the program, if it is recorded, ``observer`` what reads the files that
    it transfers, if it could, ``shared`` its terminal, which others may join.
    """

    __slots__ = (
        "_began", "_clock", "_error", "_input", "_observer", "_output", "_report", "_shared",
        "_tap",
    )  # fmt: skip

    def __init__(
        self,
        clock: IReactorTime,
        tap: Any,
        observer: Observer | None,
        report: Report,
        shared: SharedTerminal | None = None,
    ) -> None:
        self._clock = clock
        self._began = clock.seconds()
        self._tap = tap
        self._observer = observer
        self._report = report
        self._shared = shared
        self._input = self._output = self._error = 0

    @property
    def paused(self) -> bool:
        """Whether the program is not to be read from for now."""
        if self._shared is not None and self._shared.watch.paused:
            return True
        return self._tap is not None and bool(self._tap.paused)

    def when_resumed(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` once, when it may be read from again."""
        if self._shared is not None and self._shared.watch.paused:
            self._shared.watch.when_resumed(lambda: self.when_resumed(callback))
        elif self._tap is None:
            callback()
        else:
            self._tap.when_resumed(callback)

    @property
    def holds(self) -> bool:
        """Whether output waits for :meth:`hold`."""
        return self._tap is not None and bool(self._tap.holds)

    def hold(self) -> Deferred[None] | None:
        """Hold what was observed so far, see ITap."""
        held: Deferred[None] | None = self._tap.hold()
        return held

    def on_notice(self, callback: Callable[[str], None]) -> Callable[[], None]:
        """Call ``callback`` with messages for the user, see ITap."""
        unregister: Callable[[], None] = self._tap.on_notice(callback)
        return unregister

    def output(self, *views: memoryview) -> None:
        """The program wrote this."""
        self._output += sum(map(len, views))
        if self._observer is not None:
            self._observer.output(*views)
        if self._tap is not None:
            self._tap.output(*views)
        if self._shared is not None:
            self._shared.output(*views)

    def error(self, *views: memoryview) -> None:
        """The program wrote this to its standard error."""
        self._error += sum(map(len, views))
        if self._tap is not None:
            self._tap.error(*views)

    @property
    def drops_input(self) -> bool:
        """Whether what is typed on a terminal must not reach it now."""
        return self._shared is not None and self._shared.watch.paused

    def input(self, view: memoryview) -> None:
        """The client sent this."""
        self._input += len(view)
        if self._observer is not None:
            self._observer.input(view)
        if self._tap is not None:
            self._tap.input(view)

    @property
    def wants_typed(self) -> bool:
        """Whether to tell what is typed on a terminal."""
        return self._tap is not None and bool(self._tap.wants_typed)

    def typed(self, data: bytes) -> None:
        """The terminal took this and showed it."""
        self._tap.typed(data)

    def typed_hidden(self) -> None:
        """The terminal took something and did not show it."""
        self._tap.typed_hidden()

    def resized(self, columns: int, rows: int) -> None:
        """The window changed."""
        if self._tap is not None:
            self._tap.resized(columns, rows)
        if self._shared is not None:
            self._shared.resized(columns, rows)

    def exited(self, exit: Exit) -> None:  # noqa: A002 (the name in ITap)
        """The program ended and all its output was observed."""
        if self._observer is not None:
            self._observer.ended(_result(exit))
        if self._shared is not None:
            self._shared.exited()
        if self._tap is not None:
            self._tap.exited(exit)
        how: dict[str, Any] = {"status": exit.status}
        if exit.signal is not None:
            how = {"signal": exit.signal}
        if exit.message:
            how["error"] = exit.message
        self._report({
            **how,
            "bytes_in": self._input,
            "bytes_out": self._output,
            "bytes_err": self._error,
            "seconds": round(self._clock.seconds() - self._began, 3),
        })  # fmt: skip


def _result(exit: Exit) -> str:  # noqa: A002 (as in ITap)
    if exit.signal is not None:
        return f"signal {exit.signal}"
    if exit.status is None:
        return exit.message or "the program was lost"
    return f"exit status {exit.status}" if exit.status else OK
