"""Who may rotate the cluster's CAs, and what is in the audit of it?

Invariants:

* A phase begins for all CAs of a request or for none, in the commit that appends its events.
* An automatic rotation never begins a phase that something holds up.
* What holds it up is named in the refusal; with ``force`` it is in the event.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from attrs import evolve
from twisted.internet.interfaces import IReactorTime

from tele.auth.authorities import Authorities
from tele.auth.handlers import Handler, handler
from tele.auth.journal import LOCAL, Journal
from tele.auth.members import Members
from tele.auth.presence import Hosts
from tele.auth.rotation import RotationGate
from tele.auth.successions import away_of
from tele.certs.rotation import TABLE
from tele.certs.suites import SignatureSuite
from tele.errors import Conflict, InvalidInput
from tele.log import make_logger
from tele.loop import now
from tele.model.api import authorities as api
from tele.model.api import table
from tele.model.api.operation import Nothing
from tele.model.cluster_settings import HostCertificates
from tele.model.codec import format_duration
from tele.model.identity import Caller
from tele.model.rotation import CaRotation, Hold, Phase, RotatingCa
from tele.rbac.revoking import LONGEST_CERTIFICATE

#: Those that an error names.
NAMED: Final = 5
#: A third of the time is a phase's; two of them are as long as a certificate of a user.
SHORTEST_GRACE: Final = LONGEST_CERTIFICATE * 3 / 2
LONGEST_GRACE: Final = timedelta(days=90)
#: For which part of the grace time an automatic phase waits for those who hold it up.
PATIENCE: Final = 1 / 6

log = make_logger(__name__)


class RotatingOperations:
    """Operations on the rotation of CAs."""

    def __init__(
        self,
        clock: IReactorTime,
        authorities: Authorities,
        hosts: Hosts,
        rules: Callable[[], HostCertificates],
        members: Members,
        journal: Journal,
    ) -> None:
        self._clock = clock
        self._authorities = authorities
        self._rules = rules
        self._gate = RotationGate(clock, authorities, hosts, rules)
        self._members = members
        self._journal = journal

    def handlers(self) -> tuple[Handler, ...]:
        """The rows of the table."""
        return (handler(table.ROTATION, self.rotation), handler(table.ROTATE, self.rotate))

    async def rotation(self, request: Nothing, caller: Caller) -> api.Rotations:
        """Return the phase of each CA, what holds the next one up, and what members have."""
        found = await self._gate.look()
        ends = await self._members.ends([(host.role, host.id) for host in found.hosts])
        hosts = tuple(evolve(host, expires=ends.get(host.id)) for host in found.hosts)
        return evolve(found, hosts=hosts)

    async def rotate(self, request: api.Rotate, caller: Caller) -> api.Rotations:
        """Begin a phase, unless something holds it up."""
        if request.grace is not None:
            _check_grace(request.phase, request.grace)
        cas = self._meant(request)
        if request.compromised:
            _check_compromised(request.phase, cas)
        if request.phase is Phase.INIT:
            self._check_suite(cas, force=request.force)
        moment = now(self._clock)
        changes = self._authorities.step(
            cas, request.phase, moment, request.grace, compromised=request.compromised,
            away=away_of(self._rules()),
        )  # fmt: skip
        looked = await self._gate.look(compromised=request.compromised)
        before = {item.ca: item for item in looked.items}
        held = {ca: _holds(before[ca], request.phase) for ca in cas}
        names = _names(held)
        if names and not request.force:
            raise Conflict(_refusal(request.phase, held))
        events = [
            self._journal.event(
                "ca.rotate", caller, ca=ca.value, phase=request.phase.value,
                before=before[ca].phase.value, forced=bool(names), held_by=names[:NAMED],
                **({"compromised": True} if request.compromised else {}),
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

    def _check_suite(self, cas: Sequence[RotatingCa], *, force: bool) -> None:
        """Raise :class:`Conflict` if hosts that are online could not verify the new keys."""
        suites = {self._authorities.next_suite(ca) for ca in cas if not ca.is_tls}
        if SignatureSuite.MLDSA44_ED25519 not in suites or force:
            return
        if unable := self._gate.unable():
            more = len(unable) - NAMED
            named = ", ".join(unable[:NAMED]) + (f" and {more} more" if more > 0 else "")
            raise Conflict(
                f"{named} cannot verify keys of the suite mldsa44-ed25519: upgrade tele and"
                " cryptography there, and OpenSSH to 10.4 on machines with sshd, which auth cannot"
                " see; with --force the rotation begins all the same"
            )

    # -- automatic rotations ------------------------------------------------------------
    @property
    def has_automatic(self) -> bool:
        """Whether a CA rotates by itself."""
        rotations = (self._authorities[ca.kind].stored.rotation(ca) for ca in RotatingCa)
        return any(r is not None and r.automatic is not None for r in rotations)

    async def advance(self) -> None:
        """Begin the phases that are due of automatic rotations.

        One that is held up is tried again, and hosts that are offline are waited for, too. After
        :data:`PATIENCE` of its time these are left behind; if something still holds it up, the
        rotation becomes a manual one, with an event.
        """
        moment = now(self._clock)
        due: dict[Phase, list[RotatingCa]] = {}
        for ca in RotatingCa:
            rotation = self._authorities[ca.kind].stored.rotation(ca)
            at = None if rotation is None else rotation.automatic
            if rotation is not None and at is not None and moment >= at:
                due.setdefault(_following(rotation.phase), []).append(ca)
        for phase, cas in due.items():
            await self._advance(phase, cas, moment)

    async def _advance(self, phase: Phase, cas: list[RotatingCa], moment: datetime) -> None:
        found = {item.ca: item for item in (await self._gate.look()).items}
        held = {ca: _holds(found[ca], phase) for ca in cas}
        rotations = {ca: self._authorities[ca.kind].stored.rotation(ca) for ca in cas}
        first = next((r for r in rotations.values() if r is not None and r.grace is not None), None)
        if first is None or first.grace is None or first.automatic is None:
            return  # it has become a manual one meanwhile
        waits = moment < first.automatic + first.grace * PATIENCE
        if waits and (any(held.values()) or _awaited(found, phase, cas)):
            return
        if not any(held.values()):
            changes = self._authorities.step(
                cas, phase, moment, first.grace, away=away_of(self._rules())
            )
            fields: dict[str, Any] = {"automatic": True}
        else:
            changes = self._authorities.made_manual(cas)
            fields = {
                "ok": False, "error": _refusal(phase, held), "automatic": False,
                "held_by": _names(held)[:NAMED],
            }  # fmt: skip
        events = [
            self._journal.event(
                "ca.rotate", LOCAL, ca=ca.value, phase=phase.value, before=found[ca].phase.value,
                **fields,
            )
            for ca in cas
        ]  # fmt: skip
        try:
            await self._journal.append(*events, changes={events[0].id: changes})
        except Conflict:
            log.debug("another auth has begun the phase", phase=phase.value)
        await self._authorities.refresh()

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


def _names(held: Mapping[RotatingCa, Sequence[Hold]]) -> list[str]:
    return list(dict.fromkeys(hold.what for holds in held.values() for hold in holds))


def _awaited(
    found: Mapping[RotatingCa, CaRotation], phase: Phase, cas: Sequence[RotatingCa]
) -> bool:
    """Whether a host that is offline lacks what the present phase needs of it."""
    return any(each.notices for ca in cas for each in found[ca].next if each.phase is phase)


def _following(phase: Phase) -> Phase:
    """Return the phase that an automatic rotation begins after ``phase``."""
    return next(each for each in TABLE[phase].following if each is not Phase.ROLLBACK)


def _check_compromised(phase: Phase, cas: Sequence[RotatingCa]) -> None:
    if RotatingCa.TLS_HOST not in cas:
        raise InvalidInput(
            "compromised: it is about the old key of the tls-host CA, which is not among"
            f" {', '.join(ca.value for ca in cas)}"
        )
    if phase is Phase.ROLLBACK:
        raise InvalidInput("compromised: a rollback keeps the old key; go on with the new one")


def _check_grace(phase: Phase, grace: timedelta) -> None:
    if phase is not Phase.INIT:
        raise InvalidInput(f"grace: an automatic rotation begins with init, not {phase.value}")
    if not SHORTEST_GRACE <= grace <= LONGEST_GRACE:
        raise InvalidInput(
            f"grace: it has to be {format_duration(SHORTEST_GRACE)} to"
            f" {format_duration(LONGEST_GRACE)}: users' certificates are valid for"
            f" {format_duration(LONGEST_CERTIFICATE)}, which is waited for twice"
        )


def _refusal(phase: Phase, held: Mapping[RotatingCa, Sequence[Hold]]) -> str:
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
