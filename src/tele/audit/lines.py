"""Which audit events are lines of the log, too? Logins, sessions and denials.

Invariant: one line for each event, with the same fields. How many of them unauthenticated clients
can cause is limited where the events are made.
"""

from __future__ import annotations

from typing import Any, Final

from tele.log import make_logger
from tele.model.event import Event

#: The logged events.
LOGGED: Final = frozenset(("session.start", "session.end", "user.login", "auth.denied"))
#: A text is cut after so many characters.
TEXT_LIMIT: Final = 256

_log: Final = make_logger(__name__)


def log_event(event: Event) -> None:
    """Write the line of ``event``, if it has one."""
    if event.event in LOGGED:
        log_line(
            event.event,
            user=event.user,
            login=event.login,
            node=event.server_name,
            remote_addr=event.remote_addr,
            session_id=event.session_id,
            login_session=event.login_session,
            ok=None if event.ok else False,
            error=event.error,
            **{k: v for k, v in event.fields.items() if k not in _OWN},
        )


#: Fields of the line that are no field of an event's own.
_OWN: Final = frozenset(
    ("user", "login", "node", "remote_addr", "session_id", "login_session", "ok", "error", "name",
     "event")
)  # fmt: skip


def log_line(name: str, /, **fields: Any) -> None:
    """Write ``name key=value ...`` with the fields that are not empty."""
    given = {
        key: value[:TEXT_LIMIT] if isinstance(value, str) else value
        for key, value in fields.items()
        if value is not None and value != ""
    }
    _log.info("{event}", event=name, **given)
