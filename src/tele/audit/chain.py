"""How are events chained by hash, and where is a chain broken?

``hash`` of an event is the SHA-256, in hex, of the canonical JSON (sorted keys, no spaces,
UTF-8) of the event with an empty ``hash``; ``previous`` is the hash of the event before,
and empty for the first.

A chain alone shows that nothing between its ends was changed. An attacker who can write to the
store can replace all of it, or cut off its end: against that a :class:`Mark` is kept elsewhere.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from datetime import datetime
from typing import Any, Final

from attrs import define, evolve, field, frozen

from tele.errors import InvalidInput, quoted
from tele.model.codec import encode, encode_plain, to_json
from tele.model.event import CODES, Event

_MARK: Final = re.compile(r"(?:(\d{1,15}):)?([0-9a-f]{64})", re.ASCII)


def event(name: str, event_id: str, time: datetime, cluster: str, /, **fields: Any) -> Event:
    """Make an event of a known name; arguments that are no attributes of an event become fields.

    Raises KeyError for a name that is not in :data:`tele.model.event.CODES`.
    """
    own = {k: fields.pop(k) for k in list(fields) if k in _ATTRIBUTES}
    return Event(event_id, time, name, CODES[name], cluster, fields=fields, **own)


_ATTRIBUTES = frozenset(
    ("user", "login", "roles", "session_id", "login_session", "server_id", "server_name",
     "remote_addr", "ok", "error")
)  # fmt: skip


def digest(value: Event) -> str:
    """Return the hash that ``value`` has to have."""
    return hashlib.sha256(encode(evolve(value, hash=""))).hexdigest()


def link(value: Event, previous: str) -> Event:
    """Return ``value`` as the event after the one whose hash is ``previous``."""
    return link_encoded(value, previous)[0]


def link_encoded(value: Event, previous: str) -> tuple[Event, bytes]:
    """Return the event that :func:`link` returns, and its canonical JSON."""
    plain = to_json(value)
    plain.update(previous=previous, hash="")
    plain["hash"] = hashlib.sha256(encode_plain(plain)).hexdigest()
    return evolve(value, previous=previous, hash=plain["hash"]), encode_plain(plain)


@frozen
class Mark:
    """The hash of an event of the audit, and its number from 1 (0: not known).

    ``origin`` says how it is known, for a person: ``auth signed at ...``.
    """

    number: int
    hash: str
    origin: str = field(default="", eq=False)

    def __str__(self) -> str:
        return f"{self.number}:{self.hash}" if self.number else self.hash


def read_mark(text: str) -> Mark:
    """Read ``NUMBER:HASH`` or ``HASH``. Raises :class:`InvalidInput`."""
    match = _MARK.fullmatch(text.strip().lower())
    if match is None:
        raise InvalidInput(
            f"{quoted(text)} is not a mark of the audit: expected NUMBER:HASH or HASH, the hash in"
            " 64 hex digits"
        )
    return Mark(int(match[1] or 0), match[2])


@frozen
class Verification:
    """``problem`` is empty if the chain is intact; ``events`` counts its valid events.

    ``head`` is the hash of the last valid event, ``event`` the id of the first invalid one, if the
    problem is with an event that exists.
    """

    events: int
    head: str
    problem: str = ""
    event: str = ""


@define
class Chain:
    """Checks events one after the other.

    ``number`` and ``head`` are those of the last valid event; with ``after`` the chain continues
    after that one. Each of ``marks`` has to be found; ``confirmed`` is the number of the last one
    that was. The first problem is kept.
    """

    after: Mark | None = None
    marks: Iterable[Mark] = ()
    problem: str = field(default="", init=False)
    event: str = field(default="", init=False)
    number: int = field(init=False)
    head: str = field(init=False)
    confirmed: int = field(default=0, init=False)
    #: Marks that were not found yet, by number.
    _open: dict[int, set[Mark]] = field(init=False)

    def __attrs_post_init__(self) -> None:
        start = self.after or Mark(0, "")
        self.number, self.head = start.number, start.hash
        self._open = {}
        for mark in self.marks:
            self._open.setdefault(mark.number, set()).add(mark)
        self._meet(start.number, start.hash)

    def _meet(self, number: int, value: str) -> None:
        for known in (number, 0):
            marks = self._open.get(known, set())
            if (found := Mark(known, value)) in marks:
                marks.discard(found)
                self.confirmed = max(self.confirmed, number)

    def begin(self, value: Event) -> bool:
        """Take the event of ``after``; returns whether it is that event."""
        if value.hash != self.head or digest(value) != value.hash:
            return self.not_begun(f"event {self.number} is not the event {self.head}", value)
        return True

    def not_begun(self, problem: str, value: Event | None = None) -> bool:
        """Note that the event of ``after`` was not found: no event is valid; returns False."""
        self.number, self.head = 0, ""
        return self.fail(problem, "" if value is None else value.id)

    def take(self, value: Event) -> bool:
        """Take the next event; returns whether the chain is intact so far."""
        if self.problem:
            return False
        number = self.number + 1
        if digest(value) != value.hash:
            return self.fail(f"event {number} was changed", value.id)
        if value.previous != self.head:
            return self.fail(
                f"event {number} does not follow the one before: something was removed,"
                " inserted or moved here",
                value.id,
            )
        self._meet(number, value.hash)
        for mark in self._open.get(number, ()):
            return self.fail(self._other(number, mark), value.id)
        self.number, self.head = number, value.hash
        return True

    def _other(self, number: int, mark: Mark) -> str:
        origin = f" that {mark.origin}" if mark.origin else ""
        first = self.confirmed + 1
        since = f"event {first}" if first == number else f"one of the events {first} to {number}"
        return (
            f"event {number} is not the event {mark.hash}{origin}: {since} is the first that was"
            " changed"
        )

    def fail(self, problem: str, event: str = "") -> bool:
        """Note the first problem; returns False."""
        if not self.problem:
            self.problem, self.event = problem, event
        return False

    def has_more(self, last: Mark, now_last: Mark) -> None:
        """Note that there are events after ``last``, the former head; ``now_last`` is the head."""
        if now_last.number <= last.number:
            self.fail(f"there are events after the head, number {last.number}: it was moved back")

    def end(self, last: Mark | None = None) -> Verification:
        """Return the result after the last event, which has to be ``last``, if given."""
        if last is not None and last.number > self.number:
            self.fail(f"events {self.number + 1} to {last.number} are missing")
        elif last is not None and (last.number, last.hash) != (self.number, self.head):
            self.fail("the head is not the hash of the last event")
        for mark in [mark for number in sorted(self._open) for mark in self._open[number]]:
            origin = f", that {mark.origin}," if mark.origin else ""
            self.fail(
                f"the event {mark}{origin} is missing: the end was cut off, or all was replaced"
            )
        return Verification(self.number, self.head, self.problem, self.event)
