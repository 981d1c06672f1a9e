"""Who wants to hear of changes? Watches of one process, by prefix."""

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
        """Tell nothing more. May be called twice."""
        self._watchers.remove(self)


class Watchers:
    """All watches of a backend. A receiver that fails is logged and told the next change.

    A receiver may change the store: what comes of that is told after what is being
    told, so that everybody hears of changes in one order.
    """

    def __init__(self) -> None:
        self._watches: dict[Watch, None] = {}
        self._untold: deque[Change] = deque()
        self._telling = False

    def add(self, prefix: str, receiver: Callable[[Change], None]) -> Watch:
        """Tell ``receiver`` of changes under ``prefix`` from now on."""
        watch = Watch(self, prefix, receiver)
        self._watches[watch] = None
        return watch

    def remove(self, watch: Watch) -> None:
        """Tell it nothing more."""
        self._watches.pop(watch, None)

    def clear(self) -> None:
        """Forget everybody."""
        self._watches.clear()
        self._untold.clear()

    def __bool__(self) -> bool:
        return bool(self._watches)

    def tell(self, changes: Iterable[Change]) -> None:
        """Tell everybody, in order."""
        self._untold.extend(changes)
        if self._telling:
            return
        self._telling = True
        try:
            while self._untold:
                self._tell_one(self._untold.popleft())
        finally:
            self._telling = False

    def _tell_one(self, change: Change) -> None:
        for watch in list(self._watches):
            if watch in self._watches and change.key.startswith(watch.prefix):
                try:
                    watch.receiver(change)
                except Exception:
                    log.failure("a watch of {prefix} failed", prefix=watch.prefix)
