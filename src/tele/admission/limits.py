"""What may a peer cost before and after it has authenticated?

Invariants:

* Every bound on an unauthenticated client is a field of :class:`Limits`.
* Bookkeeping only: nothing here closes a connection.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from math import inf
from typing import Final

from attrs import Factory, define, evolve, field, frozen

from tele.admission.penalties import PenaltyRules
from tele.admission.rate_limiter import RateLimiter
from tele.model.addresses import source_network

STARTUPS: Final = (100, 30, 400)
#: The same of a proxy, to which a whole fleet reconnects at once after a restart. So many logins
#: take a few seconds, less than their clients wait, and some 30 MiB.
PROXY_STARTUPS: Final = (250, 30, 1000)
#: Unauthenticated connections of one source.
STARTUPS_PER_SOURCE: Final = 60
#: The same of an address from which members of the cluster logged in: many nodes may be
#: behind it. Alone it does not fill a proxy so far that others are refused.
STARTUPS_PER_MEMBER: Final = 240
#: Connections that wait for a start-up place of their source, in total and of one source. Each
#: costs some kilobytes and no key exchange.
WAITING: Final = 1024
WAITING_PER_SOURCE: Final = 512


@frozen
class Limits:
    """Bounds of one listening server. Times are seconds, sizes bytes.

    ``startups`` is (begin, percent, full) as of OpenSSH's MaxStartups: from ``begin``
    unauthenticated connections on, a new one is refused with a probability that grows from
    ``percent`` to 100 at ``full``. The first connection of a source is refused from ``full`` on
    only, so that a few sources with many connections do not shut out the others. An
    unauthenticated connection costs kilobytes here, not a process, so that a tool may log in to
    fifty nodes at once through one proxy. One source alone never reaches the point where others
    are refused.
    """

    login_grace: float = 30.0
    #: Signed requests, and requests with methods that are not supported.
    attempts: int = 6
    #: Queries: ``none``, and unsigned certificates, whose own signature is verified.
    queries: int = 20
    #: Keys without a certificate and certificates of other clusters, signed or not. Refusing
    #: one verifies no signature, and an agent may offer dozens before the right one.
    foreign_keys: int = 128
    startups: tuple[int, int, int] = STARTUPS
    startups_per_source: int = STARTUPS_PER_SOURCE
    startups_per_member: int = STARTUPS_PER_MEMBER
    #: Connections that wait for a place of their source: in total, and of one source.
    waiting: int = WAITING
    waiting_per_source: int = WAITING_PER_SOURCE
    packets_before_auth: int = 192
    packet_before_auth: int = 35000
    #: How long a peer may take to read what is sent before the connection is closed.
    linger: float = 5.0
    rekey_octets: int = 1 << 30
    rekey_packets: int = 1 << 31
    rekey_seconds: float = 3600.0
    #: A keepalive request is sent after so much silence; 0 sends none. An avatar may have an
    #: interval of its own, see :mod:`tele.conch.transport.keepalive`.
    keepalive_interval: float = 15.0
    #: Unanswered keepalive requests after which, an interval later, the connection is closed.
    keepalive_misses: int = 3
    #: Packets that wait for the end of a key exchange, in bytes.
    waiting_octets: int = 16 << 20
    #: Replies that wait for the peer to read them, in bytes: with more, nothing is read from it
    #: until it has read them all. More than the channels of a connection send at once.
    unread_octets: int = 1 << 20
    penalties: PenaltyRules = Factory(PenaltyRules)


def fitted(limits: Limits, descriptors: int) -> Limits:
    """Return ``limits`` under which unauthenticated connections hold at most ``descriptors``.

    Proportions stay: one source alone never reaches the point where others are refused.
    """
    begin, percent, full = limits.startups
    full = min(full, descriptors)
    begin = min(begin, full // 2)
    return evolve(
        limits,
        startups=(begin, percent, full),
        waiting=min(limits.waiting, descriptors - full),
        startups_per_source=min(limits.startups_per_source, max(1, begin * 3 // 5)),
        startups_per_member=min(limits.startups_per_member, max(1, full * 3 // 5)),
    )


@define
class Startups:
    """Counts unauthenticated connections. ``draw`` returns a random number in [0, 1)."""

    limits: Limits
    draw: Callable[[], float]
    _by_source: Counter[str] = field(factory=Counter, init=False)
    _count: int = field(default=0, init=False)

    def enter(self, host: str, member: bool = False) -> str | None:
        """Count a connection from ``host``; None if it is refused.

        Pass the result to :meth:`leave` once, when it has authenticated or is closed.
        ``member``: members of the cluster connect from there, and its share is larger.
        """
        source = source_network(host)
        held = self._by_source.get(source, 0)
        if self.uses_all(source, member) or self._refuses(alone=not held):
            return None
        self._by_source[source] = held + 1
        self._count += 1
        return source

    def uses_all(self, source: str, member: bool = False) -> bool:
        """Whether a source holds all its places."""
        limits = self.limits
        share = limits.startups_per_member if member else limits.startups_per_source
        return self._by_source.get(source, 0) >= share

    def may_refuse(self, source: str, member: bool = False) -> bool:
        """Whether one more of a source that holds places could be refused."""
        crowded = self._count >= self.limits.startups[0] and self.held(source) > 0
        return crowded or self.uses_all(source, member)

    def leave(self, source: str) -> None:
        """Count one connection from ``source`` less."""
        self._count -= 1
        self._by_source[source] -= 1
        if not self._by_source[source]:
            del self._by_source[source]

    def is_full_for(self, host: str) -> bool:
        """Whether all places are taken, none of them by the source of ``host``."""
        full = self.limits.startups[2]
        return self._count >= full and not self.held(source_network(host))

    def held(self, source: str) -> int:
        """Return how many places a source holds."""
        return self._by_source.get(source, 0)

    @property
    def most(self) -> int:
        """The largest number of places that one source holds."""
        return max(self._by_source.values(), default=0)

    def _refuses(self, alone: bool) -> bool:
        begin, percent, full = self.limits.startups
        if self._count >= full:
            return True
        if self._count < begin or alone:
            return False
        chance = percent + (100 - percent) * (self._count - begin) / (full - begin)
        return self.draw() * 100 < chance


#: A key exchange after this many bytes is never delayed; after fewer it uses up its part.
EARNED_OCTETS: Final = 64 * 1024
#: Key exchanges that one source may start at once regardless of bytes, and how many per second.
REKEY_BURST: Final = 50
REKEY_PER_SECOND: Final = 100


@define
class RekeyPace:
    """Limits the rate of key exchanges that peers start after few bytes.

    An exchange costs signatures; bytes cost next to nothing. OpenSSH with a small ``RekeyLimit``
    starts one after each packet, as it may, so no connection is closed for it: a peer that
    exchanges keys faster than this is delayed, together with all connections of its source.
    """

    _rates: RateLimiter = field(
        factory=lambda: RateLimiter(REKEY_BURST, REKEY_PER_SECOND), init=False
    )

    def wait(self, source: str, octets: int, now: float) -> float:
        """Return for how many seconds an exchange has to wait that a peer starts ``octets`` bytes
        after the one before.
        """
        cost = 1.0 - octets / EARNED_OCTETS
        if cost <= 0:
            return 0.0
        return self._rates.wait(source, now, cost, longest=inf) or 0.0
