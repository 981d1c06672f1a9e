"""How do auth's own actions and refusals get into the audit?

Invariants:

* The caller of an event is filled in here, the same way for every event.
* A denial is an event, within a rate for each user, host and network of unauthenticated clients,
  and for all unauthenticated clients together. Beyond it, and on a full disk, denials are counted,
  and the next event of the same client has the count.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from twisted.internet.interfaces import IReactorTime

from tele.admission.rate_limiter import RateLimiter
from tele.audit.chain import event
from tele.audit.lines import log_event
from tele.audit.log import AuditLog, Changes
from tele.errors import AccessDenied, BadCertificate, TeleError
from tele.https.callers import counted_as
from tele.loop import now
from tele.measures import catalogue
from tele.measures.metric import Sample, Tally
from tele.model.access import Reason
from tele.model.addresses import host_of, source_network
from tele.model.api.operation import Operation
from tele.model.event import Event
from tele.model.identity import Caller, HostIdentity, UserIdentity

#: Denials of all unauthenticated clients: the burst, and the rate.
UNAUTHENTICATED_BURST: Final = 200.0
UNAUTHENTICATED_PER_SECOND: Final = 5.0
#: Denials of one user, host or network of unauthenticated clients.
CLIENT_BURST: Final = 50.0
CLIENT_PER_SECOND: Final = 0.5
#: Clients whose suppressed denials are counted.
SUPPRESSED_LIMIT: Final = 4096
TEXT_LIMIT: Final = 512

#: Auth's own machine, for actions without a caller.
LOCAL: Final = Caller(None, "local")


class Journal:
    """Appends the events of auth's own actions."""

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
        #: Logins of users by result and reason, and denials by reason.
        self.logins, self.denials = Tally(2), Tally()
        self.logins.add("accepted", "", count=0)  # a rate needs a value before the first one

    def samples(self) -> Iterator[Sample]:
        """See :class:`tele.measures.metric.Measured`."""
        yield from self.logins.samples(catalogue.LOGINS)
        yield from self.denials.samples(catalogue.DENIALS)

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
            if each.event == "user.login":
                self.logins.add(*(("accepted", "") if each.ok else ("refused", "login")))
        await self._audit.append(*events, changes=changes)

    async def denied(
        self, operation: Operation[Any, Any], caller: Caller, error: TeleError, **fields: Any
    ) -> None:
        """Emit the event of a call that was refused, unless it is suppressed."""
        self.denials.add(_reason(error))
        suppressed = self.admit_denial(caller)
        if suppressed is None:
            return
        await self.emit(
            "auth.denied",
            caller,
            ok=False,
            error=str(error)[:TEXT_LIMIT],
            operation=operation.name,
            reason=_reason(error),
            **suppressed,
            **fields,
        )

    def admit_denial(self, caller: Caller) -> dict[str, Any] | None:
        """Return the fields of an event of a denial about those suppressed before it.

        None: this one is suppressed, too; it is counted.
        """
        client = _client(caller)
        if not self._is_admitted(client, authenticated=caller.identity is not None):
            # Beyond the limit all clients share one count.
            if client not in self._suppressed and len(self._suppressed) >= SUPPRESSED_LIMIT:
                client = ""
            self._suppressed[client] = self._suppressed.get(client, 0) + 1
            return None
        suppressed = self._suppressed.pop(client, 0) + self._suppressed.pop("", 0)
        return {"others_not_listed": suppressed} if suppressed else {}

    def _is_admitted(self, client: str, *, authenticated: bool) -> bool:
        if self._disk_full():
            return False
        moment = self._clock.seconds()
        return self._clients.take(client, moment) and (
            authenticated or self._unauthenticated.take("", moment)
        )


def _client(caller: Caller) -> str:
    if caller.identity is None:
        return f"network {source_network(host_of(caller.remote_addr))}"
    return counted_as(caller.identity)


def _reason(error: TeleError) -> str:
    if not isinstance(error, AccessDenied | BadCertificate):
        return error.kind
    return error.reason.value if isinstance(error.reason, Reason) else error.reason
