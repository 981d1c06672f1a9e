"""Which sources are refused for a while because of what they did?

OpenSSH's ``PerSourcePenalties`` (sshd_config(5) of 9.8), for a server that accepts certificates
only: a client that proved to hold a valid one gets no penalty for what its roles do not allow,
because other users behind the same address would be refused for it.

Invariants:

* Bookkeeping only: times are arguments, in seconds of any one clock; nothing is closed here.
* Penalties of one source add up, to :attr:`PenaltyRules.max`; they count from
  :attr:`PenaltyRules.min` on, so that one mistyped login refuses no client.
* Memory is bounded by :attr:`PenaltyRules.max_sources`.
* A client without an address, or with an exempt one, is never refused or remembered.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from enum import Enum
from ipaddress import ip_network
from itertools import count

from attrs import define, field, frozen

from tele.model.addresses import IPNetwork, plain_address, source_address

#: Proxies, tunnels and users of the machine itself share these addresses.
LOOPBACK: tuple[IPNetwork, ...] = (ip_network("127.0.0.0/8"), ip_network("::1/128"))


class Fault(str, Enum):
    """Why a connection that did not authenticate is held against its source."""

    #: A message of it could not be handled: it found an error of this program.
    CRASH = "crash"
    #: An authentication request was refused.
    AUTHFAIL = "authfail"
    #: It ended without an authentication request, or broke the protocol.
    NOAUTH = "noauth"
    #: It connected while its source was refused.
    REFUSECONNECTION = "refuseconnection"
    #: It had not authenticated when the login grace time was over.
    GRACE_EXCEEDED = "grace-exceeded"


class Overflow(str, Enum):
    """What to do when more sources have penalties than are remembered."""

    #: Forget the source whose penalty ends first.
    PERMISSIVE = "permissive"
    #: Refuse every source that is not exempt.
    DENY_ALL = "deny-all"


@frozen
class PenaltyRules:
    """Seconds for each fault, and bounds. Defaults are OpenSSH's, except for the sizes of networks.

    ``ipv4_bits`` and ``ipv6_bits`` are the length of the prefix that is one source.
    """

    crash: float = 90.0
    authfail: float = 5.0
    noauth: float = 1.0
    refuseconnection: float = 0.0
    grace_exceeded: float = 10.0
    max: float = 600.0
    min: float = 15.0
    max_sources: int = 65536
    overflow: Overflow = Overflow.PERMISSIVE
    ipv4_bits: int = 32
    ipv6_bits: int = 64
    exempt: tuple[IPNetwork, ...] = LOOPBACK

    def seconds(self, fault: Fault) -> float:
        """Return how much ``fault`` adds."""
        return {
            Fault.CRASH: self.crash,
            Fault.AUTHFAIL: self.authfail,
            Fault.NOAUTH: self.noauth,
            Fault.REFUSECONNECTION: self.refuseconnection,
            Fault.GRACE_EXCEEDED: self.grace_exceeded,
        }[fault]

    def source(self, host: str) -> IPNetwork | None:
        """Return the source of ``host``; None if it has no address or is exempt."""
        address, plain = source_address(host), plain_address(host)
        if address is None or any(plain in network for network in self.exempt):
            return None
        bits = self.ipv4_bits if address.version == 4 else self.ipv6_bits
        return ip_network((address, bits), strict=False)


@frozen
class _Penalty:
    """Until when, and whether it counts yet. ``why`` is the last fault."""

    until: float
    counts: bool
    why: Fault


@define
class Penalties:
    """The penalties of one listening server."""

    rules: PenaltyRules = field(factory=PenaltyRules)
    _of: dict[IPNetwork, _Penalty] = field(factory=dict, init=False)
    #: When each may end, soonest first. A penalty that was extended has several entries, of which
    #: the last one counts. The number in the middle keeps networks from being compared.
    _ends: list[tuple[float, int, IPNetwork]] = field(factory=list, init=False)
    _serial: Iterator[int] = field(factory=count, init=False)

    def __len__(self) -> int:
        return len(self._of)

    def refuses(self, host: str, now: float) -> Fault | None:
        """Return the fault for which ``host`` is refused at ``now``; None if it is not."""
        source = self.rules.source(host)
        if source is None:
            return None
        penalty = self._of.get(source)
        if penalty is None or penalty.until <= now:
            return self._refuses_all(now)
        if not penalty.counts:
            return None
        if self.rules.refuseconnection:
            self.penalize(host, Fault.REFUSECONNECTION, now)
        return penalty.why

    def _refuses_all(self, now: float) -> Fault | None:
        if self.rules.overflow is Overflow.PERMISSIVE or len(self._of) < self.rules.max_sources:
            return None
        self._expire(now)
        return Fault.REFUSECONNECTION if len(self._of) >= self.rules.max_sources else None

    def penalize(self, host: str, fault: Fault, now: float) -> bool:
        """Add the penalty of ``fault`` to ``host``. True: it is refused from now on."""
        rules = self.rules
        source, seconds = rules.source(host), rules.seconds(fault)
        if source is None or seconds <= 0:
            return False
        self._expire(now)
        before = self._of.get(source)
        if before is None and len(self._of) >= rules.max_sources:
            if rules.overflow is Overflow.DENY_ALL:
                return False
            self._forget_next()
        until = min((now if before is None else before.until) + seconds, now + rules.max)
        counted = before is not None and before.counts
        counts = counted or until - now >= rules.min
        self._of[source] = _Penalty(until, counts, fault)
        self._note(source, until)
        return counts and not counted

    # -- forgetting -------------------------------------------------------------------
    def _note(self, source: IPNetwork, until: float) -> None:
        heapq.heappush(self._ends, (until, next(self._serial), source))
        if len(self._ends) > 2 * len(self._of) + 16:
            self._ends = [(p.until, next(self._serial), s) for s, p in self._of.items()]
            heapq.heapify(self._ends)

    def _expire(self, now: float) -> None:
        while self._ends and self._ends[0][0] <= now:
            self._pop()

    def _forget_next(self) -> None:
        """Forget the source whose penalty ends first."""
        while not self._pop():
            pass

    def _pop(self) -> bool:
        """Take the next entry; False if that penalty was extended since."""
        until, _, source = heapq.heappop(self._ends)
        penalty = self._of.get(source)
        if penalty is None or penalty.until != until:
            return False
        del self._of[source]
        return True
