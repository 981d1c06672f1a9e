"""How are changes of a database found by looking for them?

Invariants:

* Changes are looked for after each commit of this process, when the database says that there are
  some, and each second. At most one look runs at a time.
* A key that changed twice between two looks is one change, with its latest value.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from tele.interfaces import Change
from tele.store.threaded import Session, ThreadedBackend

POLL_SECONDS: Final = 1.0


class PolledSession(Session, Protocol):
    """A connection to a database that knows what has changed."""

    def changes_since(self, revision: int) -> tuple[int, list[Change]]:
        """Return the newest revision, and what changed after ``revision``, oldest first.

        Raises :class:`tele.store.threaded.ChangesLost`; nothing can be asked of the backend then.
        """


class PolledBackend(ThreadedBackend[PolledSession]):
    """A backend that looks for changes; see :class:`ThreadedBackend`."""

    def __init__(
        self,
        reactor: IReactorTime,
        sessions: Sequence[PolledSession],
        seen: int,
        patience: float | None = None,
    ) -> None:
        super().__init__(reactor, sessions, seen, patience)
        self._polling = False
        self._poll_again = False
        self._every("poll", POLL_SECONDS, self._poll)

    def _committed(self, revision: int) -> int:
        self._poll()
        return super()._committed(revision)

    def _swept(self, _: None) -> None:
        self._poll()

    def _poll(self) -> None:
        """Read the changes since the last poll."""
        if not self._watchers or self._closed is not None:
            return
        if self._polling:
            self._poll_again = True
            return
        self._polling = True
        seen = self._seen
        self._read(lambda session: session.changes_since(seen)).addCallbacks(
            self._found, self._failed
        )

    def _notify(self, found: tuple[int, list[Change]]) -> None:
        self._polling = False
        super()._notify(found)
        if self._poll_again:
            self._poll_again = False
            self._poll()

    def _failed(self, failure: Failure) -> None:
        self._polling = False
        super()._failed(failure)
