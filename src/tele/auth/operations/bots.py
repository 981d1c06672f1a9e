"""How does a machine identity log in? With its token, for short certificates.

Invariants:

* A token that is not good has one answer, which says nothing of users.
* The certificate is that of a user: locks, roles and the end of a user hold for it as for others.
* The token of a machine whose user was removed is void, also if there is another user of the name.
"""

from __future__ import annotations

from datetime import timedelta

from tele.auth.handlers import Handler, handler
from tele.auth.issuing import check_keys
from tele.auth.journal import Journal
from tele.auth.operations.certificates import CertificateOperations
from tele.auth.tokens import Tokens, refused
from tele.auth.users import Users
from tele.errors import AccessDenied, InvalidInput
from tele.model.api import table
from tele.model.api.tokens import TokenLogin
from tele.model.authority import Certificates
from tele.model.identity import Caller


class BotOperations:
    """The operation of machine identities."""

    def __init__(
        self,
        users: Users,
        tokens: Tokens,
        certificates: CertificateOperations,
        journal: Journal,
    ) -> None:
        self._users = users
        self._tokens = tokens
        self._certificates = certificates
        self._journal = journal

    def handlers(self) -> tuple[Handler, ...]:
        """The rows of the table."""
        return (handler(table.TOKEN_LOGIN, self.token_login),)

    async def token_login(self, request: TokenLogin, caller: Caller) -> Certificates:
        """Issue certificates to the user of a token."""
        check_keys(request.keys)
        if request.ttl <= timedelta(0):
            raise InvalidInput("the lifetime has to be positive")
        name = ""
        try:
            found = (await self._tokens.find_bot(request.token)).value
            name = found.bot
            issued = await self._users.issue_time(name)
            user = await self._users.find_user(name)
            if user is None or found.created < await self._users.since(name):
                raise refused()
            stopped = self._certificates.refusal(user)
            if stopped is not None:
                raise AccessDenied(stopped.message, stopped.reason.value)
            token_id = await self._tokens.use_bot(request.token)
        except AccessDenied as error:
            await self._certificates.refused(name, error, caller, by="token")
            raise
        certificates = await self._certificates.issue(
            user, request.keys, request.ttl, issued, caller
        )
        await self._journal.emit(
            "user.login", caller, user=name, roles=user.spec.roles, by="token", token_id=token_id
        )
        return certificates
