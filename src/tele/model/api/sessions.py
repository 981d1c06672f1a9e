"""Requests and responses about sessions that run."""

from __future__ import annotations

from datetime import datetime
from typing import Final

from attrs import frozen

from tele.model.session import Session


@frozen
class SessionList:
    """Sessions that run, oldest first."""

    items: tuple[Session, ...]
    next: str = ""


#: Sessions in one report of a node.
REPORT_LIMIT: Final = 20_000


@frozen
class ReportSessions:
    """All sessions that run on the calling node, by id. Its process runs since ``since``.

    A node sends it after auth has all earlier events: a session that is known to auth and not to
    the node has ended.
    """

    since: datetime
    sessions: tuple[str, ...] = ()
