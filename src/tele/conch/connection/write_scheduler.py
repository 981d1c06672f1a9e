"""Which of many channels on one connection sends next?

Invariants:

* A sender that could not send waits once, and is called when all that waited before it have been:
  on a slow link no channel keeps another from sending.
* The transport is observed only while a sender waits: an idle connection costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

Sender = Callable[[], None]


class _Transport(Protocol):
    """What of an ``IDataTransport`` is needed here."""

    ready_observers: set[Callable[[], None]]

    def can_send(self) -> bool:
        """Whether data may be sent now."""


class WriteScheduler:
    """The senders that wait until ``transport`` can send."""

    __slots__ = ("_transport", "_waiting")

    def __init__(self, transport: _Transport) -> None:
        self._transport = transport
        self._waiting: dict[Sender, None] = {}

    def wait(self, sender: Sender) -> None:
        """Call ``sender`` once, after those that wait already. It may wait again."""
        if not self._waiting:
            self._transport.ready_observers.add(self._run)
        self._waiting.setdefault(sender)

    def cancel(self, sender: Sender) -> None:
        """Do not call ``sender`` any more."""
        if sender in self._waiting:
            del self._waiting[sender]
            if not self._waiting:
                self._transport.ready_observers.discard(self._run)

    def _run(self) -> None:
        """The transport can send: call each sender at most once, while it still can."""
        for _ in range(len(self._waiting)):
            if not self._waiting or not self._transport.can_send():
                return
            sender = next(iter(self._waiting))
            self.cancel(sender)
            sender()
