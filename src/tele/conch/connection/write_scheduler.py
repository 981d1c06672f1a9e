"""Who of many senders on one connection sends next?

Invariants:

* Whoever could not send waits once, and has its turn when all who waited before have had
  theirs: on a slow link no channel keeps another from sending.
* Nobody waits at the transport unless somebody waits here: an idle connection is not asked.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Sender = Callable[[], None]


class Turns:
    """The senders that wait until ``transport`` (an ``IDataTransport``) can send."""

    __slots__ = ("_transport", "_waiting")

    def __init__(self, transport: Any) -> None:
        self._transport = transport
        self._waiting: dict[Sender, None] = {}

    def wait(self, sender: Sender) -> None:
        """Call ``sender`` when it is its turn; once. It may wait again."""
        if not self._waiting:
            self._transport.ready_observers.add(self._go)
        self._waiting.setdefault(sender)

    def leave(self, sender: Sender) -> None:
        """Wait no more."""
        if sender in self._waiting:
            del self._waiting[sender]
            if not self._waiting:
                self._transport.ready_observers.discard(self._go)

    def _go(self) -> None:
        """The transport can send: give turns, each at most one, while it still can."""
        for _ in range(len(self._waiting)):
            if not self._waiting or not self._transport.can_send():
                return
            sender = next(iter(self._waiting))
            self.leave(sender)
            sender()
