"""Operations on audit events."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from functools import cached_property
from typing import Final

from attrs import field, frozen

from tele.model.api.operation import Hosts, Nothing, Operation, Permitted, Written
from tele.model.audit_head import SignedHead
from tele.model.bounds import AtMost, Between
from tele.model.codec import decode
from tele.model.event import Event
from tele.model.identity import HostRole

#: Events that a host may tell at once.
EVENTS_LIMIT: Final = 1000


@frozen
class EmitEvents:
    """Events of the calling host; auth appends each id of a host once.

    It sets ``hash`` and ``previous``, ``server_name`` as the membership says, and ``time`` to
    the time of arrival; what the host said of the time becomes ``claimed``.
    """

    events: tuple[Event, ...] = field(validator=AtMost(EVENTS_LIMIT))


class WrittenEvents(EmitEvents, Written):
    """Events that are JSON texts already, as they are spooled.

    They are read if auth is in this process. Then :class:`InvalidInput` is raised if one is not
    an event.
    """

    def __init__(self, lines: Sequence[bytes]) -> None:
        object.__setattr__(self, "_lines", tuple(lines))

    _lines: tuple[bytes, ...]

    @cached_property
    def events(self) -> tuple[Event, ...]:
        """Return the events."""
        return tuple(decode(Event, line) for line in self._lines)

    @property
    def body(self) -> bytes:
        """See :class:`Written`."""
        return b'{"events":[%b]}' % b",".join(self._lines)


#: The largest ``limit`` of events.
EVENTS_PAGE: Final = 10_000


@frozen
class ListEvents:
    """Events in order of appending, optionally filtered. Times are auth's, not those claimed.

    ``newest``: the last ``limit`` of them instead of the first. A page may have fewer, or none,
    and still say how to go on.
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


@frozen
class ListHeads:
    """Signed heads in the archive, oldest first; ``after`` is the ``next`` of the page before."""

    after: str = ""


@frozen
class HeadList:
    """``next`` continues the list. A page may be empty and still have a ``next``."""

    items: tuple[SignedHead, ...]
    next: str = ""


_REPORTERS = (Hosts((HostRole.NODE, HostRole.PROXY)),)
EMIT_EVENTS = Operation(
    "emit_events",
    "POST",
    "/v1/events",
    EmitEvents,
    Nothing,
    _REPORTERS,
    "Append events to the audit",
    limit=1024 * 1024,
    cost=20,
)

LIST_EVENTS = Operation(
    "list_events",
    "GET",
    "/v1/events",
    ListEvents,
    EventList,
    (Permitted("event", "list"),),
    "Audit events",
    cost=50,
)

AUDIT_HEAD = Operation(
    "audit_head",
    "GET",
    "/v1/events/head",
    Nothing,
    AuditHead,
    (Permitted("event", "list"),),
    "Number and hash of the last audit event",
)

LIST_AUDIT_HEADS = Operation(
    "list_audit_heads",
    "GET",
    "/v1/events/heads",
    ListHeads,
    HeadList,
    (Permitted("event", "list"),),
    "Signed heads of the audit in the archive",
    cost=50,
)

FOLLOW_EVENTS = Operation(
    "follow_events",
    "GET",
    "/v1/events/follow",
    FollowEvents,
    Event,
    (Permitted("event", "list"),),
    "Audit events as they happen",
    streams=True,
    cost=10,
)
