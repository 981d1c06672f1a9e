"""How much of a proxy may one user use, over all connections?

Invariants:

* Bookkeeping only: times are arguments, and nothing is closed here.
* The limits of a user are below those of the machine: what one user uses up is left to others.
* Of a user without connections only the rate of decisions is remembered, and that is bounded.
"""

from __future__ import annotations

from typing import Final

from attrs import define, field, frozen

from tele.admission.rate_limiter import RateLimiter
from tele.conch.connection.windows import WindowBudget
from tele.errors import AccessDenied, Unavailable, quoted

#: Connections of one user, and channels on all of them, open or being opened. So many fill a
#: quarter of one node's tunnel (:data:`tele.tunnel.relayed_channels.CHANNELS_LIMIT`).
CONNECTIONS_LIMIT: Final = 1000
CHANNELS_LIMIT: Final = 1024
#: Bytes of the windows of all these channels together: so much may wait for a client that does not
#: read. Above it, a new channel gets 64 KiB.
WINDOWS_LIMIT: Final = 512 * 1024 * 1024
#: Decisions on nodes of one user: burst, and rate per second. A lookup by name is one decision, a
#: lookup by labels one for each node that has the rarest of them.
DECISIONS_BURST: Final = 10_000
DECISIONS_PER_SECOND: Final = 100


@frozen
class UserLimits:
    """What one user may have at once."""

    connections: int = CONNECTIONS_LIMIT
    channels: int = CHANNELS_LIMIT


def user_limits(descriptors: int) -> UserLimits:
    """Return the limits for a process that may have so many descriptors open.

    A connection is one, and so is a channel to a node that is dialled directly: one user may have a
    quarter of all.
    """
    share = max(1, descriptors // 8)
    return UserLimits(min(CONNECTIONS_LIMIT, share), min(CHANNELS_LIMIT, share))


@define
class _Usage:
    channels: int = 0
    windows: WindowBudget = field(factory=lambda: WindowBudget(WINDOWS_LIMIT))
    #: Channels of each connection.
    connections: dict[object, int] = field(factory=dict)


@define
class UserUsage:
    """Counts what each user uses. A connection is any object that stays the same."""

    limits: UserLimits = field(factory=UserLimits)
    _by_user: dict[str, _Usage] = field(factory=dict, init=False)
    _decisions: RateLimiter = field(
        factory=lambda: RateLimiter(DECISIONS_BURST, DECISIONS_PER_SECOND),
        init=False,
    )

    def __len__(self) -> int:
        return len(self._by_user)

    def add_connection(self, user: str, connection: object) -> WindowBudget:
        """Count a connection, and return what the windows of ``user`` may have together.

        Raises :class:`AccessDenied` if it is one too many.
        """
        usage = self._by_user.setdefault(user, _Usage())
        if len(usage.connections) >= self.limits.connections:
            raise AccessDenied(
                f"{quoted(user)} has {self.limits.connections} connections to this proxy, the"
                " maximum for one user: close some",
                "too_many",
            )
        usage.connections[connection] = 0
        return usage.windows

    def remove_connection(self, user: str, connection: object) -> None:
        """A connection is gone. May be called twice."""
        usage = self._by_user.get(user)
        if usage is not None and connection in usage.connections:
            usage.channels -= usage.connections.pop(connection)
            if not usage.connections:
                del self._by_user[user]

    def set_channels(self, user: str, connection: object, count: int) -> None:
        """A connection that was added has so many channels now."""
        usage = self._by_user.get(user)
        if usage is not None and connection in usage.connections:
            usage.channels += count - usage.connections[connection]
            usage.connections[connection] = count

    def may_open(self, user: str) -> str:
        """Return why ``user`` may not open another channel, or nothing."""
        usage = self._by_user.get(user)
        if usage is not None and usage.channels >= self.limits.channels:
            return (
                f"{quoted(user)} has {self.limits.channels} channels through this proxy, over all"
                " connections, the maximum for one user: close some"
            )
        return ""

    def count_decision(self, user: str, now: float) -> None:
        """Count a decision on a node for ``user``. Raises :class:`Unavailable`: too many."""
        if not self._decisions.take(user, now):
            raise Unavailable(
                "too many nodes requested from this proxy: wait a few seconds, and name nodes by"
                " name or id, or by labels that fewer nodes have"
            )
