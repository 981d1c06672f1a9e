"""Is a session watched as its roles demand, and what happens while it is not?

Invariants:

* A terminal opens only while the session is watched, and only one at a time: those who watch see
  one. What has no terminal does not start.
* A session that is watched no more is paused or ends, as the rules say; while it is paused nothing
  that is typed reaches it, by its user or by a peer, and nothing of it is shown.
* Its own user does not count.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from twisted.internet.defer import Deferred
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.interfaces import IReactorTime

from tele.conch.session.programs import ProgramRequest
from tele.errors import AccessDenied, Unavailable
from tele.model.access import Denied, Reason
from tele.model.joining import OnLeave, Watcher
from tele.rbac.joining import unwatched, watch_text
from tele.sessions.context import ConnectionContext
from tele.text import duration

#: Seconds that a terminal waits for those who have to watch it.
WATCH_SECONDS: Final = 600.0


class Watch:
    """Who has to watch one session.

    :param watchers: those who take part in it.
    :param terminals: how many of its terminals are open.
    :param tell: shows a text on the terminal of a channel, by its number; without one on all.
    :param end: ends the session.
    """

    __slots__ = (
        "_clock", "_context", "_end", "_resuming", "_tell", "_terminals",
        "_waiting", "_watchers", "paused", "reserved",
    )  # fmt: skip

    def __init__(
        self,
        clock: IReactorTime,
        context: ConnectionContext,
        watchers: Callable[[], Iterable[Watcher]],
        terminals: Callable[[], int],
        tell: Callable[[int | None, str], None],
        end: Callable[[Denied], None],
    ) -> None:
        self._clock = clock
        self._context = context
        self._watchers = watchers
        self._terminals = terminals
        self._tell = tell
        self._end = end
        #: The channel whose terminal waits, or is about to open.
        self.reserved: int | None = None
        self._waiting: Deferred[None] | None = None
        self._resuming: list[Callable[[], None]] = []
        self.paused = False

    @property
    def is_required(self) -> bool:
        """Whether a role demands it."""
        return bool(self._context.grant.require_session_join)

    def _missing(self) -> tuple[str, OnLeave] | None:
        """Return what is missing, and what follows; None if the session is watched."""
        grant = self._context.grant
        rules = unwatched(grant.require_session_join, grant.identity.user, self._watchers())
        if not rules:
            return None
        pauses = all(rule.on_leave is OnLeave.PAUSE for rule in rules)
        text = ", or that ".join(map(watch_text, rules))
        return f"a role demands that {text}", OnLeave.PAUSE if pauses else OnLeave.TERMINATE

    # -- the start ----------------------------------------------------------------------
    async def begin(self, request: ProgramRequest, channel: int) -> None:
        """Return when what is requested may start; :meth:`settle` is called after that.

        Raises :class:`AccessDenied`, or :class:`Unavailable` if those who have to do not come.
        """
        if not self.is_required:
            return
        if request.pty is None:
            raise AccessDenied(
                "a role demands that this session is watched (require_session_join), and only a"
                " terminal can be: use ssh -t",
                Reason.MODERATED.value,
            )
        if self._terminals() or self.reserved is not None:
            raise AccessDenied(
                "a role demands that this session is watched (require_session_join), with one"
                " terminal at a time",
                Reason.MODERATED.value,
            )
        self.reserved = channel
        until = self._clock.seconds() + WATCH_SECONDS
        while (missing := self._missing()) is not None:
            self._tell(
                channel,
                f"waiting for others: {missing[0]}; for them: tele join {self._context.session_id}",
            )
            self._waiting = Deferred()
            try:
                left = max(0.0, until - self._clock.seconds())
                await self._waiting.addTimeout(left, self._clock)
            except DeferredTimeout:
                raise Unavailable(
                    f"the session was not watched within {duration(WATCH_SECONDS)}: {missing[0]}"
                ) from None
            finally:
                self._waiting = None

    def settle(self, channel: int) -> None:
        """What was to start on a channel has started, or has not."""
        if self.reserved == channel:
            self.reserved = None

    # -- while it lasts -----------------------------------------------------------------
    def check(self) -> None:
        """A participant has come or left, or the rules have changed."""
        if self.is_required and self._terminals() > 1:
            text = "the session has to be watched from now on, and has several terminals"
            self._end(Denied(Reason.MODERATED, text))
            return
        missing = self._missing() if self.is_required else None
        if missing is None:
            waiting = self._waiting
            if waiting is not None:
                waiting.callback(None)
            self._resume()
        elif self._terminals():
            text, follows = missing
            if follows is OnLeave.TERMINATE:
                self._end(Denied(Reason.MODERATED, f"the session is not watched any more: {text}"))
            elif not self.paused:
                self.paused = True
                self._tell(None, f"paused: {text}")

    def _resume(self) -> None:
        if not self.paused:
            return
        self.paused = False
        self._tell(None, "the session goes on")
        resuming, self._resuming = self._resuming, []
        for callback in resuming:
            callback()

    def when_resumed(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` once, when it is not paused any more."""
        if self.paused:
            self._resuming.append(callback)
        else:
            callback()

    def close(self) -> None:
        """The session has ended."""
        waiting = self._waiting
        if waiting is not None:
            waiting.errback(Unavailable("the session has ended"))
