"""What does auth certify for proxies that end users' SSH?

Invariants:

* A proxy gets a certificate for a user's login after the user has logged in to it: it shows the
  user's certificate and a signature that is made for each login anew. The signature names the login
  and the certificate with which the proxy answers for the host, or the plain key that auth has made
  for that alone: it is good for one session, of this user, on this host, through this proxy.
* It is decided as a node decides: by the roles, locks and revocations of now. The certificate is
  valid for one login name and for minutes, permits nothing that the user's roles or certificate
  withhold, and is revoked when the user's is.
* One session gets certificates while it runs, as far as auth knows, and a bounded number
  (:mod:`tele.auth.proxied_sessions`). Each is an event with the session and the host.
* A proxy answers with a certificate that has the names of a host, and proves no membership.
* Where the users' own agents log in, proxies get no certificates.
* Sessions end at proxies only where the cluster says so; those of hosts that run OpenSSH's sshd
  always do.
"""

from __future__ import annotations

import hashlib
from datetime import timedelta
from typing import Final

from twisted.internet.interfaces import IReactorTime

from tele.admission.rate_limiter import RateLimiter
from tele.auth import quotas
from tele.auth.authorities import Authorities
from tele.auth.authorizer import host_caller
from tele.auth.handlers import Handler, handler
from tele.auth.host_quotas import HostQuotas
from tele.auth.issuing import Issuer
from tele.auth.journal import Journal
from tele.auth.members import Members
from tele.auth.presence import Hosts
from tele.auth.proxied_sessions import ProxiedSession, ProxiedSessions
from tele.auth.session_ends import SessionEnds
from tele.auth.state import State
from tele.certs.certificate import Certificate, parse_certificate
from tele.certs.check import CheckedUser, check_answers_for, check_user
from tele.certs.keys import parse_line
from tele.certs.login_proof import LoginProof, check_login
from tele.errors import AccessDenied, BadCertificate, NotFound, Unavailable
from tele.loop import now
from tele.model.access import Denied, Reason
from tele.model.addresses import host_of
from tele.model.api import proxying as api
from tele.model.api import table
from tele.model.authority import AuthorityKind
from tele.model.codec import format_time
from tele.model.identity import Caller, HostIdentity, HostRole
from tele.model.presence import Host
from tele.model.recording_modes import ProxyLogin
from tele.model.resources import RecordingSettings

#: How long a certificate for one login is valid.
MINTED_LIFETIME: Final = timedelta(minutes=5)
#: Sessions of one user: the burst, such as a program that works on a fleet, and the rate.
USER_BURST: Final = 5000.0
USER_PER_SECOND: Final = 20.0


