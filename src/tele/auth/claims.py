"""Which events does auth accept from a host, and what does it fill in itself?

Invariants:

* A host reports events of its own only, and only kinds that it can know of. Auth's own actions are
  reported by auth alone.
* Reporting host, its name, the cluster and the time of arrival are filled in by auth; the host's
  time is stored beside it, as its claim.
* Everything is bounded before it is stored: texts of unauthenticated clients, which a host passes
  on, are cut; what an honest host never sends is refused.
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
from tele.model.names import NAME_PATTERN

#: What nodes may report.
NODE_EVENTS: Final = frozenset(
    ("session.start", "session.end", "session.command", "session.disk", "session.network",
     "session.syscalls", "session.handover", "session.join", "session.leave",
     "exec", "exec.end", "subsystem", "subsystem.end", "sftp", "scp",
     "rsync", "recording.gap",
     "forward", "forward.end", "agent", "agent.end",
     "host_user.create", "host_user.remove", "host_user.update",
     "auth.denied", "auth.refused", "clock.step", "clock.skew")
)  # fmt: skip
#: Events about users who join a session of ``of_user``.
JOIN_EVENTS: Final = frozenset(("session.join", "session.leave"))
#: What proxies may report of sessions that they end, which auth has registered for them.
PROXIED_EVENTS: Final = NODE_EVENTS - {
    # The kernel of the host knows them.
    "session.command", "session.disk", "session.network", "session.syscalls", "session.handover",
    "session.join", "session.leave",  # where proxies record, no session is joined
    "host_user.create", "host_user.remove", "host_user.update",  # proxies have no accounts
    "auth.denied", "auth.refused", "clock.step", "clock.skew",
}  # fmt: skip
#: What proxies may report without a session; an end is that of a connection to the jump host.
PROXY_EVENTS: Final = frozenset(
    ("auth.denied", "auth.refused", "session.end", "node.duplicate", "clock.step", "clock.skew")
)
#: Events about unauthenticated clients, whose user names are arbitrary.
UNAUTHENTICATED_EVENTS: Final = frozenset(("auth.denied", "auth.refused", "node.duplicate"))
#: Events about the machine, which may have no user.
MACHINE_EVENTS: Final = frozenset(("clock.step", "clock.skew", "host_user.remove"))

#: Longest user, login and address, longest ``error``; longer ones are cut.
NAME_LIMIT: Final = 256
ERROR_LIMIT: Final = 40_000
ROLES_LIMIT: Final = 128
#: Fields of one event, elements of one list or mapping in them, and levels of nesting.
FIELDS_LIMIT: Final = 64
ELEMENTS_LIMIT: Final = 1000
DEPTH_LIMIT: Final = 4

_NAME = re.compile(NAME_PATTERN, re.ASCII)
#: The ids of tele's hosts are UUIDs.
_EVENT_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,63}", re.ASCII)
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII)
_WORD = re.compile(r"[!-~]{0,128}", re.ASCII)
_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,63}", re.ASCII)


def session_user(value: Event) -> str:
    """Return the user whose session an event says that it is about."""
    return str(value.fields.get("of_user", "")) if value.event in JOIN_EVENTS else value.user


def problem(value: Event, host: HostIdentity, cluster: str) -> str:
    """Return why an event is not accepted from ``host``, or nothing."""
    known = NODE_EVENTS
    if host.role is HostRole.PROXY:
        known = PROXIED_EVENTS if value.session_id else PROXY_EVENTS
    if value.event not in known or value.code != CODES[value.event]:
        return f"{quoted(value.event)} is not reported by a {host.role.value}"
    if value.server_id != host.host_id or value.cluster != cluster:
        return "it is of another host or cluster"
    if not _EVENT_ID.fullmatch(value.id):
        return "its id is not an event id"
    if value.hash or value.previous:
        return "hash and previous are set by auth"
    if value.claimed is not None:
        return "claimed is set by auth"
    if value.session_id and not _UUID.fullmatch(value.session_id):
        return "session_id is not the id of a session of this host"
    any_user = value.event in UNAUTHENTICATED_EVENTS or (
        value.event in MACHINE_EVENTS and not value.user
    )
    if not any_user and not _NAME.fullmatch(value.user):
        return f"{quoted(value.user)} is not a user name"
    if len(value.roles) > ROLES_LIMIT or not all(map(_NAME.fullmatch, value.roles)):
        return "roles are not role names"
    if not _WORD.fullmatch(value.login_session):
        return "login_session is not the id of a login session"
    return _problem_with_fields(value.fields)


def _problem_with_fields(fields: Mapping[str, Any]) -> str:
    if len(fields) > FIELDS_LIMIT:
        return f"it has {len(fields)} fields of its own, {FIELDS_LIMIT} are allowed"
    for key, value in fields.items():
        if not _KEY.fullmatch(key):
            return f"{quoted(key)} is not a field name"
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
    """Return the event to store of one without a :func:`problem` that arrived at ``moment``.

    ``name`` is the host's name by its membership.
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
