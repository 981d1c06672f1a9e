"""How much may one host send to auth?

Each quota has a burst (what gathered while auth was unreachable) and a rate. Invariants:

* The use of one host reduces no other host's quota.
* Over its quota a host has to try again later; nothing that it has is lost by that.
* The audit has one event an hour for each host and quota, not one for each call.
"""

from __future__ import annotations

from typing import Final

from attrs import define, field, frozen

from tele.model.identity import HostRole


@frozen
class Quota:
    """``burst``, then ``per_second``; ``unit`` is the plural for messages."""

    name: str
    burst: float
    per_second: float
    unit: str

    def __str__(self) -> str:
        return f"{self.burst:,.0f} {self.unit} in a burst and {self.per_second:,g} a second"


# A thousand sessions that write all the time cut 1,250 chunks a second. A day at the full rate is
# 17 million events or 86 GiB of recordings, which no host has and a disk may still hold.
EVENTS: Final = Quota("events", 200_000, 200, "events")
EVENT_BYTES: Final = Quota("event_bytes", 512 << 20, 256 << 10, "bytes of events")
RECORDINGS: Final = Quota("recordings", 20_000, 10, "recordings")
CHUNKS: Final = Quota("chunks", 500_000, 1_500, "chunks")
#: The default of ``auth.recording_limits.node``, in a day.
CHUNK_BYTES: Final = Quota("chunk_bytes", 64 << 30, (64 << 30) / 86400, "bytes of recordings")
#: A node reports its sessions when it starts, after errors, and every few minutes.
REPORTS: Final = Quota("reports", 100, 1, "reports of sessions")
#: A proxy that ends users' SSH asks for each session, and once a day for each host.
MINTED: Final = Quota("minted", 50_000, 100, "sessions")
TARGETS: Final = Quota("targets", 20_000, 10, "certificates of hosts")
QUOTAS: Final = (MINTED, TARGETS, EVENTS, EVENT_BYTES, RECORDINGS, CHUNKS, CHUNK_BYTES, REPORTS)
#: Sessions that may run on one node at the same time.
RUNNING_LIMIT: Final = 5_000
#: How often an event says that a host is over a quota.
REPORT_SECONDS: Final = 3600.0


@define
class _Budget:
    """What a host has left of one quota."""

    quota: Quota
    left: float
    last: float

    def take(self, amount: float, now: float) -> bool:
        """Take ``amount`` and return True, or take nothing."""
        earned = max(0.0, now - self.last) * self.quota.per_second
        self.left = min(self.quota.burst, self.left + earned)
        self.last = now
        if amount > self.left:
            return False
        self.left -= amount
        return True


@define(eq=False)
class Quotas:
    """The budgets of all hosts. The time is an argument, in seconds."""

    _budgets: dict[tuple[HostRole, str, str], _Budget] = field(factory=dict, init=False)
    _reported: dict[tuple[HostRole, str, str], float] = field(factory=dict, init=False)

    def take(self, role: HostRole, host_id: str, quota: Quota, amount: float, now: float) -> bool:
        """Take ``amount`` of a host's budget; False if that is more than is left."""
        key = (role, host_id, quota.name)
        budget = self._budgets.get(key)
        if budget is None:
            budget = self._budgets[key] = _Budget(quota, quota.burst, now)
        return budget.take(amount, now)

    def is_news(self, role: HostRole, host_id: str, name: str, now: float) -> bool:
        """Whether an event that a host is over the quota ``name`` is due."""
        key = (role, host_id, name)
        reported = self._reported.get(key)
        if reported is not None and now - reported < REPORT_SECONDS:
            return False
        self._reported[key] = now
        return True
