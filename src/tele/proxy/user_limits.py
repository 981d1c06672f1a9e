"""How much of a proxy may one person use, over all their connections?

Invariants:

* Bookkeeping only: times are arguments, and nothing is closed here.
* A person's limits are below the machine's: whoever uses up theirs leaves the rest to others.
* What is remembered of a person who has no connection is what they have used up of what comes
  back with time, and is bounded.
"""

from __future__ import annotations

from typing import Final

from attrs import define, field, frozen

from tele.admission.rate_limiter import RateLimiter
from tele.conch.connection.windows import WindowBudget
from tele.errors import AccessDenied, Unavailable, quoted

#: Connections of one person, and channels on all of them: ways to nodes, open or being opened. So
#: many fill a quarter of one node's tunnel (:data:`tele.tunnel.relayed_channels.CHANNELS_LIMIT`).
CONNECTIONS_LIMIT: Final = 1000
CHANNELS_LIMIT: Final = 1024
#: Bytes that the windows of all these channels may have together: so much may wait for somebody who
#: does not read. With more, a new one gets 64 KiB.
WINDOWS_LIMIT: Final = 512 * 1024 * 1024
#: Decisions on nodes that one person may cause in one go, and how many more each second. A node
#: that is asked for by name is one; labels cost one for each node that has the rarest of them.
DECISIONS_BURST: Final = 10_000
DECISIONS_PER_SECOND: Final = 100


@frozen
class PersonLimits:
    """What one person may have at once."""

    connections: int = CONNECTIONS_LIMIT
    channels: int = CHANNELS_LIMIT


def person_limits(descriptors: int) -> PersonLimits:
    """Return them for a process that may have so many descriptors open.

    A connection is one, and so is a channel to a node that is dialled directly: a quarter of all
    at most, for one person.
    """
    share = max(1, descriptors // 8)
    return PersonLimits(min(CONNECTIONS_LIMIT, share), min(CHANNELS_LIMIT, share))


@define
class _Person:
    channels: int = 0
    windows: WindowBudget = field(factory=lambda: WindowBudget(WINDOWS_LIMIT))
    #: Channels of each connection.
    connections: dict[object, int] = field(factory=dict)


@define
class People:
    """Counts what people use. A connection is any object that stays the same."""

    limits: PersonLimits = field(factory=PersonLimits)
    _of: dict[str, _Person] = field(factory=dict, init=False)
    _decisions: RateLimiter = field(
        factory=lambda: RateLimiter(DECISIONS_BURST, DECISIONS_PER_SECOND),
        init=False,
    )

    def __len__(self) -> int:
        return len(self._of)

    def enter(self, user: str, connection: object) -> None:
        """Count a connection. Raises :class:`AccessDenied` if it is one too many."""
        person = self._of.setdefault(user, _Person())
        if len(person.connections) >= self.limits.connections:
            raise AccessDenied(
                f"{quoted(user)} has {self.limits.connections} connections to this proxy, which"
                " is as many as one person may: close some",
                "too_many",
            )
        person.connections[connection] = 0

    def leave(self, user: str, connection: object) -> None:
        """A connection is gone. It may have left before."""
        person = self._of.get(user)
        if person is not None and connection in person.connections:
            person.channels -= person.connections.pop(connection)
            if not person.connections:
                del self._of[user]

    def has_channels(self, user: str, connection: object, count: int) -> None:
        """A connection that has entered has so many channels now."""
        person = self._of.get(user)
        if person is not None and connection in person.connections:
            person.channels += count - person.connections[connection]
            person.connections[connection] = count

    def window_budget(self, user: str) -> WindowBudget:
        """Return what the windows of ``user`` may have; they have a connection."""
        return self._of[user].windows

    def may_open(self, user: str) -> str:
        """Say why ``user`` may not open another channel, or nothing."""
        person = self._of.get(user)
        if person is not None and person.channels >= self.limits.channels:
            return (
                f"{quoted(user)} has {self.limits.channels} ways through this proxy, over all"
                " connections, which is as many as one person may: close some"
            )
        return ""

    def decides(self, user: str, now: float) -> None:
        """Count a decision on a node for ``user``. Raises :class:`Unavailable`: it is too many."""
        if not self._decisions.take(user, now):
            raise Unavailable(
                "you have asked this proxy for too many nodes: wait a few seconds, and name"
                " nodes by name or id, or by labels that fewer nodes have"
            )
