"""A connection with its grant, and what it leaves in the audit."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from attrs import Factory, define

from grants import one_role
from tele.model.identity import UserIdentity
from tele.sessions.context import ConnectionContext

LATER = datetime(2099, 1, 1, tzinfo=UTC)


@define
class FakeAudit:
    """Stands for the audit reporter."""

    events: list[tuple[str, dict[str, Any]]] = Factory(list)
    #: When what happened that was reported later.
    times: list[datetime] = Factory(list)

    def emit(self, name: str, context: ConnectionContext, **fields: Any) -> None:
        self.events.append((name, fields))

    def emit_at(self, time: datetime, name: str, context: ConnectionContext, **fields: Any) -> None:
        self.times.append(time)
        self.emit(name, context, **fields)


def context(**options: Any) -> ConnectionContext:
    """Return the connection of a user whose grant has ``options``."""
    grant = one_role(UserIdentity("alice", "c", LATER), "root", **options)
    return ConnectionContext(grant, "session-1", ("192.0.2.7", 50000), ("192.0.2.1", 3022))
