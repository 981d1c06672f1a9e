"""How are events found again, and is the chain whole?

Events lie in the store in order of appending, as canonical JSON. So a search first
looks for the bytes that a wanted event must contain, and reads as values only those
that have them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Final

from attrs import frozen

from tele.audit.chain import digest
from tele.errors import InvalidInput, TeleError
from tele.interfaces import IBackend, Item
from tele.loop import make_logger
from tele.model.api.records import EventList, ListEvents
from tele.model.codec import decode
from tele.model.event import Event

log = make_logger(__name__)

EVENTS: Final = "/audit/events/"
EVENTS_END: Final = "/audit/events0"
HEAD: Final = "/audit/head"
PAGE_LIMIT: Final = 10_000
SCAN: Final = 500

_CURSOR = re.compile(r"[0-9]{1,16}", re.ASCII)


def event_key(number: int) -> str:
    """Return where event ``number`` (from 1) lies; keys are ordered as numbers are."""
    return f"{EVENTS}{number:016d}"


@frozen
class Verdict:
    """``problem`` is empty when the chain is whole; ``events`` counts those that are good."""

    events: int
    head: str
    problem: str = ""


async def search(backend: IBackend, request: ListEvents) -> EventList:
    """Return a page of events, oldest first; ``newest`` pages from the end backwards.

    Raises :class:`InvalidInput` for a limit or cursor that makes no sense.
    """
    if not 0 < request.limit <= PAGE_LIMIT:
        raise InvalidInput(f"limit has to be from 1 to {PAGE_LIMIT}")
    start, end = EVENTS, EVENTS_END
    if request.after:
        if _CURSOR.fullmatch(request.after) is None:
            raise InvalidInput("after has to be what the page before gave as next")
        edge = event_key(int(request.after))
        start, end = (start, edge) if request.newest else (edge + "\0", end)
    needles = list(_needles(request))
    found: list[tuple[str, Event]] = []
    more = True
    while more and len(found) < request.limit:
        items = await backend.range(start, end, SCAN, request.newest)
        more = len(items) == SCAN
        wanted = list(_wanted(items, needles, request))
        room = request.limit - len(found)
        more = more or len(wanted) > room
        found += wanted[:room]
        if items:
            last = items[-1].key
            start, end = (start, last) if request.newest else (last + "\0", end)
    cursor = str(int(found[-1][0].removeprefix(EVENTS))) if more and found else ""
    if request.newest:
        found.reverse()
    return EventList(tuple(event for _, event in found), cursor)


def _needles(request: ListEvents) -> Iterator[bytes]:
    for name in ("event", "user", "session_id"):
        if value := getattr(request, name):
            yield f'"{name}":{json.dumps(value, ensure_ascii=False)}'.encode()


def _wanted(
    items: Sequence[Item], needles: Sequence[bytes], request: ListEvents
) -> Iterator[tuple[str, Event]]:
    for item in items:
        if not all(needle in item.value for needle in needles):
            continue
        event = _read(item)
        if event is not None and _matches(event, request):
            yield item.key, event


def _read(item: Item) -> Event | None:
    try:
        return decode(Event, item.value)
    except TeleError:
        log.error("the audit event {key} cannot be read", key=item.key)
        return None


def _matches(event: Event, request: ListEvents) -> bool:
    return (
        (not request.event or event.event == request.event)
        and (not request.user or event.user == request.user)
        and (not request.session_id or event.session_id == request.session_id)
        and (request.since is None or event.time >= request.since)
        and (request.until is None or event.time < request.until)
    )


async def verify(backend: IBackend) -> Verdict:
    """Check every link of the chain, from the first event to the head.

    Shows events that were changed, removed, inserted or cut off at the end by somebody
    who did not also rewrite everything after them; against one who did, compare
    ``head`` with what a sink outside has.
    """
    head = await backend.get(HEAD)
    last, expected = (0, "") if head is None else json.loads(head.value)
    number, previous, start = 0, "", EVENTS
    while items := await backend.range(start, EVENTS_END, SCAN):
        for item in items:
            if number == last:  # appended since we looked at the head
                break
            event = _read(item)
            if item.key != event_key(number + 1):
                return Verdict(number, previous, f"event {number + 1} is missing")
            if event is None or digest(event) != event.hash:
                return Verdict(number, previous, f"event {number + 1} was changed")
            if event.previous != previous:
                return Verdict(
                    number, previous, f"event {number + 1} does not follow the one before"
                )
            number, previous = number + 1, event.hash
        start = items[-1].key + "\0"
    if number != last:
        return Verdict(number, previous, f"events {number + 1} to {last} are missing")
    if previous != expected:
        return Verdict(number, previous, "the head is not the last event's hash")
    return Verdict(number, previous)
