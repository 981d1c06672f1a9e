"""When are a host's certificates to be renewed?

Invariants:

* No renewal is missed, however the clock is set: it is due when its date comes, and also when as
  much time has passed as there was until then.
* However short a life auth gives, or however wrong the clock: never more than one a second, and
  fewer and fewer if each new certificate is due at once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from twisted.internet.task import deferLater

from tele.loop import Expiry, backoff
from tele.membership.identity import MemberIdentity
from tele.wakeup import Wakeup

RENEW_AT: Final = 2 / 3
#: Hosts that joined together do not renew together; in parts of the certificate's life.
RENEW_JITTER: Final = 0.05
#: The longest wait for a date: clocks are set, which is noticed, and machines sleep.
LOOK_AGAIN: Final = 60.0
#: The longest pause between renewals of which each is due at once.
HASTY_SECONDS: Final = 600.0


class RenewalTimer:
    """Waits until certificates are to be renewed. ``outdated()`` is asked at each look."""

    def __init__(
        self, reactor: Any, dice: Callable[[], float], outdated: Callable[[], bool]
    ) -> None:
        self._reactor = reactor
        self._dice = dice
        self._outdated = outdated
        self._wakeup = Wakeup(reactor)
        self._last: MemberIdentity | None = None
        self._hasty = 0
        #: Whether auth does not take our certificate although it is good by our clock.
        self.unwelcome = False

    def look(self) -> None:
        """Something has changed: look at once."""
        self._wakeup.set()

    def refused(self) -> None:
        """Auth does not take the certificate: do not wait for its end by our clock."""
        self.unwelcome = True
        self.look()

    async def wait(self, identity: MemberIdentity) -> None:
        """Return when the certificates of ``identity`` are to be renewed."""
        due = Expiry(
            self._reactor, identity.renew_at(RENEW_AT + RENEW_JITTER * (self._dice() - 0.5))
        )
        again = identity is not self._last and due.left <= 0
        self._last, self._hasty = identity, self._hasty + 1 if again else 0
        while not (self.unwelcome or self._outdated()) and due.left > 0:
            await self._wakeup.wait(min(due.left, LOOK_AGAIN))
        doubled = backoff(max(self._hasty - 2, 0), 1.0, HASTY_SECONDS, lambda: 1.0)
        await deferLater(self._reactor, doubled if self._hasty > 1 else 1.0)
