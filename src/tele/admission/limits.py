"""How much may a peer cost us before, and after, we know who it is?

Invariants:

* Every bound that a stranger can run into is a field of :class:`Limits`.
* Counting is bookkeeping: nothing here closes a connection, it says that one should be.
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
#: Those of a proxy, to which a whole fleet comes back at once after it was restarted. So many
#: logins take a few seconds, less than their clients wait, and some 30 MiB.
PROXY_STARTUPS: Final = (250, 30, 1000)
#: Connections of one source that have not logged in yet.
STARTUPS_PER_SOURCE: Final = 60
#: The same of an address from which members of the cluster logged in: many nodes may be
#: behind it. Alone it does not bring a proxy to where others are refused either.
STARTUPS_PER_HOME: Final = 240
#: Connections that wait until their source has a place, in all and of one source. They cost some
#: kilobytes each, and no key exchange.
WAITING: Final = 1024
WAITING_PER_SOURCE: Final = 512


@frozen
class Limits:
    """Bounds of one listening server. Times are seconds, sizes bytes.

    ``startups``: like OpenSSH's MaxStartups, (begin, percent, full): from ``begin``
    connections that have not logged in yet, a new one is refused with a probability that
    grows from ``percent`` to 100 at ``full``; the first one of a source only from ``full`` on,
    so that a few sources with many connections do not keep out those who come alone. A stranger
    costs kilobytes here, not a process, so that there is room for a tool that logs in to fifty
    nodes at once through one proxy; and one source alone never comes to where others are refused.
    """

    login_grace: float = 30.0
    #: Signed requests, and requests with methods that we do not have.
    attempts: int = 6
    #: Questions: ``none``, and unsigned certificates, whose own signature is verified.
    queries: int = 20
    #: Keys without a certificate, and certificates of other clusters, signed or not. To refuse
    #: one costs no signature, and an agent may hold dozens before the right one.
    foreign_keys: int = 128
    startups: tuple[int, int, int] = STARTUPS
    startups_per_source: int = STARTUPS_PER_SOURCE
    startups_per_home: int = STARTUPS_PER_HOME
    #: Who finds the places of their source taken waits: so many in all, and of one source.
    waiting: int = WAITING
    waiting_per_source: int = WAITING_PER_SOURCE
    packets_before_auth: int = 192
    packet_before_auth: int = 35000
    #: How long a peer may take to read our last words.
    linger: float = 5.0
    rekey_octets: int = 1 << 30
    rekey_packets: int = 1 << 31
    rekey_seconds: float = 3600.0
    #: After so much silence the peer is asked whether it is there; 0 asks nothing. For hosts:
    #: an avatar may have an interval of its own, see :mod:`tele.conch.transport.keepalive`.
    keepalive_interval: float = 15.0
    #: Questions without any answer after which, an interval later, the peer counts as gone.
    keepalive_misses: int = 3
    #: Packets that wait for the end of a key exchange, in bytes.
    waiting_octets: int = 16 << 20
    #: Answers that wait for a peer to read them, in bytes: with more, it is not read from
    #: until it has read them all. More than the channels of a connection send in one go.
    unread_octets: int = 1 << 20
    penalties: PenaltyRules = Factory(PenaltyRules)


def fitted(limits: Limits, descriptors: int) -> Limits:
    """Return ``limits`` such that connections that have not logged in hold no more than so many.

    They keep their proportions: one source alone never comes to where others are refused.
    """
    begin, percent, full = limits.startups
    full = min(full, descriptors)
    begin = min(begin, full // 2)
    return evolve(
        limits,
        startups=(begin, percent, full),
        waiting=min(limits.waiting, descriptors - full),
        startups_per_source=min(limits.startups_per_source, max(1, begin * 3 // 5)),
        startups_per_home=min(limits.startups_per_home, max(1, full * 3 // 5)),
    )


@define
class Startups:
    """Connections that have not logged in yet. ``draw`` returns a random number in [0, 1)."""

    limits: Limits
    draw: Callable[[], float]
    _by_source: Counter[str] = field(factory=Counter, init=False)
    _count: int = field(default=0, init=False)

    def enter(self, host: str, home: bool = False) -> str | None:
        """Take in a connection from ``host``; None if it is refused.

        What it returns is what :meth:`leave` needs, once, when it has logged in or is gone.
        ``home``: members come from there, and its share is larger.
        """
        source = source_network(host)
        held = self._by_source.get(source, 0)
        if self.uses_all(source, home) or self._refuses(alone=not held):
            return None
        self._by_source[source] = held + 1
        self._count += 1
        return source

    def uses_all(self, source: str, home: bool = False) -> bool:
        """Whether a source has all its places."""
        limits = self.limits
        share = limits.startups_per_home if home else limits.startups_per_source
        return self._by_source.get(source, 0) >= share

    def may_refuse(self, source: str, home: bool = False) -> bool:
        """Whether one more of a source that has places already could be refused."""
        crowded = self._count >= self.limits.startups[0] and self.held(source) > 0
        return crowded or self.uses_all(source, home)

    def leave(self, source: str) -> None:
        """One connection from ``source`` does not count any more."""
        self._count -= 1
        self._by_source[source] -= 1
        if not self._by_source[source]:
            del self._by_source[source]

    def is_full_for(self, host: str) -> bool:
        """Whether all places are taken and ``host`` has none of them."""
        full = self.limits.startups[2]
        return self._count >= full and not self.held(source_network(host))

    def held(self, source: str) -> int:
        """Return how many places a source has."""
        return self._by_source.get(source, 0)

    @property
    def most(self) -> int:
        """How many places the source has that has most."""
        return max(self._by_source.values(), default=0)

    def _refuses(self, alone: bool) -> bool:
        begin, percent, full = self.limits.startups
        if self._count >= full:
            return True
        if self._count < begin or alone:
            return False
        chance = percent + (100 - percent) * (self._count - begin) / (full - begin)
        return self.draw() * 100 < chance


#: A key exchange after this many bytes is welcome at any rate; after fewer it costs its part.
EARNED_OCTETS: Final = 64 * 1024
#: Key exchanges that one source may start without having earned them, and how fast it may again.
REKEY_BURST: Final = 50
REKEY_PER_SECOND: Final = 100


@define
class RekeyPace:
    """How fast the key exchanges of peers are done that move little between two of them.

    An exchange costs signatures, bytes cost next to nothing. OpenSSH with a small ``RekeyLimit``
    starts one after each packet, which is its right, so nobody is cut off for it: whoever
    exchanges keys faster than this waits, and all connections of a source wait together.
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
