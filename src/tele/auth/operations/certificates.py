"""Which user certificates are issued, and which certificates for keys made elsewhere?

Invariants:

* A refused login takes the same work and gives the same answer whatever was wrong; the reason is in
  the audit only.
* No operation issues a certificate to a user who is locked or was removed.
* A certificate for a machine that is not a member cannot be taken for a member's.
* Each certificate is an event with the caller, the subject and the key.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Final

from attrs import evolve
from twisted.internet.interfaces import IReactorTime

from tele.auth.authorities import Authorities
from tele.auth.authorizer import Authorizer, user_caller
from tele.auth.guessing import Outcome
from tele.auth.handlers import Handler, handler
from tele.auth.issued import IssuedCertificate, IssuedCertificates
from tele.auth.issuing import Issuer, check_keys
from tele.auth.journal import LOCAL, Journal
from tele.auth.members import Members
from tele.auth.operations.factor_checks import FactorChecks
from tele.auth.passwords import Attempt, Passwords
from tele.auth.presence import Hosts
from tele.auth.sshd_names import check_free, check_key_id, check_name
from tele.auth.state import State
from tele.auth.users import Users
from tele.certs.check import LATEST
from tele.certs.device import check_device
from tele.certs.issue import UserCertificateRequest
from tele.certs.keys import parse_line
from tele.certs.krl import write_krl
from tele.errors import AccessDenied, BadCertificate, InvalidInput, TeleError
from tele.log import make_logger
from tele.loop import now
from tele.model.access import Denied
from tele.model.addresses import host_of, source_network
from tele.model.api import table
from tele.model.api import users as api
from tele.model.api.authorities import (
    AuthorityList,
    SignedKey,
    SignHost,
    SignUser,
)
from tele.model.api.members import PublicKeys
from tele.model.api.operation import Nothing
from tele.model.api.revocation import RevocationList
from tele.model.authority import AuthorityKind, Certificates
from tele.model.codec import format_time
from tele.model.identity import Caller, UserIdentity
from tele.model.presence import Host
from tele.model.resources import Metadata, Role, User, UserSpec
from tele.rbac.decision import locked
from tele.rbac.logins import LOGINS_TRAIT, check_traits

log = make_logger(__name__)

#: The roles of the administrator of auth's own machine.
ADMIN_ROLES: Final = ("access", "editor", "auditor")
LONGEST_SSHD: Final = timedelta(days=366)
TEXT_LIMIT: Final = 256
#: How long a certificate for one session is valid: it has to begin within that time.
MFA_SESSION_LIFETIME: Final = timedelta(minutes=1)
#: How often the list of revoked certificates is made.
LIST_EVERY: Final = timedelta(seconds=1)


class CertificateOperations:
    """Operations that end in a user certificate, or in one for a key made elsewhere."""

    def __init__(
        self,
        cluster: str,
        clock: IReactorTime,
        authorities: Authorities,
        issuer: Issuer,
        passwords: Passwords,
        users: Users,
        state: State,
        members: Members,
        hosts: Hosts,
        issued: IssuedCertificates,
        authorizer: Authorizer,
        journal: Journal,
        checks: FactorChecks,
    ) -> None:
        self._checks = checks
        self._members = members
        self._hosts = hosts
        self._issued = issued
        self._list: tuple[datetime, RevocationList] | None = None
        self._cluster = cluster
        self._clock = clock
        self._authorities = authorities
        self._issuer = issuer
        self._passwords = passwords
        self._users = users
        self._state = state
        self._authorizer = authorizer
        self._journal = journal

    def handlers(self) -> tuple[Handler, ...]:
        """The rows of the table."""
        return (
            handler(table.LOGIN, self.login),
            handler(table.WHOAMI, self.whoami),
            handler(table.AUTHORITIES, self.authorities),
            handler(table.GET_KRL, self.get_krl),
            handler(table.SIGN_USER, self.sign_user),
            handler(table.SIGN_HOST, self.sign_host),
        )

    # -- anyone -----------------------------------------------------------------------
    async def login(self, request: api.LoginRequest, caller: Caller) -> Certificates:
        """Issue certificates for a password and, for users who have one, a second factor."""
        # Before the password, so that an invalid request does not reveal whether it is right.
        check_keys(request.keys)
        if request.ttl <= timedelta(0):
            raise InvalidInput("the lifetime has to be positive")
        attempt = self._attempt(request, caller)
        outcome = await self._passwords.check(request.user, request.password, attempt)
        issued = await self._users.issue_time(request.user)
        user = await self._users.find_user(request.user)
        reason = "" if outcome is Outcome.GOOD else outcome.value
        if user is None:
            reason = Outcome.UNKNOWN.value
        elif not reason and self.refusal(user) is not None:
            reason = "locked"
        if user is None or reason:
            raise await self._refuse(request.user, outcome, reason, caller, attempt)
        shown = await self._checks.require(
            request.user, request.second_factor, caller, attempt, "user.login"
        )
        try:
            certificates = await self.issue(
                user, request.keys, request.ttl, issued, caller, mfa=bool(shown.how)
            )
        except TeleError as error:
            why = str(error)[:TEXT_LIMIT]
            await self._journal.emit("user.login", caller, user=request.user, ok=False, error=why)
            raise
        await self._journal.emit(
            "user.login", caller, user=request.user, roles=user.spec.roles, **shown.fields
        )
        return certificates

    def _attempt(self, request: api.LoginRequest, caller: Caller) -> Attempt:
        """Return the client's network and, if it proved one, its device."""
        address, device = host_of(caller.remote_addr), ""
        if request.device is not None:
            try:
                device = check_device(
                    request.device.certificate,
                    request.device.signature,
                    request.user,
                    request.keys,
                    trusted=self._user_keys(),
                    cluster=self._cluster,
                    remote_addr=address,
                    now=now(self._clock),
                )
            except BadCertificate as error:  # counted as an unknown device
                log.debug("login device unknown", error=str(error))
        return Attempt(source_network(address), device, caller.present)

    def _user_keys(self) -> list[bytes]:
        trusted = self._authorities[AuthorityKind.USER].trusted
        return [parse_line(key) for key in trusted.ssh_public_keys]

    async def _refuse(
        self, user: str, outcome: Outcome, reason: str, caller: Caller, attempt: Attempt
    ) -> AccessDenied:
        tried = user[:TEXT_LIMIT]
        events = []
        # Admitted by the client alone, so that the time of the answer reveals nothing of the user.
        if (suppressed := self._journal.admit_denial(caller)) is not None:
            events.append(
                self._journal.event(
                    "user.login", caller, user=tried, ok=False, error=reason, **suppressed
                )
            )
        if outcome in (Outcome.LAST, Outcome.LAST_OF_ALL):
            of_all = outcome is Outcome.LAST_OF_ALL
            source = f"device {attempt.device}" if attempt.device else attempt.source
            events.append(
                self._journal.event(
                    "user.locked_out", caller, user=tried, ok=False,
                    source="all unknown sources" if of_all else source,
                )
            )  # fmt: skip
        await self._journal.append(*events)
        return AccessDenied(
            "user or password is wrong, or there were too many wrong passwords: try again later",
            "login",
        )

    async def refused(self, user: str, error: AccessDenied, caller: Caller, *, by: str) -> None:
        """Emit the event of a login with a secret other than a password that was refused."""
        suppressed = self._journal.admit_denial(caller)
        if suppressed is not None:
            await self._journal.emit(
                "user.login", caller, user=user, ok=False, error=str(error)[:TEXT_LIMIT], by=by,
                **suppressed,
            )  # fmt: skip

    # -- in this process only ---------------------------------------------------------
    async def ensure_admin(self, name: str, logins: tuple[str, ...]) -> None:
        """Make ``name`` an administrator who may log in as ``logins``, beside present logins.

        The caller administers the machine: a lock on the user is removed.
        """
        check_traits({LOGINS_TRAIT: logins})
        user = await self._users.find_user(name)
        if user is None:
            user = User(Metadata(name), UserSpec())
        before = user.spec
        had = before.traits.get(LOGINS_TRAIT, ())
        spec = UserSpec(
            roles=tuple(dict.fromkeys((*before.roles, *ADMIN_ROLES))),
            traits={**before.traits, LOGINS_TRAIT: tuple(dict.fromkeys((*had, *logins)))},
        )
        if spec != before:
            _, new = await self._users.put_user(name, User(user.metadata, spec))
            await self._journal.emit(
                "user.create" if new else "user.update", LOCAL, name=name, given=list(spec.roles)
            )

        moment = now(self._clock)
        who = UserIdentity(name, self._cluster, moment, spec.roles)
        for lock in list(self._state.locks.values()):
            if locked((lock,), who, moment) is not None:
                await self._users.delete_lock(lock.metadata.name)
                await self._journal.emit("lock.delete", LOCAL, name=lock.metadata.name)

    async def issue_for(self, name: str, keys: PublicKeys, ttl: timedelta) -> Certificates:
        """Issue certificates to a user without a password."""
        check_keys(keys)
        issued = await self._users.issue_time(name)
        return await self.issue(await self._users.user(name), keys, ttl, issued, LOCAL)

    async def issue(
        self, user: User, keys: PublicKeys, ttl: timedelta, issued: datetime, caller: Caller,
        *, mfa: bool = False,
    ) -> Certificates:  # fmt: skip
        """Issue certificates as of ``issued``, which was read before ``user``.

        ``mfa`` is whether the user has shown a second factor.
        """
        self._check_unlocked(user)
        address = host_of(caller.remote_addr)
        await self._users.note_issue(user.metadata.name, issued)
        request = self._issuer.user_request(user, self._held(user), ttl, issued, address)
        request = evolve(request, mfa=mfa)
        certificates, serial = self._issuer.user(request, keys, issued)
        if any(role.spec.options.require_mfa for role in self._held(user)):
            certificates = evolve(certificates, session_mfa=True)
        await self._note(
            serial,
            _issued(request, issued),
            Caller(None, caller.remote_addr),
            user=user.metadata.name,
            roles=request.roles,
            login_session=request.login_session,
            kind="user",
            serial=str(serial),
            logins=list(request.logins),
            expires=format_time(certificates.expires),
            mfa=mfa,
        )
        return certificates

    async def _note(
        self, number: int, certificate: IssuedCertificate, caller: Caller, **fields: Any
    ) -> None:
        """Note a certificate with the serial ``number``, in the commit of its event."""
        event = self._journal.event("cert.issue", caller, **fields)
        note = self._issued.note(number, certificate)
        await self._journal.append(event, changes={event.id: (note,)})

    def _held(self, user: User) -> list[Role]:
        """Return the roles of a user that exist now."""
        moment = now(self._clock)
        known = [self._state.roles.get(name) for name in dict.fromkeys(user.spec.roles)]
        return [
            role
            for role in known
            if role and (role.metadata.expires is None or moment < role.metadata.expires)
        ]

    def refusal(self, user: User) -> Denied | None:
        """Return why no certificate is issued to ``user`` now, or None."""
        moment = now(self._clock)
        who = UserIdentity(
            user.metadata.name, self._cluster, moment, user.spec.roles, issued=LATEST
        )
        return self._state.policy.refuses_user(who, moment)

    def _check_unlocked(self, user: User) -> None:
        denied = self.refusal(user)
        if denied is not None:
            raise AccessDenied(denied.message, denied.reason.value)

    async def issue_session(
        self, identity: UserIdentity, public_key: str, host: Host, caller: Caller,
        shown: Mapping[str, object],
    ) -> SignedKey:  # fmt: skip
        """Certify a user's key for one session on ``host``; ``shown`` is how, for the event.

        The caller has checked the second factor. The certificate is of the login session of
        ``identity``, and so short that it is of no use for another session later.
        """
        issued = await self._users.issue_time(identity.user)
        user = await self._users.user(identity.user)
        self._check_unlocked(user)
        await self._users.note_issue(identity.user, issued)
        address = host_of(caller.remote_addr)
        wanted = self._issuer.user_request(
            user, self._held(user), MFA_SESSION_LIFETIME, issued, address
        )
        wanted = evolve(
            wanted,
            mfa=True,
            mfa_host=host.id,
            of_serial=identity.serial,
            login_session=identity.login_session,
        )
        certificate = self._issuer.sign_user(wanted, public_key, issued)
        expires = issued + wanted.lifetime
        await self._note(
            certificate.serial, _issued(wanted, issued), caller, kind="mfa_session",
            serial=str(certificate.serial), logins=list(certificate.principals), node=host.name,
            node_id=host.id, key=certificate.key.fingerprint, expires=format_time(expires),
            **shown,
        )  # fmt: skip
        return SignedKey(certificate.line, expires)

    # -- users ------------------------------------------------------------------------
    async def whoami(self, request: Nothing, caller: Caller) -> api.WhoAmI:
        """Return the caller, with their present roles."""
        identity = user_caller(caller)
        roles = await self._authorizer.roles_of(identity)
        return api.WhoAmI(
            identity.user, roles, identity.logins, identity.cluster, identity.login_session
        )

    async def authorities(self, request: Nothing, caller: Caller) -> AuthorityList:
        """Return all authorities, and the trusted keys of each."""
        return AuthorityList(self._authorities.statuses, self._authorities.trusted)

    async def get_krl(self, request: Nothing, caller: Caller) -> RevocationList:
        """Return the list of revoked user certificates; one a second is made, for all callers."""
        moment = now(self._clock)
        if self._list is None or abs(moment - self._list[0]) >= LIST_EVERY:
            serials = await self._issued.revoked(self._state.policy)
            self._list = moment, RevocationList(write_krl(self._user_keys(), serials, moment))
        return self._list[1]

    async def sign_user(self, request: SignUser, caller: Caller) -> SignedKey:
        """Issue a user certificate for a public key made elsewhere."""
        issued = await self._users.issue_time(request.user)
        user = await self._users.user(request.user)
        self._check_unlocked(user)
        await self._users.note_issue(request.user, issued)
        wanted = self._issuer.user_request(
            user, self._held(user), request.ttl, issued, logins=request.logins
        )
        certificate = self._issuer.sign_user(wanted, request.ssh_public_key, issued)
        expires = issued + wanted.lifetime
        await self._note(
            certificate.serial, _issued(wanted, issued), caller, kind="user", name=request.user,
            serial=str(certificate.serial), login_session=wanted.login_session,
            logins=list(certificate.principals), key=certificate.key.fingerprint,
            expires=format_time(expires), given_roles=list(wanted.roles),
            given_session=wanted.login_session,
        )  # fmt: skip
        return SignedKey(certificate.line, expires)

    async def sign_host(self, request: SignHost, caller: Caller) -> SignedKey:
        """Issue a host certificate for an OpenSSH sshd's public key."""
        if not request.principals:
            raise InvalidInput("give the names that the host certificate is for")
        if not timedelta(0) < request.ttl <= LONGEST_SSHD:
            raise InvalidInput("the lifetime has to be between 0 and 366 days")
        name = request.name or request.principals[0]
        check_key_id(name, self._cluster)
        for principal in request.principals:
            check_name(principal, self._cluster)
        for principal in request.principals:
            await check_free(principal, self._members, self._hosts)
        certificate = self._issuer.sign_sshd(
            name, request.ssh_public_key, request.principals, request.ttl
        )
        expires = now(self._clock) + request.ttl
        await self._journal.emit(
            "cert.issue", caller, kind="sshd", name=name, principals=list(request.principals),
            key=certificate.key.fingerprint, expires=format_time(expires),
        )  # fmt: skip
        return SignedKey(certificate.line, expires)


def _issued(request: UserCertificateRequest, issued: datetime) -> IssuedCertificate:
    return IssuedCertificate(
        request.user, request.roles, request.login_session, issued, issued + request.lifetime
    )
