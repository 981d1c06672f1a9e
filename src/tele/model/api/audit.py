"""Requests and responses about audit events."""

from __future__ import annotations

from datetime import datetime
from typing import Final

from attrs import field, frozen

from tele.model.bounds import AtMost, Between
from tele.model.event import Event

#: Events in one request of a host.
EVENTS_LIMIT: Final = 1000


@frozen
class EmitEvents:
    """Events of the calling host; auth appends each id of a host once.

    It sets ``hash`` and ``previous``, ``server_name`` by the membership, and ``time`` to the time
    of arrival; the host's time becomes ``claimed``.
    """

    events: tuple[Event, ...] = field(validator=AtMost(EVENTS_LIMIT))


#: The largest ``limit`` of events.
EVENTS_PAGE: Final = 10_000


@frozen
class ListEvents:
    """Events in order of appending, optionally filtered. Times are auth's, not those claimed.

    ``newest``: the last ``limit`` of them instead of the first. A page may have fewer events, or
    none, and still have a ``next``.
    """

    event: str = ""
    user: str = ""
    session_id: str = ""
    since: datetime | None = None
    until: datetime | None = None
    newest: bool = False
    limit: int = field(default=200, validator=Between(1, EVENTS_PAGE))
    after: str = ""


@frozen
class EventList:
    """``next`` continues the list."""

    items: tuple[Event, ...]
    next: str = ""


@frozen
class FollowEvents:
    """New events as they are appended."""

    event: str = ""
    user: str = ""


@frozen
class AuditHead:
    """Number (from 1) and hash of the last event; 0 and nothing when there is none."""

    number: int
    hash: str
