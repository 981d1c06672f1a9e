"""When may output go to the client that has to be at auth first?

Invariants:

* Output up to a frame is released when auth has all frames up to it, in order.
* One question is asked at a time, for the newest frame: frames that come meanwhile share the next.
* After :data:`NOTICE_SECONDS` without an answer the session is held, and says so; after
  ``end_after`` it ends. Each answer begins that time anew.
* A session that goes on although frames of it were lost does not wait for those.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure

from tele.errors import TeleError, Unavailable
from tele.recording.sync import Acknowledged

#: Seconds after which a session that waits for auth says so.
NOTICE_SECONDS: Final = 2.0


class OutputHold:
    """The held output of one connection.

    :param synced: asks for an answer when auth has all frames up to a number; see
        :class:`tele.interfaces.ISyncRecording`. Raises LookupError if no recording can answer.
    :param changed: called with whether output is held now, when that has changed.
    :param lost: called with the reason when the recording cannot answer; it may close this.
    :param end: called with the reason when the session has to end.
    """

    def __init__(
        self,
        clock: IReactorTime,
        end_after: float,
        synced: Callable[[int], Deferred[None]],
        changed: Callable[[bool], None],
        lost: Callable[[str], None],
        end: Callable[[str], None],
    ) -> None:
        self._clock = clock
        self._end_after = end_after
        self._synced = synced
        self._changed = changed
        self._lost = lost
        self._end = end
        self._released = Acknowledged()
        self._asked = 0
        self._loses = False
        self._over = False
        #: There is nothing to wait for: the session goes on without a recording that can answer.
        self._off = False
        self._timer: IDelayedCall | None = None
        self.is_held = False

    def held(self, sequence: int) -> Deferred[None] | None:
        """Return None if output up to the frame ``sequence`` may go now.

        Otherwise fires when it may; fails when the session has ended. It may be cancelled.
        """
        if self._off and not self._over:
            return None
        if self._loses and not self._over:
            self._ask(sequence)
            return None
        waiting = self._released.wait(sequence)
        if not waiting.called:
            self._ask(sequence)
        if waiting.called and not isinstance(waiting.result, Failure):
            return None
        self._watch()
        return waiting

    def _ask(self, sequence: int) -> None:
        if self._asked or self._over or sequence <= self._released.sequence:
            return
        self._asked = sequence
        try:
            answer = self._synced(sequence)
        except LookupError:  # there is no recording: nothing to wait for
            self._answered(None, sequence)
            return
        answer.addCallbacks(
            self._answered, self._refused, callbackArgs=(sequence,), errbackArgs=(sequence,)
        )

    def _answered(self, _: None, sequence: int) -> None:
        self._asked = 0
        self._loses = False
        self._stop()
        if self.is_held:
            self.is_held = False
            self._changed(False)
        self._released.advance(sequence)
        if newest := self._released.newest:
            self._ask(newest)
            self._watch()

    def _refused(self, failure: Failure, sequence: int) -> None:
        self._asked = 0
        if not self._over:
            known = failure.check(TeleError)
            self._lost(str(failure.value) if known else "its recorder failed")
        if not self._over:
            self._off = True
            self._stop()
            self._released.advance(max(sequence, self._released.newest))

    def _watch(self) -> None:
        """Begin the time of what waits now."""
        if self._timer is None and self._released.newest and not self._over:
            self._timer = self._clock.callLater(NOTICE_SECONDS, self._notice)

    def _notice(self) -> None:
        self._timer = None
        if not self._released.newest:
            return
        left = max(0.0, self._end_after - NOTICE_SECONDS)
        self._timer = self._clock.callLater(left, self._expired)
        self.is_held = True
        self._changed(True)

    def _expired(self) -> None:
        self._timer = None
        if self._released.newest:
            self._end(f"auth did not take its recording for {self._end_after:.0f} s")

    def lost(self) -> None:
        """Frames are lost, and the session goes on: what waits is released."""
        self._loses = True
        self._stop()
        self._released.advance(self._released.newest)

    def close(self, reason: str) -> None:
        """The session is over: what waits fails."""
        self._over = True
        self._stop()
        self._released.fail(Unavailable(reason))

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
