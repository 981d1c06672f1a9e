"""Is a host over its quota, and when is there an event about it?

Invariant: the audit has one event an hour for each host and quota, not one for each call.
"""

from __future__ import annotations

from twisted.internet.interfaces import IReactorTime

from tele.auth.authorizer import host_caller
from tele.auth.journal import Journal
from tele.auth.quotas import Quota, Quotas
from tele.errors import Unavailable
from tele.model.identity import Caller


class HostQuotas:
    """Charges hosts for what they send to auth."""

    def __init__(self, clock: IReactorTime, journal: Journal) -> None:
        self._clock = clock
        self._journal = journal
        self._quotas = Quotas()

    async def charge(self, caller: Caller, quota: Quota, amount: float) -> None:
        """Count what the calling host sends. Raises :class:`Unavailable` over its quota."""
        host = host_caller(caller)
        if not self._quotas.take(host.role, host.host_id, quota, amount, self._clock.seconds()):
            raise await self.exceeded(caller, quota.name, str(quota))

    async def exceeded(self, caller: Caller, name: str, limit: str) -> Unavailable:
        """Return the refusal of a host over the quota ``name``, which is in the audit by then."""
        host = host_caller(caller)
        text = f"{host.role.value} {host.name} is over its quota of {limit}; try again later"
        if self.is_due(caller, name):
            await self._journal.emit(
                "node.quota", caller, ok=False, error=text, quota=name, role=host.role.value
            )
        return Unavailable(text)

    def is_due(self, caller: Caller, name: str) -> bool:
        """Whether an event about the quota or limit ``name`` of the calling host is due."""
        host = host_caller(caller)
        return self._quotas.is_news(host.role, host.host_id, name, self._clock.seconds())
