"""What is the list of revoked certificates that a proxy serves? Auth's, some seconds old at most.

Invariants:

* Auth is asked once in :data:`FRESH_SECONDS`, however many clients ask.
* While auth is away the last list is served: a server with an old list accepts less than one with
  none.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from tele.errors import Unavailable
from tele.log import make_logger
from tele.model.api.revocation import RevocationList

log = make_logger(__name__)

FRESH_SECONDS: Final = 3.0
#: How long a client waits for auth before it gets the last list.
WAIT_SECONDS: Final = 10.0


class RevocationLists:
    """The list of ``fetch()``, kept.

    Clients that ask while auth is asked wait for the same answer; they are as many as the port
    admits.
    """

    def __init__(self, clock: IReactorTime, fetch: Callable[[], Deferred[RevocationList]]) -> None:
        self._clock = clock
        self._fetch = fetch
        self._last: RevocationList | None = None
        self._fetched = 0.0
        self._waiting: list[Deferred[bytes]] = []

    def get(self) -> Deferred[bytes]:
        """Return the list. Fails with :class:`Unavailable` if auth never gave one."""
        answer: Deferred[bytes] = Deferred()
        if self._last is not None and self._clock.seconds() - self._fetched < FRESH_SECONDS:
            answer.callback(self._last.data)
            return answer
        self._waiting.append(answer)
        if len(self._waiting) == 1:
            asked = maybeDeferred(self._fetch)
            asked.addTimeout(WAIT_SECONDS, self._clock)
            asked.addCallbacks(self._got, self._failed)
            asked.addBoth(self._settle)
        return answer

    def _got(self, fetched: RevocationList) -> None:
        self._last, self._fetched = fetched, self._clock.seconds()

    def _failed(self, failure: Failure) -> None:
        log.warn("list of revoked certificates not fetched", error=str(failure.value))

    def _settle(self, _: None) -> None:
        waiting, self._waiting = self._waiting, []
        for answer in waiting:
            if self._last is None:
                answer.errback(Unavailable("auth has not sent the list of revoked certificates"))
            else:
                answer.callback(self._last.data)
