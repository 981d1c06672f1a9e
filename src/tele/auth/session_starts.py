"""Under which keys is a session that has started and not ended, as its host reports it?

``/session-starts/<host>/<session id>``, and ``/session-starts-of/<user>/<host>/<session id>`` so
that the sessions of one user are found without reading all.

Invariant: a host changes the keys of its own sessions only, whatever ids it reports.
"""

from __future__ import annotations

from typing import Final

from attrs import field, frozen

from tele.audit.log import Changes
from tele.auth.host_places import place_key
from tele.auth.repository import Repository
from tele.interfaces import Delete, IBackend, Put
from tele.model.bounds import OMITTED
from tele.model.identity import HostPlace
from tele.model.session import Session

SESSION_STARTS: Final = "/session-starts/"
SESSION_STARTS_OF: Final = "/session-starts-of/"
#: What a claim is for: see :mod:`tele.auth.connection_claims`.
CONNECTION_CLAIMS: Final = "/connection-claims/"


@frozen
class StartedSession:
    """A session with an event of its start and none of its end.

    ``resumed`` is how often it was resumed after auth had ended it. ``of_session`` is the id of the
    session at a proxy that this one belongs to, on the node behind it.
    """

    session: Session
    roles: tuple[str, ...] = ()
    resumed: int = 0
    of_session: str = field(default="", metadata=OMITTED)


def all_starts(backend: IBackend) -> Repository[StartedSession]:
    """Return those of all hosts, by ``<host>/<session id>``."""
    return Repository(backend, SESSION_STARTS, StartedSession)


def starts_of_host(backend: IBackend, host: HostPlace) -> Repository[StartedSession]:
    """Return those of one host, by session id."""
    return Repository(backend, f"{SESSION_STARTS}{place_key(host)}/", StartedSession)


def added(backend: IBackend, host: HostPlace, started: StartedSession) -> Changes:
    """Return the changes that add a session."""
    session = started.session
    return [
        starts_of_host(backend, host).put(session.id, started),
        Put(_user_key(host, session.user, session.id), b""),
        Delete(claim_key(host, session.user, session.id)),
    ]


def removed(backend: IBackend, host: HostPlace, user: str, session_id: str) -> Changes:
    """Return the changes that remove a session of ``user``."""
    return [
        starts_of_host(backend, host).delete(session_id),
        Delete(_user_key(host, user, session_id)),
        Delete(claim_key(host, user, session_id)),
    ]


def claim_key(host: HostPlace, user: str, session_id: str) -> str:
    """Return the key of the claim of a session that has not started."""
    return f"{CONNECTION_CLAIMS}{user}/{place_key(host)}/{session_id}"


def _user_key(host: HostPlace, user: str, session_id: str) -> str:
    return f"{SESSION_STARTS_OF}{user}/{place_key(host)}/{session_id}"
