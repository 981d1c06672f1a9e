"""May the next phase of a rotation begin? By what hosts have reported, and what users can have.

Invariants:

* A phase is held up by each online host that lacks what the present phase needs of it, by each that
  cannot report, and by users whose certificates, or known_hosts, are of before.
* A rollback is never held up: the old key is trusted in every phase.
* A host that was not seen for so long that auth forgot it (a week) is not listed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timedelta
from typing import Final

from attrs import evolve, frozen
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

from tele.auth.authorities import Authorities, StoredRotation
from tele.auth.presence import Hosts
from tele.certs.keys import fingerprint, parse_line
from tele.certs.rotation import CERTIFYING, TABLE, Facts, facts_wanted, read_facts
from tele.loop import now
from tele.model.api.authorities import Rotations
from tele.model.authority import AuthorityKind
from tele.model.cluster_settings import HostCertificates
from tele.model.codec import format_time
from tele.model.identity import HostRole
from tele.model.presence import Host, Status
from tele.model.recording_modes import COMPOSITE_KEYS
from tele.model.rotation import CaRotation, Hold, HostRotation, NextPhase, Phase, RotatingCa
from tele.model.scalars import format_duration
from tele.rbac.revoking import LONGEST_CERTIFICATE

#: What an answer lists; further ones are counted.
HOLDS_SHOWN: Final = 50
HOSTS_SHOWN: Final = 1000
#: Hosts that are looked at in one turn of the reactor.
STEP: Final = 500
#: Phases in which auth's own certificate is of the new key, if it was not rolled back.
_SIGNED_BY_NEW: Final = (Phase.UPDATE_SERVERS, Phase.STANDBY)
_OLD_VERSION: Final = "it does not report its keys: upgrade it"
#: A text of an announcement stands for one set of facts, of which a fleet has few.
_TEXTS_LIMIT: Final = 1000


@frozen
class _Surveyed:
    """A host, and what it lacks by CA."""

    host: Host
    behind: Mapping[RotatingCa, str]


class RotationGate:
    """Compares what hosts have announced with what the present keys need of them."""

    def __init__(
        self,
        clock: IReactorTime,
        authorities: Authorities,
        hosts: Hosts,
        rules: Callable[[], HostCertificates],
    ) -> None:
        self._rules = rules
        self._clock = clock
        self._authorities = authorities
        self._hosts = hosts

    def phase(self, ca: RotatingCa) -> Phase:
        """Return the present phase of a CA."""
        rotation = self._authorities[ca.kind].stored.rotation(ca)
        return Phase.STANDBY if rotation is None else rotation.phase

    def unable(self) -> tuple[str, ...]:
        """Return the names of hosts that are online and cannot verify composite keys."""
        return tuple(
            host.name
            for role in (HostRole.PROXY, HostRole.NODE)
            for host in self._hosts.all(role)
            if host.status is Status.ONLINE
            and (host.sshd or COMPOSITE_KEYS not in self._hosts.features(role, host.id))
        )

    async def look(self, *, compromised: bool = False) -> Rotations:
        """Return the phase of each CA, what holds the next ones up, and what hosts have.

        If the old key is ``compromised``, hosts that were away do not trust auth by it.
        """
        surveyed = await self._survey()
        moment = now(self._clock)
        items = tuple(
            self._show(ca, surveyed, moment, compromised=compromised) for ca in RotatingCa
        )
        rows = [
            HostRotation(
                s.host.id, s.host.name, s.host.role, s.host.status,
                tuple(dict.fromkeys(text for text in s.behind.values() if text)),
                self._hosts.clock_ahead(s.host.role, s.host.id),
            )
            for s in surveyed
            if not s.host.sshd
        ]  # fmt: skip
        rows.sort(key=lambda row: not row.behind)
        return Rotations(items, tuple(rows[:HOSTS_SHOWN]))

    async def _survey(self) -> list[_Surveyed]:
        wanted = facts_wanted(self._authorities.trusted)
        known: dict[str, Mapping[RotatingCa, str]] = {}
        surveyed = []
        for role in (HostRole.PROXY, HostRole.NODE):
            for number, host in enumerate(self._hosts.all(role)):
                if number % STEP == STEP - 1:
                    await deferLater(self._clock, 0)
                behind = known.get(host.rotation)
                if behind is None:
                    behind = _behind(host.rotation, wanted)
                    if len(known) < _TEXTS_LIMIT:
                        known[host.rotation] = behind
                surveyed.append(_Surveyed(host, behind))
        return surveyed

    def _show(
        self, ca: RotatingCa, surveyed: list[_Surveyed], moment: datetime, *, compromised: bool
    ) -> CaRotation:
        authority = self._authorities[ca.kind]
        rotation = authority.stored.rotation(ca)
        if rotation is not None and compromised:
            rotation = evolve(rotation, compromised=True)
        trusted = authority.trusted
        keys = (
            trusted.pins
            if ca.is_tls
            else tuple(fingerprint(parse_line(line)) for line in trusted.ssh_public_keys)
        )
        present = self.phase(ca)
        limit = self._rules().rejoin_limit
        following = tuple(
            _next_phase(ca, rotation, each, surveyed, moment, limit)
            for each in TABLE[present].following
        )
        started = None if rotation is None else rotation.started
        since = None if rotation is None else rotation.since
        automatic = None if rotation is None else rotation.automatic
        return CaRotation(ca, present, keys[0], keys, following, started, since, automatic)


def _behind(text: str, wanted: Facts) -> Mapping[RotatingCa, str]:
    facts = read_facts(text)
    if facts is None:
        return dict.fromkeys(RotatingCa, _OLD_VERSION)
    return {ca: facts.behind(wanted, ca) for ca in RotatingCa}


def _next_phase(
    ca: RotatingCa,
    rotation: StoredRotation | None,
    following: Phase,
    surveyed: list[_Surveyed],
    moment: datetime,
    limit: timedelta,
) -> NextPhase:
    if rotation is None or following is Phase.ROLLBACK:
        return NextPhase(following)
    holds = list(_of_users(ca, rotation, following, moment))
    notices: list[Hold] = []
    for each in surveyed:
        hold = _of_host(ca, rotation, following, each, limit)
        if hold is None:
            continue
        waits = each.host.status is Status.ONLINE or each.host.sshd
        loses = _is_lost(ca, rotation, following)
        (holds if waits or loses else notices).append(hold)
    more = max(0, len(holds) - HOLDS_SHOWN)
    return NextPhase(following, tuple(holds[:HOLDS_SHOWN]), more, tuple(notices[:HOLDS_SHOWN]))


def _of_users(
    ca: RotatingCa, rotation: StoredRotation, following: Phase, moment: datetime
) -> Iterator[Hold]:
    """Yield what users lack who have not logged in again."""
    if ca.kind is AuthorityKind.HOST:
        since = rotation.started if following is Phase.UPDATE_SERVERS else None
        reason = "who logged in before {since} may not know the new key until {until}"
        cost = "their clients refuse the cluster's hosts until they log in again"
    else:
        since = None
        if following is Phase.STANDBY and rotation.signed is not None:
            rolled_back = rotation.phase is Phase.ROLLBACK
            since = rotation.since if rolled_back else rotation.signed
        reason = "with certificates from before {since}, which are valid until {until} at most"
        cost = "these certificates are refused; the users log in again"
    until = None if since is None else since + LONGEST_CERTIFICATE
    if since is not None and until is not None and moment < until:
        text = reason.format(since=format_time(since), until=format_time(until))
        yield Hold("users", text, cost)


def _of_host(
    ca: RotatingCa,
    rotation: StoredRotation,
    following: Phase,
    each: _Surveyed,
    limit: timedelta,
) -> Hold | None:
    host = each.host
    if host.sshd:
        return _of_sshd(ca, rotation, following, host)
    if not (reason := each.behind[ca]):
        return None
    if host.status is Status.OFFLINE:
        reason = f"it is offline since {format_time(host.last_seen)}: {reason}"
    if _is_lost(ca, rotation, following):
        cost = "it and auth refuse each other: it has to join again, with a new token"
    elif following is not Phase.STANDBY:
        cost = "it may refuse certificates of the new key until it has read the present state"
    elif ca is RotatingCa.TLS_HOST:
        cost = f"without a token it reconnects only within {format_duration(limit)}"
    elif ca in CERTIFYING:
        cost = "it is refused by clients until it has reached auth and renewed its certificate"
    else:
        cost = "it trusts the dropped key until it has read the present state"
    return Hold(host.name, reason, cost)


def _is_lost(ca: RotatingCa, rotation: StoredRotation, following: Phase) -> bool:
    """Whether a host that is behind and offline does not come back by itself."""
    by_new = following in _SIGNED_BY_NEW and rotation.phase is not Phase.ROLLBACK
    return ca is RotatingCa.TLS_HOST and rotation.compromised and by_new


def _of_sshd(ca: RotatingCa, rotation: StoredRotation, following: Phase, host: Host) -> Hold | None:
    reason = "it runs OpenSSH's sshd, which reports nothing: its operator updates it"
    if ca is RotatingCa.USER and following is Phase.UPDATE_CLIENTS:
        return Hold(
            host.name, reason,
            "it refuses users until its TrustedUserCAKeys has both keys"
            " (tele ca export --type user)",
        )  # fmt: skip
    certified_by_new = rotation.phase is Phase.UPDATE_SERVERS
    if ca is RotatingCa.HOST and following is Phase.STANDBY and certified_by_new:
        return Hold(
            host.name, reason,
            "clients refuse it unless its host certificate is of the new key (tele ca sign-host)",
        )  # fmt: skip
    return None
