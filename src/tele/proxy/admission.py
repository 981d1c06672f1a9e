"""How many connections that are not SSH may there be, of one source and in all?

SSH connections are counted by :mod:`tele.conch.server.connection_admission` until they have
logged in. What is not decided yet, TLS for the proxy's own pages and what is passed on to auth is
counted here.

Invariants:

* Every connection is counted until it ends, and has a deadline until it has proved something;
  bytes do not move the deadline.
* ``pending`` and ``relays`` are counted apart: strangers cannot end what auth has answered.
* How often one source begins TLS is bounded, too: a handshake costs more than its bytes.
* An address is known to be shared by members in the same way as for SSH (``is_member_source``),
  and has the same larger share.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

from attrs import define, field, frozen
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from tele.admission.limits import STARTUPS_PER_MEMBER, STARTUPS_PER_SOURCE, Limits
from tele.admission.places import Places
from tele.admission.rate_limiter import RateLimiter
from tele.model.addresses import source_network

#: Connections that are undecided, in a TLS handshake, or about our own pages.
PENDING_LIMIT: Final = 2000
#: The same of one source: a crowd that comes at one moment is accepted before its first bytes are
#: read, and those tell.
PENDING_PER_SOURCE: Final = 512
#: Connections to auth that auth has answered, in all and of one source. A node that is dialled
#: directly keeps about three: two watches and one for its calls.
RELAYS_LIMIT: Final = 65536
RELAYS_PER_SOURCE: Final = 4096
#: TLS connections that one source may begin in one go, and how many more each second: each of
#: them costs signatures, here or at auth.
TLS_BURST: Final = 500
TLS_PER_SECOND: Final = 50


class Gate(Protocol):
    """Knows the addresses of members, and counts who is refused."""

    def is_member_source(self, host: str) -> bool:
        """Whether members of the cluster come from this address."""

    def refused(self, host: str, why: str) -> None:
        """A connection was closed for want of room."""


@frozen
class AdmissionLimits:
    """``per_source`` is for both kinds a source's share; ``home_weight`` times as much belongs
    to an address from which members come.
    """

    pending: int = PENDING_LIMIT
    pending_per_source: int = PENDING_PER_SOURCE
    relays: int = RELAYS_LIMIT
    relays_per_source: int = RELAYS_PER_SOURCE
    tls_burst: int = TLS_BURST
    tls_per_second: int = TLS_PER_SECOND
    home_weight: int = STARTUPS_PER_MEMBER // STARTUPS_PER_SOURCE


def limits_for(limits: Limits, descriptors: int) -> AdmissionLimits:
    """Return the bounds of a process that may have so many descriptors open.

    A quarter of them at most is for strangers, and a quarter for relays, which need two each.
    """
    pending, relays = min(PENDING_LIMIT, descriptors // 4), min(RELAYS_LIMIT, descriptors // 8)
    return AdmissionLimits(
        pending=pending,
        pending_per_source=min(PENDING_PER_SOURCE, max(1, pending // 4)),
        relays=relays,
        relays_per_source=min(RELAYS_PER_SOURCE, relays),
        home_weight=max(1, limits.startups_per_member // limits.startups_per_source),
    )


class Admission:
    """Counts the connections of one port. ``gate`` is the door of its SSH server."""

    def __init__(self, clock: IReactorTime, gate: Gate, limits: AdmissionLimits) -> None:
        self.clock = clock
        self.limits = limits
        self.pending: Places[Slot] = Places(limits.pending, limits.pending_per_source, True)
        self.relays: Places[Slot] = Places(limits.relays, limits.relays_per_source, False)
        self._gate = gate
        # A connection of a home takes one of what is counted, a stranger's so many of them.
        weight = limits.home_weight
        self._tls = RateLimiter(limits.tls_burst * weight, limits.tls_per_second * weight)

    def enter(self, host: str | None, abort: Callable[[], None]) -> Slot:
        """Count a new connection from ``host``; None: a balancer has yet to say from where.

        ``abort()`` ends it. One that has been undecided for longer may have to go for it.
        """
        slot = Slot(self, abort, host)
        self.take(self.pending, slot)
        return slot

    def begins_tls(self, slot: Slot) -> bool:
        """Whether a connection may begin TLS now; if not, it is refused and has ended."""
        host = slot.host or ""
        amount = 1 if self._gate.is_member_source(host) else self.limits.home_weight
        if self._tls.take(source_network(host), self.clock.seconds(), amount):
            return True
        self._gate.refused(host, "too_many")
        slot.end()
        return False

    def take(self, places: Places[Slot], slot: Slot) -> bool:
        """Count ``slot`` among ``places``; False if there is no room."""
        host = slot.host
        if host is None:  # whoever may connect to us then is no stranger: it is the balancer
            leaves = places.enter(slot, "", places.total)
        else:
            weight = self.limits.home_weight if self._gate.is_member_source(host) else 1
            leaves = places.enter(slot, source_network(host), weight)
        if leaves is not None:
            self._gate.refused(leaves.host or "", "too_many")
            leaves.end()
        return leaves is not slot


@define(eq=False)
class Slot:
    """The place of one connection, and the deadline of the state that it is in."""

    _admission: Admission
    _abort: Callable[[], None]
    host: str | None
    _timer: IDelayedCall | None = field(default=None, init=False)
    _left: bool = field(default=False, init=False)

    def within(self, seconds: float, late: Callable[[], None] | None = None) -> None:
        """End the connection (or call ``late``) in so many seconds, whatever is received."""
        self._stop()
        if not self._left:
            self._timer = self._admission.clock.callLater(seconds, self._late, late or self.end)

    def timed_elsewhere(self) -> None:
        """Whoever speaks on the connection now has deadlines of its own."""
        self._stop()

    def _late(self, late: Callable[[], None]) -> None:
        self._timer = None
        late()

    def came_from(self, host: str) -> None:
        """The balancer said where the connection comes from."""
        admission = self._admission
        admission.pending.leave(self)
        self.host = host
        admission.take(admission.pending, self)

    def prove(self) -> None:
        """Auth has answered: there is no deadline any more, and it counts as a relay."""
        admission = self._admission
        self._stop()
        admission.pending.leave(self)
        admission.take(admission.relays, self)

    def leave(self) -> None:
        """The connection is gone, or somebody else counts it. May be called twice."""
        self._left = True
        self._stop()
        self._admission.pending.leave(self)
        self._admission.relays.leave(self)

    def end(self) -> None:
        """End the connection."""
        if not self._left:
            self.leave()
            self._abort()

    def _stop(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()
