"""How does a host say that it is alive?

Invariants:

* Every 30 seconds, a little less at random; soon after a change; at once when auth is back.
* An announcement that fails is made again sooner than the next one would be.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from tele.errors import TeleError
from tele.loop import backoff
from tele.membership.calls import Calls, pause_after
from tele.membership.identity import MemberIdentity
from tele.membership.wakeup import Wakeup
from tele.model.addresses import split_address
from tele.model.api.members import ANNOUNCE, Announced
from tele.model.identity import HostRole
from tele.model.presence import ANNOUNCE_PERIOD, Presence

#: Changes that come together (labels of several commands) are announced together.
SOON: Final = 1.0
#: Addresses that mean any or this machine make no principal.
_NOBODYS: Final = frozenset({"", "0.0.0.0", "::"})  # noqa: S104 - compared, not bound


class Announcer:
    """Announces what ``presence()`` says.

    ``heard(answer, asked)`` gets auth's answers, and when it was asked by ``reactor.seconds()``.
    """

    def __init__(
        self,
        reactor: Any,
        calls: Calls,
        presence: Callable[[], Presence],
        dice: Callable[[], float],
        heard: Callable[[Announced, float], None],
    ) -> None:
        self._reactor = reactor
        self._calls = calls
        self._presence = presence
        self._dice = dice
        self._heard = heard
        self._bell = Wakeup(reactor)
        self._timer: Any = None

    def soon(self) -> None:
        """Announce within a second."""
        if self._timer is None:
            self._timer = self._reactor.callLater(SOON, self._ring)

    def _ring(self) -> None:
        self._timer = None
        self._bell.ring()

    def stop(self) -> None:
        """Leave no timer behind."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def run(self) -> None:
        """Announce until cancelled."""
        period = ANNOUNCE_PERIOD.total_seconds()
        failures = 0
        while True:
            try:
                asked = self._reactor.seconds()
                answer = await self._calls.perform("announce", ANNOUNCE, self._presence())
                self._heard(answer, asked)
            except TeleError as error:
                usual = min(period, backoff(failures, 2.0, period, self._dice))
                pause = pause_after(error, usual)
                failures += 1
            else:
                pause = period * (0.9 + 0.1 * self._dice())
                failures = 0
            await self._bell.wait(pause)


def hosts_of(said: Presence) -> tuple[str, ...]:
    """Return the hosts of the addresses that are announced: for the certificates."""
    hosts = (split_address(address)[0] for address in said.addresses)
    return tuple(dict.fromkeys(host for host in hosts if host not in _NOBODYS))


def are_outdated(identity: MemberIdentity, said: Presence, asked: frozenset[str]) -> bool:
    """Whether certificates are for another name than is ``said``, or miss an address of it.

    Those that were ``asked`` for and that auth has left out are not this host's; a proxy's
    certificates have none.
    """
    wanted = frozenset(hosts_of(said)) if said.role is HostRole.NODE else frozenset()
    missing = wanted - set(identity.ssh_certificate.principals)
    return said.name != identity.host.name or (bool(missing) and wanted != asked)
