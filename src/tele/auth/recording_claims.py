"""Are a host's claims about a recording possible?

Invariants:

* A node records its own sessions only. Those of a proxy have to be registered for it:
  :mod:`tele.auth.proxied_sessions`.
* A date that is impossible by auth's clock does not refuse a recording for good: it waits until the
  wrong clock is set, and nothing of it is lost.
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import Final

from tele.errors import AccessDenied, InvalidInput, Unavailable
from tele.model.identity import HostIdentity
from tele.model.names import NAME_PATTERN
from tele.model.session import RecordingStart
from tele.recording.proof import RECORDERS, recorder_problem

TEXT_LIMIT: Final = 256
#: How far a node's clock may be ahead of auth's, and how long ago a session may have started when
#: its recording arrives: it waited on the node while auth was unreachable.
AHEAD: Final = timedelta(days=1)
BEHIND: Final = timedelta(days=366)
_NAME = re.compile(NAME_PATTERN, re.ASCII)
_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


def is_id(text: str) -> bool:
    """Whether this has the form of a recording's id."""
    return _ID.fullmatch(text) is not None


def check_claims(host: HostIdentity, recording_id: str, start: RecordingStart) -> None:
    """Raise :class:`InvalidInput`, or :class:`AccessDenied` if the session is another host's."""
    if not is_id(recording_id) or start.id != recording_id:
        raise InvalidInput("a recording's id has to be a UUID, the same in both places")
    if start.cluster != host.cluster:
        raise InvalidInput("the recording is of another cluster")
    if start.recorded_by != host.place or recorder_problem(start):
        raise AccessDenied("a node records its own sessions only", "host")
    if host.role not in RECORDERS:
        raise AccessDenied("sessions are recorded by nodes and proxies only", "host")
    if not _NAME.fullmatch(start.user):
        raise InvalidInput("the recording's user is not a user name")
    texts = (start.kind, start.login, start.node, start.node_id, start.remote_addr,
             start.login_session, start.recorder_id, start.mode, start.target,
             start.certificate)  # fmt: skip
    if any(len(text) > TEXT_LIMIT for text in texts):
        raise InvalidInput(f"a text of the start has more than {TEXT_LIMIT} characters")


def check_start_date(started: datetime, now: datetime) -> None:
    """Raise :class:`Unavailable` while a new session cannot have started then."""
    if not -BEHIND <= started - now <= AHEAD:
        raise _impossible("started", started, now)


def check_end_date(ended: datetime, received: datetime, now: datetime) -> None:
    """Raise :class:`Unavailable` while a session cannot have ended then.

    ``received`` is when auth received its start; auth's clock may have been set back since.
    """
    if ended - max(now, received) > AHEAD:
        raise _impossible("ended", ended, now)


def _impossible(what: str, when: datetime, now: datetime) -> Unavailable:
    return Unavailable(
        f"the recording {what} at {when:%F %T} UTC by the node's clock, and by auth's clock it is"
        f" {now:%F %T} UTC: set the clock that is wrong"
    )
