"""How does a user show a second factor for one session? By a certificate of a minute, for one host.

Invariants:

* A certificate is issued only where a role asks for it (``require_mfa``), for the logins that the
  user has, and after a second factor: the user's own certificate is not enough.
* It has the login session of the user's certificate, so that what locks that one locks it, too.
* What the answer says of a host, known or not, is that no second factor is needed: the host itself
  says why it refuses.
"""

from __future__ import annotations

from typing import Final

from twisted.internet.interfaces import IReactorTime

from tele.auth.authorizer import user_caller
from tele.auth.handlers import Handler, handler
from tele.auth.operations.certificates import CertificateOperations
from tele.auth.operations.factor_checks import FactorChecks
from tele.auth.passwords import Attempt
from tele.auth.presence import Hosts
from tele.auth.state import State
from tele.errors import SecondFactorUnset
from tele.loop import now
from tele.model.access import Denied, Reason
from tele.model.addresses import host_of, source_network
from tele.model.api import mfa as api
from tele.model.api import table
from tele.model.identity import Caller, HostRole, UserIdentity
from tele.model.presence import Host

#: Logins of a user that are decided about; users with more are asked for a second factor always.
DECIDED: Final = 16


class SessionFactors:
    """The operation of users who begin a session."""

    def __init__(
        self,
        clock: IReactorTime,
        state: State,
        hosts: Hosts,
        checks: FactorChecks,
        certificates: CertificateOperations,
    ) -> None:
        self._clock = clock
        self._state = state
        self._hosts = hosts
        self._checks = checks
        self._certificates = certificates

    def handlers(self) -> tuple[Handler, ...]:
        """The rows of the table."""
        return (handler(table.CERTIFY_MFA_SESSION, self.certify_mfa_session),)

    async def certify_mfa_session(
        self, request: api.CertifyMfaSession, caller: Caller
    ) -> api.MfaSession:
        """Certify a key of the caller for one session, after a second factor if one is needed."""
        identity = user_caller(caller)
        host = self._hosts.find(HostRole.NODE, request.node) or self._hosts.named(
            HostRole.NODE, request.node
        )
        if host is None or not self._asks(identity, host):
            return api.MfaSession()
        attempt = Attempt(
            source_network(host_of(caller.remote_addr)), identity.login_session, caller.present
        )
        shown = await self._checks.require(
            identity.user, request.second_factor, caller, attempt, "mfa.session"
        )
        if not shown.how:
            raise SecondFactorUnset(
                "a role requires a second factor for each session (require_mfa), and none is set"
                " up: tele mfa add"
            )
        made = await self._certificates.issue_session(
            identity, request.ssh_public_key, host, caller, shown.fields
        )
        return api.MfaSession(made.certificate, host.id, made.expires)

    def _asks(self, identity: UserIdentity, host: Host) -> bool:
        """Whether a role asks for a second factor that this user lacks on ``host``."""
        logins = identity.logins
        if len(logins) > DECIDED:
            return True
        moment = now(self._clock)
        decisions = (
            self._state.policy.decide(identity, login, host.labels, moment, host.id)
            for login in logins
        )
        return any(isinstance(each, Denied) and each.reason is Reason.MFA for each in decisions)
