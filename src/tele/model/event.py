"""What is in the audit? Events: who did what to what, from where, and with which result.

The audit is not the log: an event is a fact about a user or a host, kept for years, read by
programs.

Invariant: names and codes never change their meaning.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from attrs import Factory, fields, frozen
from cattrs.gen import make_dict_structure_fn

from tele.model.codec import CONVERTER, format_time, parse_time
from tele.model.scalars import check_integer

#: Event names and their codes.
CODES: Final[Mapping[str, str]] = {
    "cluster.create": "TC001I",
    "cluster.update": "TC002I",
    "backup.create": "TC003I",
    "user.login": "TU001I",
    "user.create": "TU002I",
    "user.update": "TU003I",
    "user.delete": "TU004I",
    "user.locked_out": "TU005W",
    "user.password": "TU006I",
    "user.invite": "TU007I",
    "mfa.add": "TM001I",
    "mfa.delete": "TM002I",
    "mfa.recovery_codes": "TM003I",
    "mfa.challenge": "TM004I",
    "mfa.session": "TM005I",
    "role.update": "TR001I",
    "role.delete": "TR002I",
    "lock.create": "TL001I",
    "lock.delete": "TL002I",
    "token.create": "TT001I",
    "token.delete": "TT002I",
    "node.join": "TN001I",
    "node.delete": "TN002I",
    "node.duplicate": "TN003W",
    "node.rejoin": "TN004I",
    "node.add": "TN005I",
    "node.key_replace": "TN006I",
    "node.copied": "TN007W",
    "node.quota": "TN010W",
    "clock.step": "TN011W",
    "clock.skew": "TN012W",
    "cert.issue": "TK001I",
    "ca.rotate": "TK002I",
    "session.start": "TS001I",
    "session.end": "TS002I",
    "session.command": "TS003I",
    "session.disk": "TS004I",
    "session.network": "TS005I",
    "exec": "TS006I",
    "subsystem": "TS007I",
    "sftp": "TS008I",
    "forward": "TS009I",
    "agent": "TS010I",
    "forward.end": "TS011I",
    "agent.end": "TS012I",
    "session.kill": "TS013I",
    "session.resume": "TS014W",
    "exec.end": "TS015I",
    "subsystem.end": "TS016I",
    "scp": "TS017I",
    "rsync": "TS018I",
    "session.syscalls": "TS019I",
    "session.handover": "TS020W",
    "session.join": "TS021I",
    "session.leave": "TS022I",
    "host_user.create": "TH001I",
    "host_user.remove": "TH002I",
    "host_user.update": "TH003I",
    "disk.low": "TD001W",
    "auth.denied": "TA001W",
    "auth.refused": "TA002W",
    "recording.upload": "TP001I",
    "recording.access": "TP002I",
    "recording.delete": "TP003I",
    "recording.incomplete": "TP004W",
    "recording.limit": "TP005W",
    "recording.stuck": "TP006W",
    "recording.gap": "TP007W",
    "recording.expire": "TP008I",
    "recording.hold": "TP009I",
    "recording.release": "TP010I",
    "recording.retry": "TP011I",
}


@frozen
class Event:
    """One event. ``fields`` are those of this kind of event alone, in JSON keys beside the others.

    ``time`` is auth's: when it happened there, or when a host's report arrived. ``claimed`` is the
    host's time of an event that it reported. ``previous`` and ``hash`` are hex SHA-256, filled in
    when auth appends it.
    """

    id: str
    time: datetime
    event: str
    code: str
    cluster: str
    user: str = ""
    login: str = ""
    roles: tuple[str, ...] = ()
    session_id: str = ""
    login_session: str = ""
    server_id: str = ""
    server_name: str = ""
    remote_addr: str = ""
    ok: bool = True
    error: str = ""
    fields: Mapping[str, Any] = Factory(dict)
    claimed: datetime | None = None
    previous: str = ""
    hash: str = ""

    @property
    def is_claim(self) -> bool:
        """Whether a host reported it; otherwise it is of auth itself."""
        return self.claimed is not None


_SCALARS: Final = frozenset((str, int, bool, float, type(None)))
_NO_TEXT: Final = frozenset(("roles", "ok", "claimed"))
_READ_BACK: Final = frozenset((str, bool, type(None)))
#: Keys of an event's JSON that are never ``fields``.
OWN_KEYS: Final = frozenset(a.name for a in fields(Event)) - {"fields"}
_plain_from_json = make_dict_structure_fn(Event, CONVERTER)


def is_plain(event: Event) -> bool:
    """Whether its JSON, if it can be written, is certain to be read as the same event.

    So it is if each value has the declared type, and those of ``fields`` are texts, flags or
    integers. Raises ValueError for an integer that cannot be read.
    """
    own = (
        event.id, event.event, event.code, event.cluster, event.user, event.login, *event.roles,
        event.session_id, event.login_session, event.server_id, event.server_name,
        event.remote_addr, event.error, event.previous, event.hash, *event.fields,
    )  # fmt: skip
    if any(type(each) is not str for each in own) or type(event.ok) is not bool:
        return False
    if type(event.time) is not datetime or type(event.roles) is not tuple:
        return False
    if event.claimed is not None and type(event.claimed) is not datetime:
        return False
    for value in event.fields.values():
        if type(value) is int:
            check_integer(value)
        elif type(value) not in _READ_BACK:
            return False
    return True


def _to_json(event: Event) -> dict[str, Any]:
    # By hand: there are many events, and the converter costs twice as much.
    plain = {
        name: value if type(value) in _SCALARS else CONVERTER.unstructure(value)
        for name, value in event.fields.items()
    }
    plain.update(
        id=event.id, time=format_time(event.time), event=event.event, code=event.code,
        cluster=event.cluster, user=event.user, login=event.login, roles=list(event.roles),
        session_id=event.session_id, login_session=event.login_session, server_id=event.server_id,
        server_name=event.server_name, remote_addr=event.remote_addr, ok=event.ok,
        error=event.error, previous=event.previous, hash=event.hash,
    )  # fmt: skip
    # The key is left out if it is empty, so that the hashes of older events stay valid.
    if event.claimed is not None:
        plain["claimed"] = format_time(event.claimed)
    return plain


def _from_json(value: Any, _: Any) -> Event:
    if not isinstance(value, Mapping):
        raise ValueError(f"expected a mapping, got {type(value).__name__}")
    own: dict[str, Any] = {}
    others: dict[str, Any] = {}
    for key, each in value.items():
        (own if key in OWN_KEYS else others)[key] = each
    event: Event = _from_plain(own, others) or _plain_from_json({**own, "fields": others}, Event)
    return event


def _from_plain(own: Mapping[str, Any], others: dict[str, Any]) -> Event | None:
    """Return the event, or None if something is unusual: the converter reads it, or says what is
    wrong. It costs three times as much.
    """
    roles, claimed = own.get("roles", []), own.get("claimed")
    if type(roles) is not list or type(own.get("ok", True)) is not bool:
        return None
    texts = [each for key, each in own.items() if key not in _NO_TEXT]
    if any(type(each) is not str for each in (*texts, *roles, *others)):
        return None
    try:
        for each in others.values():
            if type(each) is int:
                check_integer(each)
            elif type(each) not in _READ_BACK:
                return None
        times = {"time": parse_time(own["time"])}
        if claimed is not None:
            times["claimed"] = parse_time(claimed)
        return Event(**{**own, **times, "roles": tuple(roles), "fields": others})
    except (KeyError, TypeError, ValueError):
        return None


CONVERTER.register_unstructure_hook(Event, _to_json)
CONVERTER.register_structure_hook(Event, _from_json)
