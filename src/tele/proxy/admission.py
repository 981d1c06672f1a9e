"""How many connections that are not SSH may there be, of one source and in all?

:mod:`tele.conch.server.connection_admission` counts SSH connections that are not authenticated.
Undecided connections, TLS for the proxy's own pages and TLS relayed to auth are counted here.

Invariants:

* Every connection is counted until it ends, and has a deadline that received bytes do not move.
* ``pending`` and ``relays`` are counted apart: unauthenticated clients cannot end a relay that auth
  has answered.
* The rate of TLS handshakes of one source is bounded: a handshake costs more than its bytes.
* Sources of members are the same as for SSH (``is_member_source``), and have the same larger share.
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

#: Connections that are undecided, in a TLS handshake, or for our own pages.
PENDING_LIMIT: Final = 2000
#: The same of one source: connections that arrive at one moment are accepted before the first bytes
#: of any are read.
PENDING_PER_SOURCE: Final = 512
#: Connections to auth that auth has answered, in all and of one source. A node that is dialled
#: directly keeps about three: two watches and one for its calls.
RELAYS_LIMIT: Final = 65536
RELAYS_PER_SOURCE: Final = 4096
#: TLS handshakes of one source: burst, and rate per second. Each costs signatures, here or at auth.
TLS_BURST: Final = 500
TLS_PER_SECOND: Final = 50


class SourceAdmission(Protocol):
    """The admission of the SSH server: sources of members, and refused connections."""

    def is_member_source(self, host: str) -> bool:
        """Whether members of the cluster connect from this address."""

    def refused(self, host: str, why: str) -> None:
        """Count a connection that was refused."""


@frozen
class AdmissionLimits:
    """``member_weight``: a source of members has so many times the share of another source."""

    pending: int = PENDING_LIMIT
    pending_per_source: int = PENDING_PER_SOURCE
    relays: int = RELAYS_LIMIT
    relays_per_source: int = RELAYS_PER_SOURCE
    tls_burst: int = TLS_BURST
    tls_per_second: int = TLS_PER_SECOND
    member_weight: int = STARTUPS_PER_MEMBER // STARTUPS_PER_SOURCE


def limits_for(limits: Limits, descriptors: int) -> AdmissionLimits:
    """Return the bounds for a process that may have so many descriptors open.

    At most a quarter is for pending connections, and a quarter for relays, which need two each.
    """
    pending, relays = min(PENDING_LIMIT, descriptors // 4), min(RELAYS_LIMIT, descriptors // 8)
    return AdmissionLimits(
        pending=pending,
        pending_per_source=min(PENDING_PER_SOURCE, max(1, pending // 4)),
        relays=relays,
        relays_per_source=min(RELAYS_PER_SOURCE, relays),
        member_weight=max(1, limits.startups_per_member // limits.startups_per_source),
    )


class PortAdmission:
    """Counts the connections of one port. ``sources`` is the admission of its SSH server."""

    def __init__(
        self, clock: IReactorTime, sources: SourceAdmission, limits: AdmissionLimits
    ) -> None:
        self.clock = clock
        self.limits = limits
        self.pending: Places[Slot] = Places(limits.pending, limits.pending_per_source, True)
        self.relays: Places[Slot] = Places(limits.relays, limits.relays_per_source, False)
        self._sources = sources
        # A handshake takes 1 from a source of members, and ``weight`` from another.
        weight = limits.member_weight
        self._tls = RateLimiter(limits.tls_burst * weight, limits.tls_per_second * weight)

    def add(self, host: str | None, abort: Callable[[], None]) -> Slot:
        """Count a new connection from ``host``; None: the load balancer's header is not read yet.

        ``abort()`` closes it. The oldest pending connection may be closed for it.
        """
        slot = Slot(self, abort, host)
        self.take(self.pending, slot)
        return slot

    def admit_tls(self, slot: Slot) -> bool:
        """Whether a connection may begin TLS now; if not, it is refused and closed."""
        host = slot.host or ""
        amount = 1 if self._sources.is_member_source(host) else self.limits.member_weight
        if self._tls.take(source_network(host), self.clock.seconds(), amount):
            return True
        self._sources.refused(host, "too_many")
        slot.end()
        return False

    def take(self, places: Places[Slot], slot: Slot) -> bool:
        """Count ``slot`` among ``places``; False if it was refused."""
        host = slot.host
        if host is None:  # the peer is the load balancer
            leaves = places.enter(slot, "", places.total)
        else:
            weight = self.limits.member_weight if self._sources.is_member_source(host) else 1
            leaves = places.enter(slot, source_network(host), weight)
        if leaves is not None:
            self._sources.refused(leaves.host or "", "too_many")
            leaves.end()
        return leaves is not slot


@define(eq=False)
class Slot:
    """The place of one connection, and its deadline."""

    _admission: PortAdmission
    _abort: Callable[[], None]
    host: str | None
    _timer: IDelayedCall | None = field(default=None, init=False)
    _released: bool = field(default=False, init=False)

    def set_deadline(self, seconds: float, late: Callable[[], None] | None = None) -> None:
        """Close the connection (or call ``late``) in so many seconds, whatever is received."""
        self._stop()
        if not self._released:
            self._timer = self._admission.clock.callLater(seconds, self._expired, late or self.end)

    def clear_deadline(self) -> None:
        """The protocol of the connection has deadlines of its own."""
        self._stop()

    def _expired(self, late: Callable[[], None]) -> None:
        self._timer = None
        late()

    def set_source(self, host: str) -> None:
        """The load balancer's header names the source."""
        admission = self._admission
        admission.pending.leave(self)
        self.host = host
        admission.take(admission.pending, self)

    def answered(self) -> None:
        """Auth has answered: clear the deadline, and count the connection as a relay."""
        admission = self._admission
        self._stop()
        admission.pending.leave(self)
        admission.take(admission.relays, self)

    def release(self) -> None:
        """The connection is gone, or counted elsewhere. May be called twice."""
        self._released = True
        self._stop()
        self._admission.pending.leave(self)
        self._admission.relays.leave(self)

    def end(self) -> None:
        """Close the connection."""
        if not self._released:
            self.release()
            self._abort()

    def _stop(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()
