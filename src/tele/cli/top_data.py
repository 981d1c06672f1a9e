"""What does ``tele top`` know of a cluster, and how often does it ask auth for it?

Invariants:

* What the user's roles do not show is missing, and named; the rest is shown.
* Sessions and events are asked for at each look, hosts, of which there may be many, at most every
  :data:`HOSTS_SECONDS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from attrs import frozen

from tele.cli.auth_client import Authority
from tele.cli.lists import pages
from tele.cli.output import plain
from tele.errors import AccessDenied
from tele.model.api.audit import LIST_EVENTS, ListEvents
from tele.model.api.hosts import LIST_HOSTS, ListHosts
from tele.model.api.members import CLUSTER, HEALTH
from tele.model.api.operation import Nothing
from tele.model.api.paging import Paged
from tele.model.api.sessions import LIST_SESSIONS
from tele.model.identity import HostRole
from tele.model.presence import Status

#: Seconds between two lists of all hosts.
HOSTS_SECONDS: Final = 30.0
#: Logins are counted that happened within so many seconds, among the newest events.
MINUTE: Final = 60.0
EVENTS: Final = 500
#: Sessions that are read; of more only these are counted.
SESSIONS_LIMIT: Final = 2000
#: Events that are login attempts: by the name, whether ``ok`` decides.
_ACCEPTED: Final = frozenset(("session.start", "user.login"))
_REFUSED: Final = frozenset(("auth.denied", "user.login"))


@frozen
class Snapshot:
    """A cluster as it was at ``time``. Lists are in JSON form; None is what was not shown."""

    time: str
    cluster: str
    disk: str
    hosts: Mapping[str, Mapping[str, int]] | None
    offline: Sequence[Any]
    sessions: Sequence[Any] | None
    more_sessions: bool
    accepted: int | None
    refused: int | None
    events: Sequence[Any]
    missing: Sequence[str]

    @property
    def data(self) -> dict[str, Any]:
        """The snapshot for ``--format json``."""
        return {
            "time": self.time,
            "cluster": self.cluster,
            "disk": self.disk,
            "hosts": self.hosts,
            "offline": self.offline,
            "sessions": self.sessions,
            "logins_per_minute": {"accepted": self.accepted, "refused": self.refused},
            "events": self.events,
            "missing": list(self.missing),
        }


class Watcher:
    """Takes snapshots of the cluster behind ``authority``. ``seconds()`` never goes back."""

    def __init__(self, authority: Authority, seconds: Callable[[], float]) -> None:
        self._authority = authority
        self._cluster = ""
        self._seconds = seconds
        self._hosts: dict[str, list[Any]] | None = None
        self._asked: float | None = None
        self._missing: list[str] = []

    def look(self) -> Snapshot:
        """Return the cluster as it is now. Raises :class:`TeleError` if auth does not answer."""
        self._missing = []
        health = self._authority.perform(HEALTH, Nothing())
        if not self._cluster:
            self._cluster = self._authority.perform(CLUSTER, Nothing()).cluster
        if self._asked is None or self._seconds() - self._asked >= HOSTS_SECONDS:
            self._hosts = self._try("nodes", self._read_hosts)
            self._asked = self._seconds()
        hosts = self._hosts
        found = self._try("sessions", self._read_sessions)
        events = self._try("events", self._read_events)
        moment = datetime.now(UTC)
        recent = [each for each in events or () if _is_recent(each, moment)]
        return Snapshot(
            time=moment.isoformat(timespec="seconds").replace("+00:00", "Z"),
            cluster=self._cluster,
            disk=health.disk.value,
            hosts=None if hosts is None else {role: _counted(rows) for role, rows in hosts.items()},
            offline=[row for rows in (hosts or {}).values() for row in rows if not _online(row)],
            sessions=None if found is None else found[0],
            more_sessions=found is not None and found[1],
            accepted=None if events is None else sum(map(_is_accepted, recent)),
            refused=None if events is None else sum(map(_is_refused, recent)),
            events=events or [],
            missing=tuple(self._missing),
        )

    def _try(self, what: str, read: Callable[[], Any]) -> Any:
        """Return what ``read`` returns; None if the user may not see it."""
        try:
            return read()
        except AccessDenied as error:
            self._missing.append(f"{what}: {error}")
            return None

    def _read_hosts(self) -> dict[str, list[Any]]:
        found: dict[str, list[Any]] = {}
        for role in (HostRole.NODE, HostRole.PROXY):

            def page(after: str, size: int, role: HostRole = role) -> Any:
                return self._authority.perform(LIST_HOSTS, ListHosts(role, (), size, after))

            found[role.value] = [plain(host) for some in pages(page) for host in some]
        return found

    def _read_sessions(self) -> tuple[list[Any], bool]:
        def page(after: str, size: int) -> Any:
            return self._authority.perform(LIST_SESSIONS, Paged(size, after))

        rows = [plain(each) for some in pages(page, SESSIONS_LIMIT) for each in some]
        return rows, len(rows) >= SESSIONS_LIMIT

    def _read_events(self) -> list[Any]:
        asked = ListEvents(newest=True, limit=EVENTS)
        return [plain(each) for each in self._authority.perform(LIST_EVENTS, asked).items]


def _online(row: Any) -> bool:
    return bool(row["status"] == Status.ONLINE.value)


def _counted(rows: Sequence[Any]) -> dict[str, int]:
    online = sum(map(_online, rows))
    return {Status.ONLINE.value: online, Status.OFFLINE.value: len(rows) - online}


def _is_recent(event: Any, moment: datetime) -> bool:
    return moment - datetime.fromisoformat(event["time"]) <= timedelta(seconds=MINUTE)


def _is_accepted(event: Any) -> bool:
    return bool(event["event"] in _ACCEPTED and event["ok"])


def _is_refused(event: Any) -> bool:
    return bool(event["event"] in _REFUSED and not event["ok"])
