"""How much of auth's archive may the recordings of one session, user or node take?

Bytes are counted as stored, compressed. Invariants:

* Over the limit of a session or a user nothing is refused: the response to each chunk names the
  limit, and the node records less output of the session and a gap with the amount and the reason.
* A node that ignores that reaches its own limit, and has to wait.
* The use of one user or node reduces no other's limit. The user of a session is the node's claim:
  it counts in full for that node, and for other nodes up to a share.
* A limit of 0 is no limit. Use is counted by each auth process, from its start.
"""

from __future__ import annotations

from typing import Final

from attrs import define, field, frozen

from tele.auth.quotas import CHUNK_BYTES, Quota
from tele.model.identity import HostPlace
from tele.model.session import Recording

DAY: Final = 86400.0
MIB: Final = 1 << 20
#: The share of a user's limit that the recordings of one node may take for other nodes.
ELSEWHERE: Final = 0.25
#: Users that are always remembered.
USERS: Final = 10_000


@frozen
class RecordingLimits:
    """Bytes: of one session, and of a user and a node in a day."""

    session: int = 1 << 30
    user: int = 8 << 30
    node: int = int(CHUNK_BYTES.burst)

    @property
    def of_node(self) -> Quota | None:
        """The quota of a node, if it has one."""
        if not self.node:
            return None
        return Quota(CHUNK_BYTES.name, self.node, self.node / DAY, CHUNK_BYTES.unit)


@define
class _Used:
    """Bytes that count now; the limit of a day is given back evenly over a day."""

    amount: float
    since: float


@define(eq=False)
class RecordingUse:
    """The use of sessions and users. The time is an argument, in seconds."""

    limits: RecordingLimits
    #: By user, then by the host that sends.
    _users: dict[str, dict[HostPlace, _Used]] = field(factory=dict, init=False)
    #: Users after which those are forgotten whose use is given back.
    _most: int = field(default=USERS, init=False)

    def add(self, row: Recording, size: int, now: float) -> str:
        """Add ``size`` bytes to ``row``; returns which limit it is over, as a text, or nothing."""
        limits = self.limits
        if limits.user and self._used_by(row, size, now) > limits.user:
            return f"over the limit of {limits.user // MIB:,} MiB a day for one user"
        if limits.session and row.size > limits.session:
            return f"over the limit of {limits.session // MIB:,} MiB for one session"
        return ""

    def _used_by(self, row: Recording, size: int, now: float) -> float:
        """Return the use of the row's user, as it counts for the row's host."""
        hosts = self._users.setdefault(row.user, {})
        self._give_back(hosts, now)
        if len(self._users) > self._most:
            for each in self._users.values():
                self._give_back(each, now)
            # A node invents as many users as it likes.
            self._users = {u: h for u, h in self._users.items() if h or u == row.user}
            self._most = max(USERS, 2 * len(self._users))
        own = hosts.setdefault(row.recorded_by, _Used(0.0, now))
        own.amount += size
        most = self.limits.user * ELSEWHERE
        others = (min(used.amount, most) for used in hosts.values() if used is not own)
        return own.amount + sum(others)

    def _give_back(self, hosts: dict[HostPlace, _Used], now: float) -> None:
        for host, used in list(hosts.items()):
            used.amount -= (now - used.since) * self.limits.user / DAY
            used.since = now
            if used.amount <= 0:
                del hosts[host]
