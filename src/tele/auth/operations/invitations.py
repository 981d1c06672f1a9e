"""How does a user accept an invitation? With its code they set a password and are logged in.

Invariants:

* What is wrong with the request itself is said before the code is looked at; of a code that is not
  good, one answer says nothing more.
* A user who has a second factor shows it; where the cluster requires one, a user who has none sets
  it up in the same commit. A mistake with it does not use the invitation up.
* A locked user's invitation stays open: it is good again when the lock is removed.
"""

from __future__ import annotations

from datetime import timedelta

from attrs import field, frozen

from tele.auth.handlers import Handler, handler
from tele.auth.invitations import Invitations, invited_user, refused
from tele.auth.issuing import check_keys
from tele.auth.journal import Journal
from tele.auth.operations.certificates import CertificateOperations
from tele.auth.operations.factor_checks import FactorChecks, Shown
from tele.auth.passwords import Attempt, check_length
from tele.auth.second_factors import Need, SecondFactors
from tele.auth.stored_factors import TOTP
from tele.auth.users import Users
from tele.errors import AccessDenied, Conflict, InvalidInput, SecondFactorUnset
from tele.interfaces import Put
from tele.model.addresses import host_of, source_network
from tele.model.api import table
from tele.model.api.invitations import Accepted, AcceptInvitation
from tele.model.identity import Caller


@frozen
class _Made:
    """What came of an invitation: how the second factor was shown, and recovery codes."""

    shown: Shown
    codes: tuple[str, ...] = field(repr=False)


class InvitationOperations:
    """The operation of those who were invited."""

    def __init__(
        self,
        users: Users,
        invitations: Invitations,
        certificates: CertificateOperations,
        journal: Journal,
        factors: SecondFactors,
        checks: FactorChecks,
    ) -> None:
        self._factors = factors
        self._checks = checks
        self._users = users
        self._invitations = invitations
        self._certificates = certificates
        self._journal = journal

    def handlers(self) -> tuple[Handler, ...]:
        """The rows of the table."""
        return (handler(table.ACCEPT_INVITATION, self.accept_invitation),)

    async def accept_invitation(self, request: AcceptInvitation, caller: Caller) -> Accepted:
        """Exchange an invitation for a password and a second factor, and issue certificates."""
        check_keys(request.keys)
        check_length(request.password)
        if request.ttl <= timedelta(0):
            raise InvalidInput("the lifetime has to be positive")
        name = ""
        try:
            name = invited_user(request.code)
            made = await self._exchange(name, request, caller)
        except AccessDenied as error:
            await self._certificates.refused(name, error, caller, by="invitation")
            raise
        issued = await self._users.issue_time(name)
        user = await self._users.user(name)
        await self._journal.emit("user.password", caller, name=name, user=name)
        if request.device is not None:
            await self._journal.emit(
                "mfa.add", caller, name=name, user=name, device=made.shown.device, type="totp"
            )
        certificates = await self._certificates.issue(
            user, request.keys, request.ttl, issued, caller, mfa=bool(made.shown.how)
        )
        await self._journal.emit(
            "user.login", caller, user=name, roles=user.spec.roles, by="invitation",
            **made.shown.fields,
        )  # fmt: skip
        return Accepted(
            certificates.ssh, certificates.tls, certificates.expires, certificates.authorities,
            certificates.session_mfa, made.codes,
        )  # fmt: skip

    async def _exchange(self, name: str, request: AcceptInvitation, caller: Caller) -> _Made:
        invitation = await self._invitations.find(name, request.code)
        user = await self._users.find_user(name)
        if user is None:
            raise refused()
        stopped = self._certificates.refusal(user)
        if stopped is not None:  # the caller has the code: they are the user
            raise AccessDenied(stopped.message, stopped.reason.value)
        need, device = await self._factors.need(name), request.device
        if need is Need.SETUP and device is None:
            raise SecondFactorUnset(
                "this cluster requires a second factor: set up an authenticator app together with"
                " the password"
            )
        address = source_network(host_of(caller.remote_addr))
        attempt = Attempt(address, present=caller.present)
        shown = await self._checks.require(
            name, request.second_factor, caller, attempt, "user.login", setup=True
        )
        codes, more = tuple[str, ...](), tuple[Put, ...]()
        if device is not None:
            stored, codes, change = await self._factors.first(name, device)
            shown, more = Shown(TOTP, stored.name), (change,)
        try:
            await self._users.accept(name, invitation.revision, request.password, *more)
        except Conflict:
            raise refused() from None
        return _Made(shown, codes)
