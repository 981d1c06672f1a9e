"""How are recordings found among very many?

By time (``/recordings/index/<milliseconds>-<id>``), of a user by time
(``/recordings/of/<user>/<milliseconds>-<id>``) or by the beginning of an id
(``/recordings/rows/<id>``), whichever fits the request; its other filters are compared with each
row.

Invariants:

* A page costs what its rows cost, however many recordings there are: rows are read from where the
  page begins, in steps, so that other calls run in between.
* A page ends after :data:`SCAN_LIMIT` keys, whatever was found.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import datetime
from fnmatch import fnmatchcase
from typing import Final

from attrs import frozen

from tele.auth.repository import Repository
from tele.errors import InvalidInput, quoted
from tele.interfaces import IBackend, Item
from tele.model.api.recordings import ListRecordings, RecordingList
from tele.model.names import NAME_PATTERN
from tele.model.session import Recording, Session
from tele.store.batches import get_many

INDEX: Final = "/recordings/index/"
OF_USER: Final = "/recordings/of/"
#: Keys that are read with one call.
STEP: Final = 200
#: Keys that are read for one page.
SCAN_LIMIT: Final = 5000

_NAME = re.compile(NAME_PATTERN, re.ASCII)
#: Names that JSON does not escape.
_PLAIN_NODE = re.compile(r"[A-Za-z0-9._*?-]+", re.ASCII)
_BEGINNING = re.compile(r"[0-9a-f-]{1,36}", re.ASCII)


def received_at(of: Recording | Session) -> datetime:
    """Return when auth received the start; rows of older versions have the node's time only."""
    return of.received or of.started


def stamp_of(moment: datetime) -> str:
    """Return a time as it stands in keys, whose order is that of the times."""
    return f"{max(0, int(moment.timestamp() * 1000)):015d}"


@frozen
class _Place:
    """Where a page begins: keys of ``prefix`` from ``start`` to ``end``."""

    prefix: str
    start: str
    end: str
    reverse: bool

    def after(self, key: str) -> _Place:
        """Return the place after ``key``."""
        if self.reverse:
            return _Place(self.prefix, self.start, key, True)
        return _Place(self.prefix, key + "\0", self.end, False)


def _place(rows: Repository[Recording], request: ListRecordings) -> _Place:
    if request.user and not _NAME.fullmatch(request.user):
        raise InvalidInput(f"user: {quoted(request.user)} is not a user name")
    if request.id and not _BEGINNING.fullmatch(request.id):
        raise InvalidInput(f"id: {quoted(request.id)} is not the beginning of a recording's id")
    if request.id and not request.user:
        prefix = rows.prefix
        place = _Place(prefix, prefix + request.id, f"{prefix}{request.id}~", False)
    else:
        prefix = f"{OF_USER}{request.user}/" if request.user else INDEX
        start = prefix if request.since is None else prefix + stamp_of(request.since)
        end = prefix[:-1] + "0" if request.until is None else prefix + stamp_of(request.until)
        place = _Place(prefix, start, end, True)
    if request.after:
        edge = place.after(prefix + request.after)
        place = _Place(prefix, max(place.start, edge.start), min(place.end, edge.end), edge.reverse)
    return place


def every(_: Recording) -> bool:
    """Every recording is shown."""
    return True


async def search(
    backend: IBackend,
    rows: Repository[Recording],
    request: ListRecordings,
    shown: Callable[[Recording], bool] = every,
) -> RecordingList:
    """Return a page of recordings that are ``shown``.

    Raises :class:`InvalidInput` for a filter that no recording can match.
    """
    place = _place(rows, request)
    # Where few keys match, steps are longer than the page.
    sparse = request.node or (request.id and place.reverse)
    step = STEP if sparse else min(STEP, request.limit)
    found: list[Recording] = []
    looked = 0
    while True:
        items = await backend.range(place.start, place.end, step, place.reverse)
        read = await _rows(backend, rows, items, place, request)
        for item, row in zip(items, read, strict=True):
            looked += 1
            if row is not None and matches(row, request) and shown(row):
                found.append(row)
            if len(found) == request.limit or looked == SCAN_LIMIT:
                more = item is not items[-1] or len(items) == step
                mark = item.key.removeprefix(place.prefix)
                return RecordingList(tuple(found), mark if more else "")
        if len(items) < step:
            return RecordingList(tuple(found))
        place = place.after(items[-1].key)


async def _rows(
    backend: IBackend,
    rows: Repository[Recording],
    items: Sequence[Item],
    place: _Place,
    request: ListRecordings,
) -> list[Recording | None]:
    """Return the row of each item, or None if it cannot match."""
    if not place.reverse:
        return [rows.read(item).value for item in items]
    ids = [item.key.removeprefix(place.prefix).partition("-")[2] for item in items]
    wanted = [each for each in ids if each.startswith(request.id)]
    may_be = _in_json_of(request.node)
    stored = await get_many(backend, [rows.prefix + each for each in wanted])
    by_id = {
        entry.name: entry.value
        for item in stored
        if item is not None and (may_be is None or may_be(item.value))
        for entry in (rows.read(item),)
    }
    return [by_id.get(each) for each in ids]


def _in_json_of(wanted: str) -> Callable[[bytes], bool] | None:
    """Return whether the JSON of a row can be of such a node: most rows need not be decoded then.

    Texts are looked for, and no pattern: one of many stars takes a regular expression for ever.
    """
    if not _PLAIN_NODE.fullmatch(wanted):
        return None
    first, *others = (each.encode("ascii") for each in re.split("[*?]", wanted.lower()))
    names = (b'"node":"' + first + b'"', b'"node_id":"' + first + b'"')
    parts = (b'"node":"' + first, *filter(None, others))

    def may_be(value: bytes) -> bool:
        lowered = value.lower()
        if not others:
            return any(name in lowered for name in names)
        return all(part in lowered for part in parts)

    return may_be


def _is_node(row: Recording, wanted: str) -> bool:
    """Whether ``wanted`` is the name or the id of the row's node, or a pattern of its name."""
    return wanted in (row.node, row.node_id) or (
        ("*" in wanted or "?" in wanted) and fnmatchcase(row.node.lower(), wanted.lower())
    )


def matches(row: Recording, request: ListRecordings) -> bool:
    """Whether a row is among those that are asked for, but for its id and its commands."""
    moment = received_at(row)
    return (
        (not request.user or row.user == request.user)
        and (not request.node or _is_node(row, request.node))
        and (request.since is None or moment >= request.since)
        and (request.until is None or moment < request.until)
    )
