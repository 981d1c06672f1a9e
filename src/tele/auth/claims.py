"""What does auth take from a host that reports events, and what does it fill in itself?

A host is believed about what happens on it, and about nothing else. Invariants:

* Who reported, under which name, in which cluster and when it arrived is auth's own knowledge;
  what the host says of the time stays beside it, as its claim.
* A host reports kinds that a host can know of. What auth does itself nobody else reports.
* Everything has a bound before it is stored: a stranger's texts, which a host only passes on,
  are cut; what only a host that lies would send is refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from attrs import evolve

from tele.errors import quoted
from tele.model.event import CODES, Event
from tele.model.identity import HostIdentity, HostRole
from tele.model.resources import NAME_PATTERN

#: What nodes may report.
NODE_EVENTS: Final = frozenset(
    ("session.start", "session.end", "session.command", "session.disk", "session.network",
     "exec", "subsystem", "sftp", "forward", "forward.end", "agent", "agent.end", "auth.denied",
     "auth.refused", "clock.step", "clock.skew")
)  # fmt: skip
#: What proxies may report: nobody has a session there, or runs anything.
PROXY_EVENTS: Final = frozenset(
    ("auth.denied", "auth.refused", "session.end", "node.duplicate", "clock.step", "clock.skew")
)
#: Those about people whom nobody let in: they may call themselves anything.
UNAUTHENTICATED_EVENTS: Final = frozenset(("auth.denied", "auth.refused", "node.duplicate"))
#: Those about the machine: nobody caused them.
MACHINE_EVENTS: Final = frozenset(("clock.step", "clock.skew"))

#: Longest user, login and address; longest ``error``. What is longer is cut.
NAME_LIMIT: Final = 256
ERROR_LIMIT: Final = 40_000
ROLES_LIMIT: Final = 128
#: Keys of one event's own, elements of one list or mapping in them, and how deep they go.
FIELDS_LIMIT: Final = 64
ELEMENTS_LIMIT: Final = 1000
DEPTH_LIMIT: Final = 4

_NAME = re.compile(NAME_PATTERN, re.ASCII)
#: Those of tele's hosts are UUIDs. Scripts make words of them.
_EVENT_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,63}", re.ASCII)
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII)
_WORD = re.compile(r"[!-~]{0,128}", re.ASCII)
_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,63}", re.ASCII)


def problem(value: Event, host: HostIdentity, cluster: str) -> str:
    """Return why ``host`` cannot have seen this, or that it is out of bounds; or nothing."""
    known = PROXY_EVENTS if host.role is HostRole.PROXY else NODE_EVENTS
    if value.event not in known or value.code != CODES[value.event]:
        return f"{quoted(value.event)} is nothing that a {host.role.value} reports"
    if value.server_id != host.host_id or value.cluster != cluster:
        return "a host reports events of its own only"
    if not _EVENT_ID.fullmatch(value.id):
        return "its id is no id of an event"
    if value.hash or value.previous:
        return "auth chains the events, not the host"
    if value.claimed is not None:
        return "auth says which time is claimed, not the host"
    if value.session_id and not (_UUID.fullmatch(value.session_id) and host.role is HostRole.NODE):
        return "session_id is not the id of a session of this host"
    nobody = value.event in UNAUTHENTICATED_EVENTS or (
        value.event in MACHINE_EVENTS and not value.user
    )
    if not nobody and not _NAME.fullmatch(value.user):
        return f"{quoted(value.user)} is no name of a user"
    if len(value.roles) > ROLES_LIMIT or not all(map(_NAME.fullmatch, value.roles)):
        return "its roles are no names of roles"
    if not _WORD.fullmatch(value.login_session):
        return "login_session is not the id of a log-in"
    return _problem_with_fields(value.fields)


def _problem_with_fields(fields: Mapping[str, Any]) -> str:
    if len(fields) > FIELDS_LIMIT:
        return f"it has {len(fields)} keys of its own, {FIELDS_LIMIT} are allowed"
    for key, value in fields.items():
        if not _KEY.fullmatch(key):
            return f"{quoted(key)} is no key of an event"
        if not _is_bounded(value, DEPTH_LIMIT):
            return f"{key} is too deep or too long"
    return ""


def _is_bounded(value: Any, depth: int) -> bool:
    if isinstance(value, Mapping):
        value = list(value.values())
    if not isinstance(value, list | tuple):
        return True
    if depth <= 1 or len(value) > ELEMENTS_LIMIT:
        return False
    return all(_is_bounded(each, depth - 1) for each in value)


def taken(value: Event, name: str, moment: datetime) -> Event:
    """Return what is kept of an event without a :func:`problem`, which arrived at ``moment``.

    ``name`` is what the host is called, as its membership says.
    """
    return evolve(
        value,
        time=moment,
        claimed=value.time,
        server_name=name,
        user=_cut(value.user, NAME_LIMIT),
        login=_cut(value.login, NAME_LIMIT),
        remote_addr=_cut(value.remote_addr, NAME_LIMIT),
        error=_cut(value.error, ERROR_LIMIT),
    )


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[:limit]}... ({len(text)} characters)"
