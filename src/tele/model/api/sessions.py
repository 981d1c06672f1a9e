"""Operations on sessions that run."""

from __future__ import annotations

from datetime import datetime
from typing import Final

from attrs import field, frozen

from tele.model.api.operation import Hosts, Nothing, Operation, Permitted, Users
from tele.model.api.paging import ById, Paged
from tele.model.bounds import AtMost, Between
from tele.model.identity import HostRole
from tele.model.resources import MESSAGE_LIMIT, Lock
from tele.model.session import Session


@frozen
class SessionList:
    """Sessions that run, oldest first."""

    items: tuple[Session, ...]
    next: str = ""


@frozen
class Participant:
    """One who takes part in a session, since ``joined``, from ``remote_addr``."""

    user: str
    remote_addr: str
    joined: datetime


@frozen
class SessionDetails:
    """A session that runs. ``kind`` is ``ssh``, ``roles`` are those that allowed the login.

    ``recorded``: auth has a recording of it. ``participants`` has the user who logged in.
    """

    session: Session
    kind: str
    roles: tuple[str, ...]
    recorded: bool
    participants: tuple[Participant, ...]


#: Sessions in one report of a node.
REPORT_LIMIT: Final = 20_000


@frozen
class ReportSessions:
    """All sessions that run on the calling host, by id. Its process runs since ``since``.

    A host sends it when all events before are with auth: a session that auth knows and the host
    does not has ended.
    """

    since: datetime
    sessions: tuple[str, ...] = ()


@frozen
class ClaimConnection:
    """A session of ``user`` is about to begin on the calling host, and roles allow ``limit``."""

    id: str
    user: str
    limit: int = field(validator=Between(1))


@frozen
class KillSession:
    """End a session that runs; ``message`` is for the person."""

    id: str
    message: str = field(default="", validator=AtMost(MESSAGE_LIMIT))


_RECORDERS = (Hosts((HostRole.NODE, HostRole.PROXY)),)
LIST_SESSIONS = Operation(
    "list_sessions",
    "GET",
    "/v1/sessions",
    Paged,
    SessionList,
    (Permitted("session", "list"), Users()),
    "Sessions that run; without a rule, one's own",
    cost=20,
)

GET_SESSION = Operation(
    "get_session",
    "GET",
    "/v1/sessions/{id}",
    ById,
    SessionDetails,
    (Permitted("session", "list"), Users()),
    "One session that runs; without a rule, one's own",
    cost=20,
)

KILL_SESSION = Operation(
    "kill_session",
    "POST",
    "/v1/sessions/{id}/kill",
    KillSession,
    Lock,
    (Permitted("session", "delete", each=True), Permitted("lock", "create")),
    "End a session that runs",
)

CLAIM_CONNECTION = Operation(
    "claim_connection", "POST", "/v1/sessions/{id}/claim",
    ClaimConnection, Nothing, _RECORDERS,
    "Count a session that is about to begin on the calling host; denied if its user has too many",
    cost=2,
)  # fmt: skip

REPORT_SESSIONS = Operation(
    "report_sessions", "PUT", "/v1/sessions/running",
    ReportSessions, Nothing, _RECORDERS,
    "Report which sessions run on the calling host: others of it have ended",
    limit=1024 * 1024, cost=20,
)  # fmt: skip
