"""When are a host's certificates to be renewed?

Invariants:

* No renewal is missed, however the clock is set: it is due when its date comes, and also when as
  much time has passed as there was until then.
* Certificates of a key that signs no more, or that last longer than the cluster allows now, are
  renewed within :data:`SPREAD_SECONDS`, by each host at another moment.
* However short a life auth gives, or however wrong the clock: never more than one a second, and
  fewer and fewer if each new certificate is due at once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

from tele.loop import Expiry, backoff
from tele.membership.identity import MemberIdentity
from tele.wakeup import Wakeup

RENEW_AT: Final = 2 / 3
#: Hosts that joined together do not renew together; in parts of the certificate's life.
RENEW_JITTER: Final = 0.05
#: The longest wait for a date: clocks are set, which is noticed, and machines sleep.
CHECK_SECONDS: Final = 60.0
#: How long hosts take to renew when another key signs: they learn of it at the same moment.
SPREAD_SECONDS: Final = 20.0
#: The longest pause between renewals of which each is due at once.
AT_ONCE_SECONDS: Final = 600.0


class RenewalTimer:
    """Waits until certificates are to be renewed.

    ``is_outdated()`` and ``is_superseded()`` (the key that signed them signs no more, or they last
    too long) are asked at each check.
    """

    def __init__(
        self,
        clock: IReactorTime,
        dice: Callable[[], float],
        is_outdated: Callable[[], bool],
        is_superseded: Callable[[], bool] = lambda: False,
    ) -> None:
        self._clock = clock
        self._dice = dice
        self._is_outdated = is_outdated
        self._is_superseded = is_superseded
        self._wakeup = Wakeup(clock)
        self._last: MemberIdentity | None = None
        self._at_once = 0
        #: Whether auth refuses the certificate although it is valid by our clock.
        self.is_refused = False

    def check(self) -> None:
        """Something has changed: check at once."""
        self._wakeup.set()

    def refused(self) -> None:
        """Auth refuses the certificate: do not wait for its end by our clock."""
        self.is_refused = True
        self.check()

    async def wait(self, identity: MemberIdentity) -> None:
        """Return when the certificates of ``identity`` are to be renewed."""
        due = Expiry(self._clock, identity.renew_at(RENEW_AT + RENEW_JITTER * (self._dice() - 0.5)))
        again = identity is not self._last and due.left <= 0
        self._last, self._at_once = identity, self._at_once + 1 if again else 0
        superseded_at: float | None = None
        share = SPREAD_SECONDS * self._dice()
        while not (self.is_refused or self._is_outdated()) and due.left > 0:
            left = min(due.left, CHECK_SECONDS)
            if not self._is_superseded():
                superseded_at = None
            else:
                moment = self._clock.seconds()
                superseded_at = moment if superseded_at is None else superseded_at
                left = min(left, superseded_at + share - moment)
                if left <= 0:
                    break
            await self._wakeup.wait(left)
        doubled = backoff(max(self._at_once - 2, 0), 1.0, AT_ONCE_SECONDS, lambda: 1.0)
        await deferLater(self._clock, doubled if self._at_once > 1 else 1.0)
