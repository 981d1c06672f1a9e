"""What ends users' SSH in a proxy? The parts of it, and how they start, are reviewed and stop.

Invariants:

* Whether it is used for a connection is decided when that begins, by the cluster's state then.
* Sessions end within seconds when their user, or the host, may not have them any more.
* The proxy keeps no state but the spool of its recorder.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence

from twisted.internet.defer import Deferred

from tele.admission.slots import Slots
from tele.certs.keys import PrivateKey, parse_line
from tele.conch.server.credentials import CertificateCredentials, DeniedAttempt
from tele.conch.server.settings import ServerSettings
from tele.conch.server.transport import SSHServerTransport
from tele.errors import Unavailable, Unreachable
from tele.interfaces import IRecorder
from tele.membership.audit_reporter import AuditReporter
from tele.membership.identity import host_suite
from tele.membership.member import Member
from tele.membership.server_settings import allowed_by
from tele.membership.ssh_trust import SSHTrust
from tele.model.access import Denied, Grant, Reason
from tele.model.addresses import Address
from tele.model.api.hosts import REPORT_HOST_PROBES, HostProbe, ReportHostProbes
from tele.model.api.proxying import (
    CERTIFY_TARGET,
    MINT_SESSION,
    CertifiedKey,
    CertifyTarget,
    MintSession,
)
from tele.model.authority import AuthorityKind, authority_of
from tele.model.identity import HostRole
from tele.model.presence import Host
from tele.model.resources import RecordingMode
from tele.proxy.terminating.avatar import TargetAvatar
from tele.proxy.terminating.certificates import IssuedCertificate, TargetCertificates
from tele.proxy.terminating.logins import TargetLogins
from tele.proxy.terminating.probes import Probed, Probes, probe
from tele.proxy.terminating.realm import TargetRealm
from tele.proxy.terminating.registration import Minted, RegisteredSession
from tele.proxy.terminating.route import TerminatingRoute
from tele.proxy.terminating.servers import TargetServers
from tele.proxy.user_limits import UserUsage
from tele.reactor import Reactor
from tele.recording.tee import ConnectionTape
from tele.routing.router import Router
from tele.sessions.admission import SessionAdmission
from tele.sessions.context import ConnectionContext
from tele.sessions.remote_target import RemoteTarget
from tele.sessions.tape import ProxiedHost, make_tape

#: Connections of one user that wait to be forwarded.
WAITING_LIMIT = 4096


class Terminating:
    """Ends users' SSH in the proxy that ``member`` is, and connects to targets by ``router``."""

    def __init__(
        self,
        reactor: Reactor,
        member: Member,
        router: Router,
        audit: AuditReporter,
        usage: UserUsage,
        recorder: IRecorder | None,
        server: ServerSettings,
    ) -> None:
        self._reactor = reactor
        self._member = member
        self._index = router.index
        self._audit = audit
        self._usage = usage
        self._recorder = recorder
        self._slots = Slots(WAITING_LIMIT)
        self._logins = TargetLogins(reactor, member, router.endpoint, server.limits)
        self.admission = SessionAdmission(reactor, member, HostRole.PROXY, self._labels)
        self._certificates = TargetCertificates(
            reactor,
            self._certify,
            self._new_key,
            self._plain_keys,
            self._host_authorities,
        )
        self._servers = TargetServers(
            reactor,
            self._certificates,
            self._realm,
            SSHTrust(member).users,
            server,
            self._denied,
            banner=lambda _: member.settings.banner,
            allowed=allowed_by(member),
        )
        self._probes = Probes(
            reactor,
            lambda: [host for host in router.index if host.sshd],
            self._probe,
            self._report,
        )
        self._router = router
        #: How clients reach hosts.
        self.route = TerminatingRoute(reactor, router.dialer, self._servers, self._ends_here)

    def _ends_here(self, host: Host) -> bool:
        return host.sshd or self._member.state.recording.mode.by_proxies

    # -- life -------------------------------------------------------------------------
    @property
    def present(self) -> Iterator[SSHServerTransport]:
        """All connections of clients that end here."""
        return self._servers.present

    @property
    def _avatars(self) -> list[TargetAvatar]:
        found = (getattr(transport, "avatar", None) for transport in self.present)
        return [avatar for avatar in found if isinstance(avatar, TargetAvatar)]

    def review(self) -> None:
        """The cluster's state or its hosts may have changed: decide again about all sessions."""
        for avatar in self._avatars:
            if self._is_gone(avatar.host) and avatar.ended is None:
                gone = f"{avatar.host.name} was removed from the cluster"
                avatar.expelled(Denied(Reason.REVOKED, gone))
        self.admission.review()

    def _is_gone(self, host: Host) -> bool:
        return self._index.is_complete and self._index.get(host.id) is None

    def _labels(self) -> object:
        """What decisions depend on beside the cluster's state: the labels of hosts in use."""
        used = {avatar.host.id for avatar in self._avatars}
        hosts = [self._index.get(host_id) for host_id in sorted(used)]
        return [None if host is None else (host.id, dict(host.labels)) for host in hosts]

    def start(self) -> None:
        """Probe hosts that do not announce themselves."""
        self._probes.start()

    async def _probe(self, host: Host) -> None:
        endpoint, verifier = self._router.sshd_endpoint(host), self._logins.verifier(host)
        await probe(self._reactor, endpoint, verifier)

    async def _report(self, found: Sequence[Probed]) -> None:
        items = tuple(
            HostProbe(each.host_id, not each.problem, each.problem, each.address) for each in found
        )
        await self._member.authority.perform(REPORT_HOST_PROBES, ReportHostProbes(items))

    def stop_accepting(self) -> None:
        """Sessions go on; no connection begins any more."""
        self._servers.stop()
        self._probes.stop()

    def stop(self) -> None:
        """All connections are closed."""
        self.admission.stop()
        self._certificates.clear()

    # -- auth -------------------------------------------------------------------------
    def _new_key(self) -> PrivateKey:
        return host_suite(self._member.authorities).generate_quick()

    def _plain_keys(self) -> int | None:
        """Return how often auth has replaced a plain host key; None: it makes none."""
        state = self._member.state
        return state.replaced_plain_keys if state.recording.proxy_plain_keys else None

    def _host_authorities(self) -> Sequence[bytes]:
        found = authority_of(self._member.authorities, AuthorityKind.HOST)
        return () if found is None else [parse_line(line) for line in found.ssh_public_keys]

    async def _certify(self, host_id: str, line: str) -> IssuedCertificate:
        made: CertifiedKey = await self._member.authority.perform(
            CERTIFY_TARGET, CertifyTarget(host_id, line)
        )
        private = PrivateKey.from_openssh(made.private_key) if made.private_key else None
        return IssuedCertificate(made.certificate, made.expires, private)

    async def _register(self, host: Host, credentials: CertificateCredentials) -> RegisteredSession:
        session_id, proof = str(uuid.uuid4()), credentials.proof
        if proof is None:
            raise Unavailable("the user has not signed a login")

        async def mint(line: str) -> Minted:
            request = MintSession(
                session_id=session_id,
                host_id=host.id,
                login=credentials.login,
                certificate=credentials.certificate.line,
                exchange=proof.exchange,
                request=proof.request,
                signature=proof.signature,
                transcript=proof.transcript,
                remote_addr=str(Address(*credentials.remote_addr)),
                ssh_public_key=line,
            )
            made: CertifiedKey = await self._member.authority.perform(MINT_SESSION, request)
            return Minted(made.certificate, made.expires)

        session = RegisteredSession(session_id, credentials, self._reactor, mint, self._new_key)
        try:
            await session.register(certificate=not self._logins.by_agent(host))
        except (Unreachable, Unavailable) as error:
            raise Unavailable(
                f"a session through this proxy begins when auth has registered it: {error}"
            ) from None
        return session

    # -- sessions ---------------------------------------------------------------------
    def _realm(self, host_id: str) -> TargetRealm:
        def find() -> Host | None:
            return self._index.get(host_id)

        return TargetRealm(host_id, find, self.admission, self._register, self._make_avatar)

    def _denied(self, host_id: str, attempt: DeniedAttempt) -> None:
        host = self._index.get(host_id)
        name = "" if host is None else host.name
        self._audit.denied(attempt, node=name, node_id=host_id)

    def _make_avatar(
        self,
        host: Host,
        grant: Grant,
        credentials: CertificateCredentials,
        session: RegisteredSession,
    ) -> TargetAvatar:
        about = {"node": host.name, "node_id": host.id}
        context = ConnectionContext.of(grant, credentials, session.session_id, about)

        def target(avatar: TargetAvatar) -> RemoteTarget:
            def connect() -> Deferred[object]:
                return Deferred.fromCoroutine(self._logins.connect(avatar, session))

            return RemoteTarget(self._reactor, host.name, connect)

        avatar = TargetAvatar(
            self._reactor, context, host, target, self._tape(context, host), self._audit,
            self._usage, self._slots,
        )  # fmt: skip
        avatar.by_agent = self._logins.by_agent(host)
        return avatar

    def _tape(self, context: ConnectionContext, host: Host) -> ConnectionTape | None:
        if self._recorder is None or context.grant.recording.mode is RecordingMode.OFF:
            return None
        own = self._member.identity.host
        kind = "openssh" if host.sshd else ""
        proxied = ProxiedHost(host.id, host.name, own.cluster, own.host_id, kind)
        return make_tape(self._reactor, self._recorder, context, proxied)
