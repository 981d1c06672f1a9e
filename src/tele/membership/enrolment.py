"""How does a host get its certificates: by joining, rejoining, and renewing them?

Invariants:

* What trying again cannot mend (:class:`AccessDenied`, :class:`InvalidInput`) is raised;
  everything else is tried again, with growing pauses.
* A host that was removed while it ran does not join by the token that it has: it takes another one,
  in the same place. One that was removed before it was started may use any.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

from tele.errors import AccessDenied, InvalidInput, TeleError
from tele.log import make_logger
from tele.loop import backoff, now
from tele.membership.announcing import are_outdated, hosts_of
from tele.membership.calls import Calls, pause_after
from tele.membership.identity import (
    MemberIdentity,
    assemble,
    is_superseded,
    lasts_too_long,
    tls_authorities,
)
from tele.membership.joining import Applicant, JoinSettings, Network, join, rejoin
from tele.membership.renewal import RenewalTimer
from tele.model.api.members import RENEW, RenewRequest
from tele.model.authority import TrustedAuthority
from tele.model.presence import Presence
from tele.workers import SerialWorker

#: The longest pause before a host whose certificate has expired tries again, in seconds: the fleet
#: is back within a minute.
REJOIN_SECONDS: Final = 15.0
#: Reasons for which auth no longer takes a host for a member.
REMOVED: Final = ("removed", "replaced", "revoked")

_log: Final = make_logger(__name__)


class Enrolment:
    """Gets certificates for the name, the role and the hosts of the addresses of ``presence()``.

    :param identity: the identity as it is now; called only when there is one.
    :param authorities: those of the cluster, by what is known now.
    :param longest: how long a certificate may last, by what is known now.
    :param keep: keeps a new identity; fires when it is on disk, or cannot be written now.
    :param changed: called when :attr:`removed` changes.
    """

    def __init__(
        self,
        reactor: IReactorTime,
        settings: JoinSettings,
        network: Network,
        presence: Callable[[], Presence],
        *,
        calls: Calls,
        files: SerialWorker,
        dice: Callable[[], float],
        identity: Callable[[], MemberIdentity],
        authorities: Callable[[], tuple[TrustedAuthority, ...]],
        longest: Callable[[], timedelta],
        keep: Callable[[MemberIdentity], Deferred[None]],
        changed: Callable[[], object],
    ) -> None:
        self._reactor = reactor
        self._settings = settings
        self._network = network
        self._presence = presence
        self._calls = calls
        self._files = files
        self._dice = dice
        self._identity = identity
        self._authorities = authorities
        self._keep = keep
        self._changed = changed
        self.renewal = RenewalTimer(
            reactor,
            dice,
            self.is_outdated,
            lambda: (
                is_superseded(identity(), authorities()) or lasts_too_long(identity(), longest())
            ),
        )
        #: Why auth no longer takes this host for a member, by its last refusal; or nothing.
        self.removed = ""
        #: Whether this run began with a valid certificate and auth has not confirmed it yet.
        self._unconfirmed = False
        #: The token that was used last, or that was there when the host was removed.
        self._spent: str | None = None
        self._joining = False
        #: The addresses that the certificates were asked for.
        self._asked: frozenset[str] = frozenset()

    async def begin(self, kept: MemberIdentity | None) -> MemberIdentity:
        """Return the identity to start with: ``kept`` if it is valid, or a new one.

        Raises AccessDenied or InvalidInput if there will be none.
        """
        if kept is None:
            return await self._join()
        if kept.expires > now(self._reactor):
            self._unconfirmed = True
            return kept
        try:
            return await self._rejoin(kept)
        except AccessDenied as error:
            _log.warn("rejoin refused, joining with a token", error=str(error))
            return await self._join()

    async def run(self, today: Callable[[], datetime]) -> None:
        """Renew until cancelled. ``today()`` is the date by auth's clock."""
        failures = 0
        while True:
            identity = self._identity()
            await self.renewal.wait(identity)
            try:
                if self.renewal.is_refused or identity.expires <= today():
                    await self._rejoin(identity)
                else:
                    await self._renew(identity)
                failures = 0
                self.renewal.is_refused = False
            except TeleError as error:
                self._calls.failed("renew", error)
                if await self.join_again(error):
                    continue
                pause = pause_after(error, backoff(failures, 1.0, 60.0, self._dice))
                await deferLater(self._reactor, pause)
                failures += 1

    def confirmed(self) -> None:
        """Auth has answered this host as a member."""
        self._unconfirmed = False

    def is_outdated(self) -> bool:
        """Whether the certificates do not fit the presence of the host."""
        return are_outdated(self._identity(), self._presence(), self._asked)

    async def join_again(self, error: TeleError) -> bool:
        """Join with a new token if ``error`` means that the host was removed; whether it did."""
        unconfirmed, self._unconfirmed = self._unconfirmed, False
        if not isinstance(error, AccessDenied):
            return False
        if error.reason in REMOVED and not self.removed:
            self.removed = str(error)
            self._changed()
        if error.reason not in (*REMOVED, "expired"):
            return False
        token = await self._files.call(self._settings.token_or_none)
        if self._spent is None and not unconfirmed and error.reason in REMOVED:
            self._spent = token
        if not token or token == self._spent or self._joining:
            return False
        self._joining, self._spent = True, token
        try:
            await self._join()
        except (AccessDenied, InvalidInput) as refused:
            _log.error("join refused", error=str(refused))
            return False
        finally:
            self._joining = False
        return True

    async def _join(self) -> MemberIdentity:
        failures = 0
        while True:
            try:
                token = await self._files.call(self._settings.token)
                identity = await join(
                    self._reactor, self._network, self._settings, self._applicant(), token
                )
            except (AccessDenied, InvalidInput):
                raise
            except TeleError as error:
                pause = backoff(failures, 1.0, 30.0, self._dice)
                self._calls.blocked("join", error, pause)
                await deferLater(self._reactor, pause)
                failures += 1
            else:
                self._calls.succeeded("join")
                self._spent = token
                self._asked = frozenset(self._applicant().addresses)
                await self._take(identity)
                return identity

    async def _rejoin(self, old: MemberIdentity) -> MemberIdentity:
        """Renew an expired certificate, proved by the key that auth knows."""
        failures = 0
        while True:
            try:
                identity = await rejoin(
                    self._reactor,
                    self._network,
                    self._settings,
                    old,
                    tls_authorities(self._authorities()),
                )
            except AccessDenied:
                raise
            except TeleError as error:
                pause = backoff(failures, longest=REJOIN_SECONDS, dice=self._dice)
                self._calls.blocked("rejoin", error, pause)
                await deferLater(self._reactor, pause)
                failures += 1
            else:
                self._calls.succeeded("rejoin")
                self._calls.succeeded("renew")
                _log.info("rejoined the cluster", expires=identity.expires)
                await self._take(identity)
                return identity

    async def _renew(self, old: MemberIdentity) -> None:
        presence = self._presence()
        keys = old.keys.for_authorities(self._authorities())
        request = RenewRequest(presence.name, keys.public, hosts_of(presence))
        certificates = await self._calls.perform("renew", RENEW, request)
        self._asked = frozenset(request.addresses)
        new = assemble(keys, certificates, old.host.role, old.host.host_id)
        if new.host.cluster != old.host.cluster:
            raise TeleError("auth answered with certificates of another cluster")
        _log.info("certificates renewed", expires=new.expires)
        await self._take(new)

    async def _take(self, identity: MemberIdentity) -> None:
        self.removed = ""
        await self._keep(identity)

    def _applicant(self) -> Applicant:
        presence = self._presence()
        return Applicant(presence.name, presence.role, hosts_of(presence))
