"""What of a recording can be searched, and who finds it?

Invariants:

* The lines of a recording are stored before its index counts as made, and go with the recording.
* A user without a rule searches in their own recordings alone, since they were created; how long
  that takes depends on no other text.
* A hit is of a recording that exists: rows decide, not the search's own file.
* What is searched, and what it is searched in, has one space for any spaces between two words.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Final

from tele.auth.recording_search import matches, received_at
from tele.errors import InvalidInput, Unavailable
from tele.interfaces import (
    ISearchIndex,
    SearchedLine,
    SearchedRecording,
    SearchPage,
    SearchQuery,
)
from tele.model.api.recordings import ListRecordings
from tele.model.api.search import (
    SHORTEST,
    FoundIn,
    SearchHit,
    SearchRecordings,
    SearchResult,
)
from tele.model.session import Recording
from tele.recording.index_program import MadeIndex
from tele.tape.index import MarkKind
from tele.text import printable

#: Characters of a line that a hit has, around the text.
LINE: Final = 200
#: The mark of a page: a number, with the id of a recording before it if the search is isolated.
_MARK: Final = re.compile(r"(?:[0-9a-zA-Z-]{1,64}\.)?[0-9]{1,18}", re.ASCII)
_KINDS: Final = {
    MarkKind.EXEC: FoundIn.EXEC,
    MarkKind.PROMPT: FoundIn.PROMPT,
    MarkKind.TRANSFER: FoundIn.FILE,
    MarkKind.FORWARD: FoundIn.FORWARD,
    MarkKind.COMMAND: FoundIn.COMMAND,
    MarkKind.PATH: FoundIn.PATH,
    MarkKind.CONNECTION: FoundIn.CONNECTION,
}
#: Where commands are.
COMMANDS: Final = (FoundIn.EXEC, FoundIn.PROMPT, FoundIn.COMMAND)

Rows = Callable[[Sequence[str]], Awaitable[dict[str, Recording]]]


class RecordingTexts:
    """The search in recordings; ``rows(ids)`` returns those that exist. ``index`` None: none."""

    def __init__(self, index: ISearchIndex | None, rows: Rows) -> None:
        self._index = index
        self._rows = rows

    async def add(self, row: Recording, made: MadeIndex) -> None:
        """Store what can be searched of a recording."""
        if self._index is None:
            return
        marks = (
            SearchedLine(
                m.time // 1_000_000, m.channel, _KINDS[m.kind], printable(one_space(m.text))
            )
            for m in made.index.marks
        )
        output = (
            SearchedLine(each.at, each.channel, FoundIn.OUTPUT, one_space(each.text))
            for each in made.lines
        )
        lines = sorted((*marks, *output), key=lambda line: line.at)
        await self._index.add(SearchedRecording(row.id, row.user, received_at(row)), lines)

    async def remove(self, recording_id: str) -> None:
        """Remove a recording."""
        if self._index is not None:
            await self._index.remove(recording_id)

    async def scrub(self) -> None:
        """Leave nothing in its file of what was removed."""
        if self._index is not None:
            await self._index.scrub()

    async def close(self) -> None:
        """Release its file."""
        if self._index is not None:
            await self._index.close()

    async def search(
        self, request: SearchRecordings, own: str | None, since: datetime | None, key: str
    ) -> tuple[SearchResult, list[Recording]]:
        """Return a page, and the recordings of its hits.

        ``own`` is the user in whose recordings alone it searches, from ``since`` on; ``key`` is who
        searches. Raises :class:`InvalidInput` or :class:`Unavailable`.
        """
        query = _query(request, own, since)
        page = await self._ask(query, key)
        rows = await self._rows([each for each, _ in page.lines])
        hits = []
        for recording_id, line in page.lines:
            row = rows.get(recording_id)
            if row is None or (own is not None and row.user != own):
                continue
            hits.append(
                SearchHit(
                    row.id, row.user, row.login, row.node, row.started, line.at / 1000,
                    line.channel, line.kind, around(line.text, query.text),
                )
            )  # fmt: skip
        found = {hit.recording for hit in hits}
        shown = [row for each, row in rows.items() if each in found]
        return SearchResult(tuple(hits), page.next, page.cut), shown

    async def with_command(
        self, request: ListRecordings, own: str | None, begun: datetime | None, limit: int, key: str
    ) -> tuple[list[Recording], str]:
        """Return recordings with a command that has this text, and how the list continues.

        ``own``, ``begun`` and ``key`` are as in :meth:`search`.
        """
        wanted = SearchRecordings(
            request.command, limit, request.after, request.user, COMMANDS, request.since,
            request.until,
        )  # fmt: skip
        page = await self._ask(_query(wanted, own, begun, distinct=True), key)
        ids = [each for each, _ in page.lines]
        rows = await self._rows(ids)
        found = [rows[each] for each in ids if each in rows]
        return [
            row
            for row in found
            if row.id.startswith(request.id) and matches(row, request) and own in (None, row.user)
        ], page.next

    async def _ask(self, query: SearchQuery, key: str) -> SearchPage:
        if self._index is None:
            raise Unavailable("this auth has no search: it needs the store sqlite")
        page: SearchPage = await self._index.search(query, key)
        return page


def _query(
    request: SearchRecordings, own: str | None, since: datetime | None, *, distinct: bool = False
) -> SearchQuery:
    text = one_space(request.text)
    if len(text) < SHORTEST:
        raise InvalidInput(f"text: give at least {SHORTEST} characters")
    if "\0" in text:
        raise InvalidInput("text: no line has a NUL")
    if request.after and not _MARK.fullmatch(request.after):
        raise InvalidInput("after: not the mark of an earlier page")
    if own is not None and since is not None and request.since is not None:
        since = max(since, request.since)
    return SearchQuery(
        text, request.limit, request.after, request.user if own is None else own,
        own is not None, distinct, request.kinds, since or request.since, request.until,
    )  # fmt: skip


def one_space(text: str) -> str:
    """Return text with one space for each space in it: two of them hide no command."""
    return " ".join(text.split())


def around(line: str, text: str) -> str:
    """Return the part of a line that has ``text``."""
    if len(line) <= LINE:
        return line
    at = max(0, line.casefold().find(text.casefold()))
    begin = max(0, min(at - LINE // 4, len(line) - LINE))
    return ("…" if begin else "") + line[begin : begin + LINE].strip()
