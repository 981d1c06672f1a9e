"""How does what auth does, and refuses to do, get into the audit?

Laws of this file:

* Who caused an event is filled in here, the same way for every event.
* A denial is always an event; but a stranger cannot fill the store with them: beyond a
  rate they are counted, and the next one says how many there were.
"""

from __future__ import annotations

import uuid
from typing import Any, Final

from twisted.internet.interfaces import IReactorTime

from tele.audit.chain import event
from tele.audit.log import AuditLog
from tele.errors import TeleError
from tele.loop import now
from tele.model.api.operation import Operation
from tele.model.event import Event
from tele.model.identity import Caller, HostIdentity, UserIdentity

#: Denials of strangers in one go, and how many more each second.
STRANGERS_BURST: Final = 200.0
STRANGERS_PER_SECOND: Final = 5.0
TEXT_LIMIT: Final = 512

#: Auth's own machine, when nobody in particular calls.
LOCAL: Final = Caller(None, "local")


class Journal:
    """Writes the audit of what auth does itself."""

    def __init__(self, audit: AuditLog, cluster: str, clock: IReactorTime) -> None:
        self._audit = audit
        self._cluster = cluster
        self._clock = clock
        self._allowance = STRANGERS_BURST
        self._last = 0.0
        self._unsaid = 0

    def event(self, name: str, caller: Caller | None = None, /, **fields: Any) -> Event:
        """Make an event that ``caller`` caused."""
        identity = None if caller is None else caller.identity
        if isinstance(identity, UserIdentity):
            fields.setdefault("user", identity.user)
            fields.setdefault("roles", identity.roles)
            fields.setdefault("login_session", identity.login_session)
        elif isinstance(identity, HostIdentity):
            fields.setdefault("server_id", identity.host_id)
            fields.setdefault("server_name", identity.name)
        if caller is not None:
            fields.setdefault("remote_addr", caller.remote_addr)
        return event(name, str(uuid.uuid4()), now(self._clock), self._cluster, **fields)

    async def emit(self, name: str, caller: Caller | None = None, /, **fields: Any) -> None:
        """Append an event that ``caller`` caused."""
        await self.append(self.event(name, caller, **fields))

    async def append(self, *events: Event) -> None:
        """Append events, durably."""
        await self._audit.append(*events)

    async def denied(
        self, operation: Operation[Any, Any], caller: Caller, error: TeleError, **fields: Any
    ) -> None:
        """Say that a call was refused."""
        if caller.identity is None:
            if not self._may_say():
                self._unsaid += 1
                return
            unsaid, self._unsaid = self._unsaid, 0
            if unsaid:
                fields["others_not_listed"] = unsaid
        await self.emit(
            "auth.denied",
            caller,
            ok=False,
            error=str(error)[:TEXT_LIMIT],
            operation=operation.name,
            reason=_text(getattr(error, "reason", error.kind)),
            **fields,
        )

    def _may_say(self) -> bool:
        moment = self._clock.seconds()
        earned = max(0.0, moment - self._last) * STRANGERS_PER_SECOND
        self._allowance = min(STRANGERS_BURST, self._allowance + earned)
        self._last = moment
        if self._allowance < 1:
            return False
        self._allowance -= 1
        return True


def _text(reason: Any) -> str:
    return str(getattr(reason, "value", reason))
