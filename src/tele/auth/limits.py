"""How much may the recordings of one session, user or node take of auth's archive?

Bytes are as stored, which is compressed. Invariants:

* Over the limit of a session or a user nothing is refused: the node is told with each chunk,
  records no more output of the session for a while, and says in a gap how much is missing and why.
* A node that does not heed that has a limit of its own, over which it has to wait.
* What one user or node used up is missing to nobody else. Whose session it is is the node's claim:
  what one node says of a user counts in full for that node, and elsewhere up to a share only.
* A limit of 0 is none. What was used is counted by each auth, and anew when it starts.
"""

from __future__ import annotations

from typing import Final

from attrs import define, field, frozen

from tele.auth.quotas import CHUNK_BYTES, Quota
from tele.model.session import Recording

DAY: Final = 86400.0
MIB: Final = 1 << 20
#: What one node says that a user recorded there counts up to this part of the limit elsewhere.
ELSEWHERE: Final = 0.25


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
    #: By user, then by the id of the node that says so.
    _users: dict[str, dict[str, _Used]] = field(factory=dict, init=False)

    def add(self, row: Recording, size: int, now: float) -> str:
        """``row`` got ``size`` bytes more; returns which limit it is over, in words, or nothing."""
        limits = self.limits
        if limits.user and self._used_by(row, size, now) > limits.user:
            return f"over the limit of {limits.user // MIB:,} MiB a day for one user"
        if limits.session and row.size > limits.session:
            return f"over the limit of {limits.session // MIB:,} MiB for one session"
        return ""

    def _used_by(self, row: Recording, size: int, now: float) -> float:
        """Return what counts of the user's recordings for the node of this one."""
        nodes = self._users.setdefault(row.user, {})
        for node_id, used in list(nodes.items()):
            used.amount -= (now - used.since) * self.limits.user / DAY
            used.since = now
            if used.amount <= 0:
                del nodes[node_id]
        own = nodes.setdefault(row.node_id, _Used(0.0, now))
        own.amount += size
        most = self.limits.user * ELSEWHERE
        others = (min(used.amount, most) for used in nodes.values() if used is not own)
        return own.amount + sum(others)
