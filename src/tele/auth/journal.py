"""How does what auth does, and refuses to do, get into the audit?

Invariants:

* Who caused an event is filled in here, the same way for every event.
* A denial is always an event; but nobody can fill the store with them: beyond a rate for each
  person, host and network of strangers, and for all strangers together, and on a full disk, they
  are counted, and the next one of the same says how many there were.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from typing import Any, Final

from twisted.internet.interfaces import IReactorTime

from tele.admission.rate_limiter import RateLimiter
from tele.audit.chain import event
from tele.audit.lines import log_event
from tele.audit.log import AuditLog, Changes
from tele.errors import TeleError
from tele.https.callers import counted_as
from tele.loop import now
from tele.model.addresses import host_of, source_network
from tele.model.api.operation import Operation
from tele.model.event import Event
from tele.model.identity import Caller, HostIdentity, UserIdentity

#: Denials of all strangers in one go, and how many more each second.
UNAUTHENTICATED_BURST: Final = 200.0
UNAUTHENTICATED_PER_SECOND: Final = 5.0
#: Denials of one person, host or network of strangers.
CLIENT_BURST: Final = 50.0
CLIENT_PER_SECOND: Final = 0.5
#: For how many of them is remembered how many denials were not listed.
SUPPRESSED_LIMIT: Final = 4096
TEXT_LIMIT: Final = 512

#: Auth's own machine, when nobody in particular calls.
LOCAL: Final = Caller(None, "local")


class Journal:
    """Writes the audit of what auth does itself."""

    def __init__(
        self,
        audit: AuditLog,
        cluster: str,
        clock: IReactorTime,
        disk_full: Callable[[], bool] = lambda: False,
    ) -> None:
        self._disk_full = disk_full
        self._audit = audit
        self._cluster = cluster
        self._clock = clock
        self._unauthenticated = RateLimiter(
            UNAUTHENTICATED_BURST, UNAUTHENTICATED_PER_SECOND, most=1
        )
        self._clients = RateLimiter(CLIENT_BURST, CLIENT_PER_SECOND)
        self._suppressed: dict[str, int] = {}

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

    async def append(self, *events: Event, changes: Mapping[str, Changes] | None = None) -> None:
        """Append events, durably; see :meth:`tele.audit.log.AuditLog.append` for ``changes``."""
        for each in events:
            log_event(each)
        await self._audit.append(*events, changes=changes)

    async def denied(
        self, operation: Operation[Any, Any], caller: Caller, error: TeleError, **fields: Any
    ) -> None:
        """Say that a call was refused."""
        suppressed = self.admit_denial(caller)
        if suppressed is None:
            return
        await self.emit(
            "auth.denied",
            caller,
            ok=False,
            error=str(error)[:TEXT_LIMIT],
            operation=operation.name,
            reason=_text(getattr(error, "reason", error.kind)),
            **suppressed,
            **fields,
        )

    def admit_denial(self, caller: Caller) -> dict[str, Any] | None:
        """Return what an event about a refusal of ``caller`` says of others that were left out.

        None: leave this one out, too; it is counted.
        """
        who = _whose(caller)
        if not self._is_admitted(who, stranger=caller.identity is None):
            # When too many are remembered, what is left out counts as everybody's.
            who = who if who in self._suppressed or len(self._suppressed) < SUPPRESSED_LIMIT else ""
            self._suppressed[who] = self._suppressed.get(who, 0) + 1
            return None
        suppressed = self._suppressed.pop(who, 0) + self._suppressed.pop("", 0)
        return {"others_not_listed": suppressed} if suppressed else {}

    def _is_admitted(self, who: str, *, stranger: bool) -> bool:
        if self._disk_full():
            return False
        moment = self._clock.seconds()
        return self._clients.take(who, moment) and (
            not stranger or self._unauthenticated.take("", moment)
        )


def _whose(caller: Caller) -> str:
    if caller.identity is None:
        return f"network {source_network(host_of(caller.remote_addr))}"
    return counted_as(caller.identity)


def _text(reason: Any) -> str:
    return str(getattr(reason, "value", reason))
