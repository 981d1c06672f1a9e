"""How are events searched, and is the chain intact?

Events are stored in order of appending, as canonical JSON. A search compares bytes that a matching
event must contain, and decodes the events that have them.

Invariant: a page ends after :data:`SCAN_LIMIT` events, whatever was found: no call makes auth read
a year of events.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Final

from tele.audit.chain import Chain, Mark, Verification
from tele.errors import InvalidInput, TeleError
from tele.interfaces import IBackend, Item
from tele.log import make_logger
from tele.model.api.audit import EventList, ListEvents
from tele.model.codec import decode, encode, format_time
from tele.model.event import Event

log = make_logger(__name__)

EVENTS: Final = "/audit/events/"
EVENTS_END: Final = "/audit/events0"
HEAD: Final = "/audit/head"
#: Bytes of events in one page, but for the last one.
PAGE_BYTES: Final = 4 * 1024 * 1024
SCAN: Final = 500
#: Events that are read for one page.
SCAN_LIMIT: Final = 20_000

#: A time in canonical JSON; fields of an event may have more of them.
_TIME = re.compile(rb'"time":"([^"]{24})"')
_CURSOR = re.compile(r"[0-9]{1,16}", re.ASCII)


def event_key(number: int) -> str:
    """Return the key of event ``number`` (from 1); the order of keys is that of numbers."""
    return f"{EVENTS}{number:016d}"


async def search(backend: IBackend, request: ListEvents) -> EventList:
    """Return a page of events, oldest first; ``newest`` pages from the end backwards.

    A page may have fewer than ``limit`` events, or none, and still have a ``next``. Raises
    :class:`InvalidInput` for a malformed cursor.
    """
    start, end = EVENTS, EVENTS_END
    if request.after:
        if _CURSOR.fullmatch(request.after) is None:
            raise InvalidInput("after has to be the next of the page before")
        edge = event_key(int(request.after))
        start, end = (start, edge) if request.newest else (edge + "\0", end)
    needles = list(_needles(request))
    found: list[Event] = []
    scanned, size, last, more, full = 0, 0, "", True, False
    while more and not full and scanned < SCAN_LIMIT:
        items = await backend.range(start, end, SCAN, request.newest)
        more = len(items) == SCAN
        for place, item in enumerate(items, 1):
            last = item.key
            event = _wanted(item, needles, request)
            if event is not None:
                found.append(event)
                size += len(item.value)
                full = len(found) == request.limit or size >= PAGE_BYTES
            if full:
                more = more or place < len(items)
                break
        scanned += len(items)
        start, end = (start, last) if request.newest else (last + "\0", end)
    cursor = str(int(last.removeprefix(EVENTS))) if more and last else ""
    if request.newest:
        found.reverse()
    return EventList(tuple(found), cursor)


def _needles(request: ListEvents) -> Iterator[bytes]:
    wanted = {"event": request.event, "user": request.user, "session_id": request.session_id}
    for name, value in wanted.items():
        if value:
            yield f'"{name}":{json.dumps(value, ensure_ascii=False)}'.encode()


def _wanted(item: Item, needles: Sequence[bytes], request: ListEvents) -> Event | None:
    if not all(needle in item.value for needle in needles) or _is_outside(item.value, request):
        return None
    event = _read(item)
    return event if event is not None and _matches(event, request) else None


def _is_outside(value: bytes, request: ListEvents) -> bool:
    """Whether none of the times in an event, its own among them, can match."""
    if request.since is None and request.until is None:
        return False
    times = _TIME.findall(value)
    if not times:
        return False
    if request.since is not None and max(times) < format_time(request.since).encode("ascii"):
        return True
    # Times are written in milliseconds: an event in the last one is decoded.
    return request.until is not None and min(times) > format_time(request.until).encode("ascii")


def _read(item: Item) -> Event | None:
    try:
        return decode(Event, item.value)
    except TeleError:
        log.error("cannot read an audit event", key=item.key)
        return None


def _matches(event: Event, request: ListEvents) -> bool:
    return (
        (not request.event or event.event == request.event)
        and (not request.user or event.user == request.user)
        and (not request.session_id or event.session_id == request.session_id)
        and (request.since is None or event.time >= request.since)
        and (request.until is None or event.time < request.until)
    )


async def head(backend: IBackend) -> Mark:
    """Return the number and hash of the last event; of an empty audit 0 and nothing."""
    item = await backend.get(HEAD)
    number, last = (0, "") if item is None else json.loads(item.value)
    return Mark(number, last)


async def verify(backend: IBackend, marks: Sequence[Mark] = ()) -> Verification:
    """Check the stored chain from the first event to the head.

    Finds events that were changed, removed, inserted or cut off, unless everything after them was
    rewritten, too; ``marks`` that were kept elsewhere show that.
    """
    try:
        last = await head(backend)
    except (ValueError, TypeError):
        return Verification(0, "", "the head cannot be read")
    chain, start = Chain(marks=marks), EVENTS
    while items := await backend.range(start, EVENTS_END, SCAN):
        for item in items:
            if chain.number == last.number:  # appended since the head was read
                break
            if not _take(chain, item):
                return chain.end()
        else:
            start = items[-1].key + "\0"
            continue
        break
    if not chain.problem and await backend.range(event_key(last.number) + "\0", EVENTS_END, 1):
        # An event and the head are committed together: the event is new, or the head was changed.
        chain.has_more(last, await head(backend))
    return chain.end(last)


def _take(chain: Chain, item: Item) -> bool:
    number = chain.number + 1
    if item.key != event_key(number):
        return chain.fail(f"event {number} is missing")
    event = _read(item)
    # The hash covers the canonical form: other bytes of the same meaning are a change, too.
    if event is None or encode(event) != item.value:
        return chain.fail(f"event {number} was changed", "" if event is None else event.id)
    return chain.take(event)
