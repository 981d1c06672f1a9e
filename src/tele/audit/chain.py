"""How does one event vouch for the one before?

``hash`` of an event is the SHA-256, in hex, of the canonical JSON (sorted keys, no spaces,
UTF-8) of the event with an empty ``hash``; ``previous`` is the hash of the event before,
and empty for the first.
"""

from __future__ import annotations

import hashlib
from datetime import datetime
from typing import Any

from attrs import evolve

from tele.model.codec import encode
from tele.model.event import CODES, Event


def event(name: str, event_id: str, time: datetime, cluster: str, /, **fields: Any) -> Event:
    """Make an event of a known name; what is no attribute of an event becomes a field of it.

    Raises KeyError for a name that is not in :data:`tele.model.event.CODES`.
    """
    own = {k: fields.pop(k) for k in list(fields) if k in _ATTRIBUTES}
    return Event(event_id, time, name, CODES[name], cluster, fields=fields, **own)


_ATTRIBUTES = frozenset(
    ("user", "login", "roles", "session_id", "login_session", "server_id", "server_name",
     "remote_addr", "ok", "error")
)  # fmt: skip


def digest(value: Event) -> str:
    """Return the hash that ``value`` ought to have."""
    return hashlib.sha256(encode(evolve(value, hash=""))).hexdigest()


def link(value: Event, previous: str) -> Event:
    """Return ``value`` as the next one after the event whose hash is ``previous``."""
    linked = evolve(value, previous=previous, hash="")
    return evolve(linked, hash=digest(linked))
