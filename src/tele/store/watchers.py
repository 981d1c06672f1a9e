"""Which receivers are notified of changes of the store? The watches of one process, by prefix."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

from zope.interface import implementer

from tele.interfaces import Change, IWatch
from tele.log import make_logger

log = make_logger(__name__)


@implementer(IWatch)
class Watch:
    """One receiver for one prefix."""

    def __init__(self, watchers: Watchers, prefix: str, receiver: Callable[[Change], None]) -> None:
        self._watchers = watchers
        self.prefix = prefix
        self.receiver = receiver

    def stop(self) -> None:
        """See :class:`IWatch`."""
        self._watchers.remove(self)


class Watchers:
    """All watches of a backend. The failure of a receiver is logged; it gets the next change.

    A receiver may change the store: the change is delivered after the present one, so that all
    receivers get changes in one order.
    """

    def __init__(self) -> None:
        self._watches: dict[Watch, None] = {}
        self._queue: deque[Change] = deque()
        self._notifying = False

    def add(self, prefix: str, receiver: Callable[[Change], None]) -> Watch:
        """Call ``receiver`` with changes under ``prefix`` from now on."""
        watch = Watch(self, prefix, receiver)
        self._watches[watch] = None
        return watch

    def remove(self, watch: Watch) -> None:
        """End a watch."""
        self._watches.pop(watch, None)

    def clear(self) -> None:
        """End all watches."""
        self._watches.clear()
        self._queue.clear()

    def __bool__(self) -> bool:
        return bool(self._watches)

    def notify(self, changes: Iterable[Change]) -> None:
        """Deliver changes to all watches, in order."""
        self._queue.extend(changes)
        if self._notifying:
            return
        self._notifying = True
        try:
            while self._queue:
                self._notify_one(self._queue.popleft())
        finally:
            self._notifying = False

    def _notify_one(self, change: Change) -> None:
        for watch in list(self._watches):
            if watch in self._watches and change.key.startswith(watch.prefix):
                try:
                    watch.receiver(change)
                except Exception:
                    log.failure("receiver of store changes failed", prefix=watch.prefix)
