"""A store in etcd, for clusters with several auths. Who learns of changes?

Invariants:

* Changes come by a watch, on a connection of its own. After an interruption it goes on where it
  was.
* When what was not seen is not in etcd any more, or etcd has lost what it had acknowledged, calls
  fail until the process is started again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import Final

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from tele.errors import TeleError
from tele.interfaces import Change
from tele.log import make_logger
from tele.store.etcd_client import Compacted, Place, read_url
from tele.store.etcd_session import CHANGES_KEPT, MOST_BYTES, MOST_CHANGES, EtcdSession
from tele.store.threaded import SWEEP_SECONDS, ChangesLost, ThreadedBackend

log = make_logger(__name__)

READERS: Final = 4
#: How many seconds a call may take.
PATIENCE: Final = 15.0
#: After how much silence a watch is made anew; each auth writes at each sweep.
SILENCE: Final = 2.5 * SWEEP_SECONDS
#: How long the thread that follows the changes waits after an error.
AGAIN_SECONDS: Final = 1.0

Found = tuple[int, list[Change]]


class _Follower(threading.Thread):
    """Calls ``found`` in this thread with all changes after a revision, ``lost`` if it cannot."""

    def __init__(
        self,
        session: EtcdSession,
        seen: int,
        cluster: str,
        found: Callable[[Found], None],
        lost: Callable[[ChangesLost], None],
    ) -> None:
        super().__init__(name="tele-store-follower", daemon=True)
        self._session = session
        self._seen = seen
        self._cluster = cluster
        self._found = found
        self._lost = lost
        self._ended = threading.Event()

    def run(self) -> None:
        while not self._ended.is_set():
            try:
                self._check()
                for newest, changes in self._session.follow(self._seen, SILENCE):
                    self._seen = newest
                    self._found((newest, changes))
            except Compacted:
                self._lost(
                    ChangesLost(
                        "this auth could not follow etcd for too long: its changes are kept for"
                        f" {CHANGES_KEPT / 60:.0f} minutes: restart it"
                    )
                )
                break
            except ChangesLost as error:
                self._lost(error)
                break
            except TeleError as error:
                if not self._ended.is_set():
                    log.warn("cannot follow the changes of the store", error=str(error))
                self._ended.wait(AGAIN_SECONDS)
        self._session.close()

    def _check(self) -> None:
        newest, cluster = self._session.cluster()
        if newest < self._seen or cluster != self._cluster:
            raise ChangesLost(
                "etcd has lost what it had acknowledged (a backup was restored, or it is another"
                " cluster): restart this auth"
            )

    def end(self) -> None:
        """Called in another thread."""
        self._ended.set()
        self._session.interrupt()


class EtcdBackend(ThreadedBackend[EtcdSession]):
    """Keeps everything in etcd at ``url`` (``//HOST:PORT,HOST:PORT/PREFIX?WORDS``).

    Raises :class:`tele.errors.InvalidInput` for a URL that is not acceptable, and
    :class:`tele.errors.Unavailable` when etcd cannot be used. It waits for etcd: make it before the
    process serves.
    """

    commit_limit = (MOST_CHANGES, MOST_BYTES)

    def __init__(self, url: str, reactor: IReactorTime, patience: float = PATIENCE) -> None:
        place: Place = read_url(url)
        sessions = [EtcdSession(place, patience) for _ in range(READERS + 1)]
        try:
            seen, cluster = sessions[0].prepare()
        except BaseException:
            sessions[0].close()
            raise
        super().__init__(reactor, sessions, seen, patience)
        self._follower = _Follower(
            EtcdSession(place, patience), seen, cluster,
            partial(self._from_thread, self._found), partial(self._from_thread, self._lose),
        )  # fmt: skip
        self._follower.start()

    def close(self) -> Deferred[None]:
        """See :class:`tele.interfaces.IBackend`."""
        self._follower.end()
        return super().close()

    def _threads(self) -> list[threading.Thread]:
        return [*super()._threads(), self._follower]

    def _notify(self, found: Found) -> None:
        newest, changes = found
        # A watch that began meanwhile gets what comes after its beginning.
        super()._notify((max(newest, self._seen), [c for c in changes if c.revision > self._seen]))

    def _lose(self, error: ChangesLost) -> None:
        self._failed(Failure(error))
