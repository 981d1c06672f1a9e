"""When does output of a program on a target go to the client?

Invariants:

* The tap observes data before they are sent, and none while it is behind.
* A tap that holds output back (it has to be stored first) releases it in order; what it never
  releases is not sent.
* What waits here is not credited to the target: it is at most a window, in pieces of any size.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

from tele.conch.connection.backlog import Backlog
from tele.conch.connection.channel import Channel
from tele.conch.session.remote_program import IRemoteProgram
from tele.errors import TeleError
from tele.log import make_logger
from tele.sockets.buffers import MAX_DATA

log = make_logger(__name__)


class RemoteOutput:
    """Passes output of ``program`` on to ``channel``; ``changed()`` is called when less waits."""

    def __init__(
        self, channel: Channel, program: IRemoteProgram, changed: Callable[[], None]
    ) -> None:
        self._channel = channel
        self._program = program
        self._changed = changed
        #: What the tap has not observed, and what it holds back.
        self._unobserved = Backlog()
        self._held = Backlog()
        self._hold: Deferred[None] | None = None
        self._awaits_tap = False
        self._dropping = False
        #: Bytes that are queued for the client.
        self._queued = 0

    @property
    def is_empty(self) -> bool:
        """Whether all output was written to the channel."""
        return not self._unobserved and not self._held

    def take(self, code: int | None, view: memoryview) -> None:
        """The program wrote ``view``."""
        if self._dropping:
            self._program.consumed(len(view))
        elif self._unobserved or self._hold is not None or self._tap_is_behind():
            self._unobserved.append(view, code)
        else:
            self._observe(code, view)
            if not self._must_wait():
                self._send(code, view)
            else:
                self._held.append(view, code)

    def sent(self, count: int) -> None:
        """Queued bytes were sent to the client, messages of ours among them perhaps."""
        count = min(count, self._queued)
        self._queued -= count
        self._program.consumed(count)

    def drop(self) -> None:
        """The client takes no more."""
        self._dropping = True
        hold, self._hold = self._hold, None
        if hold is not None:
            hold.cancel()
        self._program.consumed(self._unobserved.clear() + self._held.clear())

    # -- the tap ----------------------------------------------------------------------
    def _observe(self, code: int | None, view: memoryview) -> None:
        tap: Any = self._program.tap
        if tap is not None:
            (tap.output if code is None else tap.error)(view)

    def _tap_is_behind(self) -> bool:
        tap = self._program.tap
        if tap is None or not tap.paused:
            return False
        if not self._awaits_tap:
            self._awaits_tap = True
            tap.when_resumed(self._tap_resumed)
        return True

    def _tap_resumed(self) -> None:
        self._awaits_tap = False
        self._continue()

    def _must_wait(self) -> bool:
        """Whether the tap holds back what it has observed last."""
        tap = self._program.tap
        hold: Deferred[None] | None = tap.hold() if tap is not None and tap.holds else None
        if hold is None:
            return False
        self._hold = hold
        hold.addCallbacks(self._released, self._refused)
        return True

    def _released(self, _: None) -> None:
        self._hold = None
        self._send_held()
        self._continue()

    def _refused(self, failure: Failure) -> None:
        """The session has ended, or the client takes no more."""
        if failure.check(CancelledError):
            return
        if not failure.check(TeleError):
            log.failure("held output not released", failure)
        self._hold = None
        self.drop()

    # -- to the client ----------------------------------------------------------------
    def _continue(self) -> None:
        """Observe what waits, as much as the tap takes, and send it when that is released."""
        unobserved = self._unobserved
        while unobserved and self._hold is None and not self._dropping:
            while unobserved and not self._tap_is_behind():
                view, code = unobserved.first(MAX_DATA)
                with view:
                    size = len(view)
                    self._observe(code, view)
                    self._held.append(view, code)
                unobserved.drop(size)
            if not self._held:
                break
            if not self._must_wait():
                self._send_held()
        self._changed()

    def _send_held(self) -> None:
        held = self._held
        while held:
            view, code = held.first(MAX_DATA)
            with view:
                size = len(view)
                self._send(code, view)
            held.drop(size)

    def _send(self, code: int | None, view: memoryview) -> None:
        queued = self._channel.send_view(view, code)
        self._queued += queued
        self._program.consumed(len(view) - queued)
