"""Where is the text of recordings searched? In a SQLite file beside the store.

Invariants:

* The reactor never waits: one thread writes, others search, with a share for each user.
* A search takes at most :data:`SECONDS`; too many that wait are refused.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from zope.interface import implementer

from tele.errors import Unavailable
from tele.interfaces import (
    ISearchIndex,
    SearchedLine,
    SearchedRecording,
    SearchPage,
    SearchQuery,
)
from tele.store import search_file
from tele.workers import SerialWorker, Workers

SECONDS: Final = 2.0
#: Text, with its overhead, that is kept; the file is about three times as large.
TEXT_LIMIT: Final = 4 * 1024 * 1024 * 1024


@implementer(ISearchIndex)
class SqliteSearch:
    """The text in the file ``path``. Raises :class:`Unavailable` when that cannot be used."""

    def __init__(self, path: Path, reactor: IReactorTime, limit: int = TEXT_LIMIT) -> None:
        self._path = path
        self._limit = limit
        try:
            self._connection = search_file.open_file(path)
        except (OSError, sqlite3.Error) as error:
            raise Unavailable(f"cannot open {path}: {error}") from None
        self._writer = SerialWorker(reactor, "tele-search-writer")
        self._readers = Workers(
            reactor, "the search in recordings", threads=2, share=1, waiting=4, seconds=10.0
        )
        self._closed = False

    def add(self, recording: SearchedRecording, lines: Sequence[SearchedLine]) -> Deferred[None]:
        """See :class:`ISearchIndex`."""
        return self._writer.call(
            _guarded, search_file.add, self._connection, recording, lines, self._limit
        )

    def remove(self, recording_id: str) -> Deferred[None]:
        """See :class:`ISearchIndex`."""
        return self._writer.call(_guarded, search_file.remove, self._connection, recording_id)

    async def _scrub(self) -> None:
        begin = True
        while await self._writer.call(_guarded, search_file.scrub, self._connection, begin):
            begin = False

    def scrub(self) -> Deferred[None]:
        """See :class:`ISearchIndex`: in steps, between which others are served."""
        return Deferred.fromCoroutine(self._scrub())

    def search(self, query: SearchQuery, key: str) -> Deferred[SearchPage]:
        """See :class:`ISearchIndex`."""
        return self._readers.call(key, _guarded, search_file.search, self._path, query, SECONDS)

    def close(self) -> Deferred[None]:
        """See :class:`ISearchIndex`."""
        self._readers.close()
        if not self._closed:
            self._closed = True
            self._writer.call(self._connection.close)
        return self._writer.close()


def _guarded(function: Callable[..., Any], *arguments: Any) -> Any:
    """In a thread: errors of SQLite are the store's."""
    try:
        return function(*arguments)
    except sqlite3.Error as error:
        raise Unavailable(f"the search in recordings failed: {error}") from None
