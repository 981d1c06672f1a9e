"""When hosts renew because another key of the CA signs."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from attrs import frozen
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from tele.loop import now
from tele.membership.renewal import SPREAD_SECONDS, RenewalTimer


@frozen
class Identity:
    """All that the timer asks of one: it is due in a day."""

    clock: Clock

    def renew_at(self, fraction: float) -> Any:
        return now(self.clock) + timedelta(days=1)


class Waiting:
    """A host that waits for its renewal; ``share`` is what its dice show."""

    def __init__(self, share: float) -> None:
        self.clock, self.superseded = Clock(), False
        self.clock.advance(1_800_000_000)
        self.timer = RenewalTimer(self.clock, lambda: share, lambda: False, lambda: self.superseded)
        self.done: list[Any] = []
        identity: Any = Identity(self.clock)
        Deferred.fromCoroutine(self.timer.wait(identity)).addBoth(self.done.append)

    def another_key_signs(self) -> None:
        self.superseded = True
        self.timer.check()

    def after(self, seconds: float) -> bool:
        """Whether it has renewed after so many seconds more."""
        for _ in range(round(seconds)):
            self.clock.advance(1)
        return bool(self.done)


@pytest.mark.parametrize("share", [0.0, 0.25, 0.99])
def test_each_host_renews_at_a_moment_of_its_own(share: float) -> None:
    """All learn at once that another key signs; within the spread all have renewed."""
    host = Waiting(share)
    assert not host.after(600)
    host.another_key_signs()
    assert host.after(share * SPREAD_SECONDS - 1) is False
    assert host.after(3)


def test_a_rollback_before_the_renewal_calls_it_off() -> None:
    """The certificate is of the key that signs again."""
    host = Waiting(0.9)
    host.another_key_signs()
    assert not host.after(5)
    host.superseded = False
    host.timer.check()
    assert not host.after(600)
    host.another_key_signs()
    assert not host.after(0.9 * SPREAD_SECONDS - 2)
    assert host.after(4)
