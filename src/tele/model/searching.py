"""What is searched in recordings, and what is found?"""

from __future__ import annotations

from datetime import datetime

from attrs import frozen

from tele.model.api.search import FoundIn


@frozen
class SearchedRecording:
    """Whose recording it is, and when auth received it: what a search is limited by."""

    id: str
    user: str
    received: datetime


@frozen
class SearchedLine:
    """A line of a recording: milliseconds into the session, channel, where it was, text."""

    at: int
    channel: int
    kind: FoundIn
    text: str


@frozen
class SearchQuery:
    """What is searched, in how many lines, after the mark of an earlier page.

    ``user`` empty is of all users. ``isolated``: the answer, its mark (an id, a dot and a number
    instead of a number), and the time that it takes, depend on the text of that user alone.
    ``distinct``: at most one line of each recording.
    """

    text: str
    limit: int
    after: str = ""
    user: str = ""
    isolated: bool = False
    distinct: bool = False
    kinds: tuple[FoundIn, ...] = ()
    since: datetime | None = None
    until: datetime | None = None


@frozen
class SearchPage:
    """Lines that were found, each with its recording's id; ``cut`` if it took too long."""

    lines: tuple[tuple[str, SearchedLine], ...]
    next: str = ""
    cut: bool = False
