"""Who may rotate the cluster's CAs, and what is in the audit of it?

Invariants:

* A phase begins for all CAs of a request or for none, in the commit that appends its events.
* What holds it up is named in the refusal; with ``force`` it is in the event.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from twisted.internet.interfaces import IReactorTime

from tele.auth.authorities import Authorities
from tele.auth.handlers import Handler, handler
from tele.auth.journal import Journal
from tele.auth.rotation import RotationGate
from tele.errors import Conflict, InvalidInput
from tele.loop import now
from tele.model.api import authorities as api
from tele.model.api import table
from tele.model.api.operation import Nothing
from tele.model.identity import Caller
from tele.model.rotation import CaRotation, Hold, Phase, RotatingCa

#: Those that an error names.
NAMED: Final = 5


class RotatingOperations:
    """Operations on the rotation of CAs."""

    def __init__(
        self,
        clock: IReactorTime,
        authorities: Authorities,
        gate: RotationGate,
        journal: Journal,
    ) -> None:
        self._clock = clock
        self._authorities = authorities
        self._gate = gate
        self._journal = journal

    def handlers(self) -> tuple[Handler, ...]:
        """The rows of the table."""
        return (handler(table.ROTATION, self.rotation), handler(table.ROTATE, self.rotate))

    async def rotation(self, request: Nothing, caller: Caller) -> api.Rotations:
        """Return the phase of each CA, and what holds the next one up."""
        return await self._gate.look()

    async def rotate(self, request: api.Rotate, caller: Caller) -> api.Rotations:
        """Begin a phase, unless something holds it up."""
        cas = self._meant(request)
        moment = now(self._clock)
        changes = self._authorities.step(cas, request.phase, moment)
        before = {item.ca: item for item in (await self._gate.look()).items}
        held = {ca: _holds(before[ca], request.phase) for ca in cas}
        names = list(dict.fromkeys(hold.what for holds in held.values() for hold in holds))
        if names and not request.force:
            raise Conflict(_refusal(request.phase, held))
        events = [
            self._journal.event(
                "ca.rotate", caller, ca=ca.value, phase=request.phase.value,
                before=before[ca].phase.value, forced=bool(names), held_by=names[:NAMED],
            )
            for ca in cas
        ]  # fmt: skip
        try:
            await self._journal.append(*events, changes={events[0].id: changes})
        except Conflict:
            raise Conflict(
                "the CAs have changed meanwhile; see tele ca status, and try again"
            ) from None
        finally:
            await self._authorities.refresh()
        return await self._gate.look()

    def _meant(self, request: api.Rotate) -> Sequence[RotatingCa]:
        if request.cas:
            return tuple(dict.fromkeys(request.cas))
        if request.phase is Phase.INIT:
            return tuple(RotatingCa)
        rotating = tuple(ca for ca in RotatingCa if self._gate.phase(ca) is not Phase.STANDBY)
        if not rotating:
            raise InvalidInput("no CA rotates: a rotation begins with phase init")
        return rotating


def _holds(before: CaRotation, phase: Phase) -> Sequence[Hold]:
    return next((each.holds for each in before.next if each.phase is phase), ())


def _refusal(phase: Phase, held: dict[RotatingCa, Sequence[Hold]]) -> str:
    reasons: dict[str, str] = {}
    for holds in held.values():
        for hold in holds:
            reasons.setdefault(hold.what, hold.reason)
    named = "; ".join(f"{what}: {reason}" for what, reason in list(reasons.items())[:NAMED])
    more = len(reasons) - NAMED
    return (
        f"phase {phase.value} is held up by {named}{f'; and {more} more' if more > 0 else ''}."
        " tele ca status --rotation shows it; with --force the phase begins all the same"
    )
