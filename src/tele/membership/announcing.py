"""How does a host say that it is alive?

Invariants:

* Every 30 seconds, a little less at random; soon after a change; at once when auth answers again.
* An announcement that fails is made again sooner than the next one would be.
* None is made while they are held: a host that starts is announced when it knows what it is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from tele.errors import TeleError
from tele.loop import backoff
from tele.membership.calls import Calls, pause_after
from tele.membership.identity import MemberIdentity
from tele.model.addresses import Address
from tele.model.api.members import ANNOUNCE, Announced
from tele.model.identity import HostRole
from tele.model.presence import ANNOUNCE_PERIOD, Presence
from tele.wakeup import Wakeup

#: Changes that come together (labels of several commands) are announced together.
SOON: Final = 1.0
#: Addresses that mean all of this machine make no principal.
_UNSPECIFIED: Final = frozenset({"", "0.0.0.0", "::"})  # noqa: S104 - compared, not bound


class Announcer:
    """Announces ``presence()``.

    ``on_answer(answer, asked)`` gets auth's answers, and when it was asked by ``clock.seconds()``.
    """

    def __init__(
        self,
        clock: IReactorTime,
        calls: Calls,
        presence: Callable[[], Presence],
        dice: Callable[[], float],
        on_answer: Callable[[Announced, float], None],
    ) -> None:
        self._clock = clock
        self._calls = calls
        self._presence = presence
        self._dice = dice
        self._on_answer = on_answer
        self._wakeup = Wakeup(clock)
        self._timer: IDelayedCall | None = None
        self._is_held = False
        self._released = Wakeup(clock)
        #: How many were answered, how many failed, and when the last one was answered by
        #: ``clock.seconds()``.
        self.answered = self.failed = 0
        self.last: float | None = None

    def hold(self) -> None:
        """Make no announcement before :meth:`release`; for a host that has not started."""
        self._is_held = True

    def release(self) -> None:
        """Announce from now on. May be called twice."""
        if self._is_held:
            self._is_held = False
            self._released.set()

    def soon(self) -> None:
        """Announce within a second; the first announcement has what changes before it."""
        if self._timer is None and not self._is_held:
            self._timer = self._clock.callLater(SOON, self._wake)

    def _wake(self) -> None:
        self._timer = None
        self._wakeup.set()

    def stop(self) -> None:
        """Cancel what :meth:`soon` has begun."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def run(self) -> None:
        """Announce until cancelled."""
        period = ANNOUNCE_PERIOD.total_seconds()
        failures = 0
        if self._is_held:
            await self._released.wait()
        while True:
            try:
                asked = self._clock.seconds()
                answer = await self._calls.perform("announce", ANNOUNCE, self._presence())
                self._on_answer(answer, asked)
            except TeleError as error:
                usual = min(period, backoff(failures, 2.0, period, self._dice))
                pause = pause_after(error, usual)
                failures += 1
                self.failed += 1
            else:
                self.answered += 1
                self.last = self._clock.seconds()
                pause = period * (0.9 + 0.1 * self._dice())
                failures = 0
            await self._wakeup.wait(pause)


def hosts_of(presence: Presence) -> tuple[str, ...]:
    """Return the hosts of the addresses that are announced: for the certificates."""
    hosts = (Address.parse(address).host for address in presence.addresses)
    return tuple(dict.fromkeys(host for host in hosts if host not in _UNSPECIFIED))


def are_outdated(identity: MemberIdentity, presence: Presence, asked: frozenset[str]) -> bool:
    """Whether certificates have another name than ``presence``, or lack an address of it.

    Addresses that were ``asked`` for and that auth left out are not this host's. A proxy's
    certificates have none.
    """
    wanted = frozenset(hosts_of(presence)) if presence.role is HostRole.NODE else frozenset()
    missing = wanted - set(identity.ssh_certificate.principals)
    return presence.name != identity.host.name or (bool(missing) and wanted != asked)
