"""How does the index of nodes follow auth?

Invariant: while auth is unreachable the index stays as it was, and auth is called again for ever,
with growing pauses; a failure is logged once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

from tele.errors import TeleError
from tele.log import make_logger
from tele.loop import backoff
from tele.membership.member import Member
from tele.model.api.hosts import WATCH_HOSTS, HostChanges, WatchHosts
from tele.model.identity import HostRole
from tele.routing.index import NodeIndex
from tele.routing.known_nodes import KnownNodes

_log: Final = make_logger(__name__)


class NodeWatch:
    """Keeps ``index`` up to date, and saved for a start without auth."""

    def __init__(self, clock: IReactorTime, member: Member, index: NodeIndex) -> None:
        self._clock = clock
        self._member = member
        self._index = index
        self._known = KnownNodes(clock, member, index)
        self._failures = 0
        #: Called after each change.
        self.on_change: Callable[[], None] = lambda: None
        self._following: Deferred[None] | None = None

    def restore(self) -> None:
        """Load the nodes known before a restart."""
        self._known.restore()

    def start(self) -> None:
        """Follow auth."""
        self._following = Deferred.fromCoroutine(self._follow())
        self._following.addErrback(lambda _: None)

    def stop(self) -> None:
        """Follow auth no more, and save the nodes."""
        following, self._following = self._following, None
        if following is not None:
            following.cancel()
        self._known.stop()

    async def _follow(self) -> None:
        while True:
            try:
                await self._member.authority.follow(
                    WATCH_HOSTS, WatchHosts(HostRole.NODE), self._changed
                )
            except TeleError as error:
                if self._failures == 0:
                    _log.warn("watch of nodes failed", error=str(error))
            await deferLater(self._clock, backoff(self._failures))
            self._failures += 1

    def _changed(self, changes: HostChanges) -> None:
        self._failures = 0
        self._index.change(changes)
        self._known.changed()
        self.on_change()