class ProxyingOperations:
    """Operations of proxies that end users' SSH."""

    def __init__(
        self,
        cluster: str,
        clock: IReactorTime,
        authorities: Authorities,
        issuer: Issuer,
        members: Members,
        hosts: Hosts,
        state: State,
        sessions: ProxiedSessions,
        ends: SessionEnds,
        quotas: HostQuotas,
        journal: Journal,
    ) -> None:
        self._cluster = cluster
        self._clock = clock
        self._authorities = authorities
        self._issuer = issuer
        self._members = members
        self._hosts = hosts
        self._state = state
        self._sessions = sessions
        self._ends = ends
        self._quotas = quotas
        self._users = RateLimiter(USER_BURST, USER_PER_SECOND)
        self._journal = journal

    def handlers(self) -> tuple[Handler, ...]:
        """The rows of the table."""
        return (
            handler(table.CERTIFY_TARGET, self.certify_target),
            handler(table.MINT_SESSION, self.mint_session),
        )

    async def certify_target(self, request: api.CertifyTarget, caller: Caller) -> api.CertifiedKey:
        """Certify a key of the calling proxy with the names of a host."""
        await self._quotas.charge(caller, quotas.TARGETS, 1)
        host, proxy_id = await self._target(request.host_id, caller), host_caller(caller).host_id
        line, made = request.ssh_public_key, b""
        if not line:
            if not self._recording.proxy_plain_keys:
                raise AccessDenied(
                    "auth makes keys for hosts only with session_recording.proxy_plain_keys",
                    Reason.NODE.value,
                )
            key = await self._sessions.keys.key(
                proxy_id, host.id, self._authorities.suite, self._authorities.seal
            )
            line, made = key.public.line, key.to_openssh()
        longest = self._state.settings.host_certificates.lifetime
        certificate, expires = self._issuer.target(host, proxy_id, line, longest)
        await self._journal.emit(
            "cert.issue", caller, kind="target", name=host.name, node_id=host.id,
            key=certificate.key.fingerprint, expires=format_time(expires),
        )  # fmt: skip
        return api.CertifiedKey(certificate.line, expires, made)

    async def mint_session(self, request: api.MintSession, caller: Caller) -> api.CertifiedKey:
        """Register a session of the calling proxy, and certify one login for it."""
        await self._quotas.charge(caller, quotas.MINTED, 1)
        proxy = host_caller(caller)
        host = await self._target(request.host_id, caller)
        if request.ssh_public_key and host.sshd and self._recording.proxy_login is ProxyLogin.AGENT:
            raise AccessDenied(
                "users log in to this host with their agents, and proxies get no certificates:"
                " session_recording.proxy_login is agent",
                Reason.NODE.value,
            )
        certificate, checked = self._proven(
            request, proxy.host_id, await self._plain(request, proxy)
        )
        identity, moment = checked.identity, now(self._clock)
        if not self._users.take(identity.user, self._clock.seconds()):
            raise Unavailable(f"user {identity.user} begins too many sessions; try again later")
        grant = self._state.policy.decide(
            identity, request.login, host.labels, moment, host.id, checked.limits,
            request.session_id,
        )  # fmt: skip
        if isinstance(grant, Denied):
            raise AccessDenied(grant.message, grant.reason.value)
        session = ProxiedSession(
            identity.user, request.login, identity.login_session, host.id, host.name,
            request.remote_addr, hashlib.sha256(request.exchange).hexdigest(),
        )  # fmt: skip
        registered = await self._sessions.register(
            proxy.host_id, request.session_id, session, moment,
            lambda: self._ends.has_started(proxy.place, request.session_id),
            login=bool(request.ssh_public_key),
        )  # fmt: skip
        if not request.ssh_public_key:
            return api.CertifiedKey("", moment)
        expires = min(moment + MINTED_LIFETIME, identity.expires)
        minted = self._issuer.minted(
            checked, grant, request.session_id, host, proxy.host_id, request.ssh_public_key,
            expires,
        )  # fmt: skip
        await self._journal.emit(
            "cert.issue", caller, kind="session", user=identity.user, login=request.login,
            session_id=request.session_id, login_session=identity.login_session,
            remote_addr=request.remote_addr, node=host.name, node_id=host.id,
            serial=str(minted.serial), of_serial=str(certificate.serial),
            key=minted.key.fingerprint, expires=format_time(expires), number=registered.logins,
        )  # fmt: skip
        return api.CertifiedKey(minted.line, expires)

    @property
    def _recording(self) -> RecordingSettings:
        return self._state.present.recording

    async def _target(self, host_id: str, caller: Caller) -> Host:
        """Return a host whose sessions end at proxies. Raises a TeleError for any other."""
        host = self._hosts.find(HostRole.NODE, host_id)
        member = await self._members.find(HostRole.NODE, host_id)
        if host is None or member is None:
            raise NotFound("no such host, or it has not announced itself yet")
        mode = self._recording.mode
        if not (mode.by_proxies or host.sshd):
            raise AccessDenied(
                "the sessions of this host do not end at proxies: session_recording.mode is"
                f" {mode.value}",
                Reason.NODE.value,
            )
        return host

    async def _plain(self, request: api.MintSession, proxy: HostIdentity) -> bytes:
        """Return the plain key that clients may have seen; empty if they have to see another."""
        if not self._recording.proxy_plain_keys:
            return b""
        suite, seal = self._authorities.suite, self._authorities.seal
        key = await self._sessions.keys.key(proxy.host_id, request.host_id, suite, seal)
        return key.public.blob

    def _proven(
        self, request: api.MintSession, proxy_id: str, plain: bytes
    ) -> tuple[Certificate, CheckedUser]:
        """Return the user's certificate, if they have logged in with it at the proxy, to the host.

        ``plain`` is the host key without a certificate that shows that, if there is one. Raises
        :class:`AccessDenied`.
        """
        try:
            certificate = parse_certificate(parse_line(request.certificate))
            proof = LoginProof(
                request.exchange, request.request, request.signature, request.transcript
            )
            proven = check_login(certificate, request.login, proof)
            if not plain or proven.host_key != plain:
                hosts = self._authorities[AuthorityKind.HOST].trusted
                check_answers_for(
                    _certificate_of_proxy(proven.host_key, bool(plain)),
                    {parse_line(key) for key in hosts.ssh_public_keys},
                    request.host_id,
                    proxy_id,
                    now(self._clock),
                )
            trusted = self._authorities[AuthorityKind.USER].trusted
            checked = check_user(
                certificate,
                proven.algorithm,
                {parse_line(key) for key in trusted.ssh_public_keys},
                request.login,
                host_of(request.remote_addr),
                now(self._clock),
                self._cluster,
            )
            if checked.session:
                raise BadCertificate("its certificate is for a session of a proxy", "session")
            if checked.verify_required:
                check_login(certificate, request.login, proof, verify_required=True)
        except BadCertificate as error:
            raise AccessDenied(f"the user has not logged in: {error}", error.reason) from None
        return certificate, checked


def _certificate_of_proxy(host_key: bytes, plain: bool) -> Certificate:
    """Return the certificate that a client has accepted. Raises :class:`BadCertificate`.

    A plain key names no host, unless auth has made it (:mod:`tele.auth.target_keys`), which it does
    if ``plain`` says so.
    """
    try:
        return parse_certificate(host_key)
    except BadCertificate:
        if plain:
            raise BadCertificate(
                "the client has accepted a host key without a certificate that is not the one of"
                " this proxy for this host, or was replaced a moment ago: try again; tele nodes"
                " keys prints the right ones",
                "proof",
            ) from None
        raise BadCertificate(
            "the client has accepted a host key without a certificate, which does not show to which"
            " host it logged in: use one that supports host certificates (OpenSSH, PuTTY 0.78,"
            " Go's x/crypto with a CertChecker, asyncssh), or have an administrator set"
            " session_recording.proxy_plain_keys",
            "proof",
        ) from None
