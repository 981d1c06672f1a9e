"""How are second factors set up, listed and removed?

Invariants:

* A user changes their own second factors with the password and a second factor that they have: a
  stolen certificate is not enough to set one up, nor to remove one.
* Others remove them by the rule for the verb ``update`` on users, as passwords are reset, and never
  set one up for a user.
* Every change is an event, without a secret or a code.
"""

from __future__ import annotations

from tele.auth.authorizer import Authorizer, user_caller
from tele.auth.guessing import Outcome
from tele.auth.handlers import Handler, handler
from tele.auth.journal import TEXT_LIMIT, Journal
from tele.auth.operations.administration import Administration
from tele.auth.operations.factor_checks import FactorChecks
from tele.auth.passwords import Attempt, Passwords
from tele.auth.second_factors import SecondFactors
from tele.auth.stored_factors import StoredDevice
from tele.auth.users import Users
from tele.auth.webauthn_keys import BadAnswer
from tele.errors import AccessDenied
from tele.model.access import Reason
from tele.model.addresses import host_of, source_network
from tele.model.api import mfa as api
from tele.model.api import table
from tele.model.api.operation import Nothing
from tele.model.identity import Caller
from tele.model.second_factors import SecondFactor


class MfaOperations:
    """Operations on second factors."""

    def __init__(
        self,
        factors: SecondFactors,
        checks: FactorChecks,
        passwords: Passwords,
        users: Users,
        administration: Administration,
        authorizer: Authorizer,
        journal: Journal,
    ) -> None:
        self._factors = factors
        self._checks = checks
        self._passwords = passwords
        self._users = users
        self._administration = administration
        self._authorizer = authorizer
        self._journal = journal

    def handlers(self) -> tuple[Handler, ...]:
        """The rows of the table."""
        return (
            handler(table.GET_MFA, self.get_mfa),
            handler(table.ADD_MFA, self.add_mfa),
            handler(table.BEGIN_WEBAUTHN, self.begin_webauthn),
            handler(table.ADD_WEBAUTHN, self.add_webauthn),
            handler(table.REMOVE_MFA, self.remove_mfa),
            handler(table.NEW_RECOVERY_CODES, self.new_recovery_codes),
            handler(table.RESET_MFA, self.reset_mfa),
        )

    async def get_mfa(self, request: api.GetMfa, caller: Caller) -> api.MfaDevices:
        """Return a user's devices."""
        own = user_caller(caller).user
        name = request.user or own
        if name != own:
            judge = await self._authorizer.judge_if_any(caller, "user", "read")
            if judge is None:  # before the user is looked for: who exists is not told
                raise AccessDenied("denied: no role allows read on user", Reason.RULE.value)
            denied = judge(await self._users.user(name))
            if denied is not None:
                raise AccessDenied(f"denied: {denied.message}", Reason.RULE.value)
        return await self._shown(name)

    async def _shown(self, user: str) -> api.MfaDevices:
        found = await self._factors.of(user)
        devices = tuple(each.shown for each in found.devices)
        return api.MfaDevices(user, devices, len(found.recovery), self._factors.mode.value)

    async def _prove(
        self, password: str, factor: SecondFactor | None, caller: Caller, event: str
    ) -> str:
        """Return the calling user, who has shown the password and, if there is one, a factor."""
        identity = user_caller(caller)
        # Attempts count for the login session: those of other clients do not delay it.
        attempt = Attempt(
            source_network(host_of(caller.remote_addr)), identity.login_session, caller.present
        )
        outcome = await self._passwords.check(identity.user, password, attempt)
        if outcome is not Outcome.GOOD:
            await self._journal.emit(event, caller, ok=False, error=outcome.value)
            raise AccessDenied(
                "the password is wrong, or there were too many wrong ones: try again later", "login"
            )
        await self._checks.require(identity.user, factor, caller, attempt, event, setup=True)
        return identity.user

    async def add_mfa(self, request: api.AddMfa, caller: Caller) -> api.MfaAdded:
        """Set up an authenticator app for the caller."""
        self._factors.check_setup()
        user = await self._prove(request.password, request.second_factor, caller, "mfa.add")
        device, codes = await self._factors.add(user, request.device)
        return await self._added(user, device, codes, caller)

    async def _added(
        self, user: str, device: StoredDevice, codes: tuple[str, ...], caller: Caller
    ) -> api.MfaAdded:
        await self._journal.emit("mfa.add", caller, name=user, device=device.name, type=device.type)
        return api.MfaAdded(device.shown, codes)

    async def begin_webauthn(
        self, request: api.BeginWebauthn, caller: Caller
    ) -> api.WebauthnOptions:
        """Return what the caller's browser needs to make a security key."""
        self._factors.check_setup()
        user = await self._prove(request.password, request.second_factor, caller, "mfa.add")
        session = user_caller(caller).login_session
        return api.WebauthnOptions(await self._factors.begin_key(user, session))

    async def add_webauthn(self, request: api.AddWebauthn, caller: Caller) -> api.MfaAdded:
        """Set up the caller's security key; the password was shown when it was begun."""
        identity = user_caller(caller)
        user, session = identity.user, identity.login_session
        if not session:
            raise AccessDenied("a security key is set up by a user who has logged in", "mfa")
        try:
            device, codes = await self._factors.add_key(user, session, request.name, request.answer)
        except BadAnswer as error:
            await self._journal.emit("mfa.add", caller, ok=False, error=str(error)[:TEXT_LIMIT])
            raise
        return await self._added(user, device, codes, caller)

    async def remove_mfa(self, request: api.RemoveMfa, caller: Caller) -> Nothing:
        """Remove a device of the caller."""
        user = await self._prove(request.password, request.second_factor, caller, "mfa.delete")
        device = await self._factors.remove(user, request.device)
        await self._journal.emit("mfa.delete", caller, name=user, device=device.name)
        return Nothing()

    async def new_recovery_codes(
        self, request: api.NewRecoveryCodes, caller: Caller
    ) -> api.RecoveryCodes:
        """Make new recovery codes for the caller."""
        user = await self._prove(
            request.password, request.second_factor, caller, "mfa.recovery_codes"
        )
        codes = await self._factors.new_codes(user)
        await self._journal.emit("mfa.recovery_codes", caller, name=user)
        return api.RecoveryCodes(codes)

    async def reset_mfa(self, request: api.ResetMfa, caller: Caller) -> api.MfaDevices:
        """Remove one device of a user, or all; returns those that are left."""
        name = request.name
        await self._administration.check_user(caller, "update", await self._users.user(name))
        present = (await self._factors.of(name)).devices
        for each in [request.device] if request.device else [found.id for found in present]:
            device = await self._factors.remove(name, each, forced=True)
            await self._journal.emit("mfa.delete", caller, name=name, device=device.name)
        return await self._shown(name)
