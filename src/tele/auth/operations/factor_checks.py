"""Is the second factor of one who has shown the right password there, and good?

Invariants:

* Every refusal is an event, and one that asks for the second factor is, too: it tells that a client
  has the password.
* A second factor that is not asked for is not looked at.
"""

from __future__ import annotations

from typing import Final

from attrs import frozen

from tele.auth.guessing import Outcome
from tele.auth.journal import Journal
from tele.auth.passwords import Attempt
from tele.auth.second_factors import Need, SecondFactors
from tele.errors import AccessDenied, SecondFactorNeeded, SecondFactorUnset
from tele.model.identity import Caller
from tele.model.second_factors import SecondFactor

#: The outcome of a code that is not accepted, for the audit.
REASONS: Final = {
    Outcome.UNKNOWN: "unknown user",
    Outcome.WRONG: "wrong second factor",
    Outcome.LAST: "wrong second factor; this source has to wait now",
    Outcome.LAST_OF_ALL: "wrong second factor; all unknown sources have to wait now",
    Outcome.LOCKED_OUT: "this source has to wait after too many wrong second factors",
    Outcome.ALL_LOCKED_OUT: "unknown sources have to wait after too many wrong second factors",
}


@frozen
class Shown:
    """How a second factor was shown: ``totp``, ``webauthn`` or ``recovery``; empty: not at all."""

    how: str = ""
    device: str = ""
    left: int = 0

    @property
    def fields(self) -> dict[str, object]:
        """What an event says of it."""
        if not self.how:
            return {}
        named: dict[str, object] = {"second_factor": self.how}
        if self.device:
            named["device"] = self.device
        else:
            named["recovery_codes_left"] = self.left
        return named


class FactorChecks:
    """Checks second factors after passwords."""

    def __init__(self, factors: SecondFactors, journal: Journal) -> None:
        self._factors = factors
        self._journal = journal

    async def require(
        self, user: str, factor: SecondFactor | None, caller: Caller, attempt: Attempt, event: str,
        *, setup: bool = False,
    ) -> Shown:  # fmt: skip
        """Return how ``user`` showed the second factor that this needs.

        ``event`` is what a refusal is an event of. With ``setup`` one that is not set up is not
        needed. Raises :class:`SecondFactorNeeded`, :class:`SecondFactorUnset`, and
        :class:`AccessDenied` for a wrong one.
        """
        need = await self._factors.need(user)
        if need is Need.NOTHING or (need is Need.SETUP and setup):
            return Shown()
        if need is Need.SETUP:
            await self._refused(event, user, caller, "no second factor is set up")
            raise SecondFactorUnset(
                "this cluster requires a second factor, and none is set up for this user: ask an"
                " administrator for an invitation (tele users reset NAME --invite)"
            )
        if factor is None:
            await self._journal.emit("mfa.challenge", caller, user=user, operation=event)
            raise SecondFactorNeeded(
                "a second factor is needed: the code of the authenticator app, or a recovery code"
                " (tele login --otp CODE); a security key is used in a browser",
                await self._factors.challenge(user),
            )
        tried = await self._factors.check(user, factor, attempt)
        if tried.outcome is Outcome.GOOD:
            return Shown(tried.how, tried.device, tried.left)
        await self._refused(event, user, caller, REASONS[tried.outcome])
        if tried.outcome in (Outcome.LAST, Outcome.LAST_OF_ALL):
            of_all = tried.outcome is Outcome.LAST_OF_ALL
            source = f"device {attempt.device}" if attempt.device else attempt.source
            await self._journal.emit(
                "user.locked_out", caller, user=user, ok=False, second_factor=True,
                source="all unknown sources" if of_all else source,
            )  # fmt: skip
        raise AccessDenied(
            "the code is wrong, was used before, or there were too many wrong ones: wait for the"
            " next code, or try again later",
            "mfa",
        )

    async def _refused(self, event: str, user: str, caller: Caller, error: str) -> None:
        suppressed = self._journal.admit_denial(caller)
        if suppressed is not None:
            await self._journal.emit(event, caller, user=user, ok=False, error=error, **suppressed)
