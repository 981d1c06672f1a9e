"""How much may the recordings of one session, user or node take of auth's archive?

Bytes are as stored, which is compressed. Invariants:

* Over the limit of a session or a user nothing is refused: the node is told with each chunk,
  records no more output of the session for a while, and says in a gap how much is missing and why.
* A node that does not heed that has a limit of its own, over which it has to wait.
* What one user or node used up is missing to nobody else.
* A limit of 0 is none. What was used is counted by each auth, and anew when it starts.
"""

from __future__ import annotations

from typing import Final

from attrs import define, field, frozen

from tele.auth.quotas import CHUNK_BYTES, Quota
from tele.model.session import Recording

DAY: Final = 86400.0
MIB: Final = 1 << 20


@frozen
class RecordingLimits:
    """Bytes: of one session, and of a user and a node in a day."""

    session: int = 1 << 30
    user: int = 8 << 30
    node: int = int(CHUNK_BYTES.burst)

    @property
    def of_node(self) -> Quota | None:
        """What a node may send."""
        if not self.node:
            return None
        return Quota(CHUNK_BYTES.name, self.node, self.node / DAY, CHUNK_BYTES.unit)


@define
class _Used:
    """Bytes that count now; a day's limit is forgotten evenly in a day."""

    amount: float
    since: float


@define(eq=False)
class RecordingUse:
    """What sessions and users have used of their limits. The time is an argument, in seconds."""

    limits: RecordingLimits
    _users: dict[str, _Used] = field(factory=dict, init=False)

    def add(self, row: Recording, size: int, now: float) -> str:
        """``row`` got ``size`` bytes more; returns which limit it is over, in words, or nothing."""
        limits = self.limits
        if limits.user:
            used = self._users.setdefault(row.user, _Used(0.0, now))
            forgotten = (now - used.since) * limits.user / DAY
            used.amount = max(0.0, used.amount - forgotten) + size
            used.since = now
            if used.amount > limits.user:
                return f"over the limit of {limits.user // MIB:,} MiB a day for one user"
        if limits.session and row.size > limits.session:
            return f"over the limit of {limits.session // MIB:,} MiB for one session"
        return ""
