"""How does a user accept an invitation? With its code they set a password and are logged in.

Invariants:

* What is wrong with the request itself is said before the code is looked at; of a code that is not
  good, one answer says nothing more.
* A locked user's invitation stays open: it is good again when the lock is removed.
"""

from __future__ import annotations

from datetime import timedelta

from tele.auth.handlers import Handler, handler
from tele.auth.invitations import Invitations, invited_user, refused
from tele.auth.issuing import check_keys
from tele.auth.journal import Journal
from tele.auth.operations.certificates import CertificateOperations
from tele.auth.passwords import check_length
from tele.auth.users import Users
from tele.errors import AccessDenied, Conflict, InvalidInput
from tele.model.api import table
from tele.model.api.invitations import AcceptInvitation
from tele.model.authority import Certificates
from tele.model.identity import Caller


class InvitationOperations:
    """The operation of those who were invited."""

    def __init__(
        self,
        users: Users,
        invitations: Invitations,
        certificates: CertificateOperations,
        journal: Journal,
    ) -> None:
        self._users = users
        self._invitations = invitations
        self._certificates = certificates
        self._journal = journal

    def handlers(self) -> tuple[Handler, ...]:
        """The rows of the table."""
        return (handler(table.ACCEPT_INVITATION, self.accept_invitation),)

    async def accept_invitation(self, request: AcceptInvitation, caller: Caller) -> Certificates:
        """Exchange an invitation for a password, and issue certificates."""
        check_keys(request.keys)
        check_length(request.password)
        if request.ttl <= timedelta(0):
            raise InvalidInput("the lifetime has to be positive")
        name = ""
        try:
            name = invited_user(request.code)
            await self._exchange(name, request)
        except AccessDenied as error:
            await self._certificates.refused(name, error, caller, by="invitation")
            raise
        issued = await self._users.issue_time(name)
        user = await self._users.user(name)
        await self._journal.emit("user.password", caller, name=name, user=name)
        certificates = await self._certificates.issue(
            user, request.keys, request.ttl, issued, caller
        )
        await self._journal.emit(
            "user.login", caller, user=name, roles=user.spec.roles, by="invitation"
        )
        return certificates

    async def _exchange(self, name: str, request: AcceptInvitation) -> None:
        invitation = await self._invitations.find(name, request.code)
        user = await self._users.find_user(name)
        if user is None:
            raise refused()
        stopped = self._certificates.refusal(user)
        if stopped is not None:  # the caller has the code: they are the user
            raise AccessDenied(stopped.message, stopped.reason.value)
        try:
            await self._users.accept(name, invitation.revision, request.password)
        except Conflict:
            raise refused() from None
