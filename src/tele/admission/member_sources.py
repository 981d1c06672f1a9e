"""From which addresses do members of the cluster connect?

A hundred nodes behind one NAT address are one address to a server. A login with a host
certificate proves that members use the address: after a restart all of them may connect at once,
and one node whose certificate has expired does not shut out the others.

Invariants:

* Only a login with a valid host certificate adds an address.
* Memory is bounded, and an address that no member has used for a day is forgotten.
* Bookkeeping only: times are arguments, in seconds of any one clock.
"""

from __future__ import annotations

from typing import Final

from attrs import define, field

from tele.model.addresses import source_network

MEMBER_SOURCES_LIMIT: Final = 65536
MEMBER_SOURCE_SECONDS: Final = 86400.0


@define
class MemberSources:
    """The addresses of members, the one used last at the end."""

    most: int = MEMBER_SOURCES_LIMIT
    _used: dict[str, float] = field(factory=dict, init=False)

    def __len__(self) -> int:
        return len(self._used)

    def note(self, host: str, now: float) -> None:
        """A member has logged in from ``host``."""
        source = source_network(host)
        self._used.pop(source, None)
        while len(self._used) >= self.most:
            del self._used[next(iter(self._used))]
        self._used[source] = now

    def has(self, host: str, now: float) -> bool:
        """Whether a member has logged in from ``host`` within a day."""
        source = source_network(host)
        used = self._used.get(source)
        if used is None:
            return False
        if now - used < MEMBER_SOURCE_SECONDS:
            return True
        del self._used[source]
        return False
