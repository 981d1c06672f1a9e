"""How does what auth does, and refuses to do, get into the audit?

Laws of this file:

* Who caused an event is filled in here, the same way for every event.
* A denial is always an event; but nobody can fill the store with them: beyond a rate, all
  strangers together and each user and host alone, they are counted, and the next one says how
  many there were.
"""

from __future__ import annotations

import uuid
from collections import OrderedDict
from typing import Any, Final

from twisted.internet.interfaces import IReactorTime

from tele.audit.chain import event
from tele.audit.log import AuditLog
from tele.conch.allowance import Allowance, Ration
from tele.errors import TeleError
from tele.loop import now
from tele.model.api.operation import Operation
from tele.model.event import Event
from tele.model.identity import Caller, HostIdentity, UserIdentity

#: Denials of strangers, or of one user or host, in one go, and how many more each second.
STRANGERS_BURST: Final = 200.0
STRANGERS_PER_SECOND: Final = 5.0
#: Users and hosts whose denials are counted at the same time; those of others begin anew.
CALLERS_LIMIT: Final = 1000
TEXT_LIMIT: Final = 512

#: Auth's own machine, when nobody in particular calls.
LOCAL: Final = Caller(None, "local")


class Journal:
    """Writes the audit of what auth does itself."""

    def __init__(self, audit: AuditLog, cluster: str, clock: IReactorTime) -> None:
        self._audit = audit
        self._cluster = cluster
        self._clock = clock
        self._rations: OrderedDict[str, Ration] = OrderedDict()
        self._strangers = _ration()

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
        unsaid = self._ration_of(caller).admit(self._clock.seconds())
        if unsaid is None:
            return
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

    def _ration_of(self, caller: Caller) -> Ration:
        match caller.identity:
            case UserIdentity(user=user):
                key = f"user {user}"
            case HostIdentity(role=role, host_id=host_id):
                key = f"{role.value} {host_id}"
            case _:
                return self._strangers
        ration = self._rations.setdefault(key, _ration())
        self._rations.move_to_end(key)
        if len(self._rations) > CALLERS_LIMIT:
            self._rations.popitem(last=False)
        return ration


def _ration() -> Ration:
    return Ration(Allowance(STRANGERS_BURST, STRANGERS_PER_SECOND))


def _text(reason: Any) -> str:
    return str(getattr(reason, "value", reason))
