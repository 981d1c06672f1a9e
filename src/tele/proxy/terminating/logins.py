"""How does a proxy reach a target for a user, and log in there?

Invariants:

* The target proves that it is the host that the client asked for, before anything is sent to it: a
  node by its membership, an OpenSSH sshd by a certificate with its name.
* The recording says which host was reached, at which address, and with which key.
* Key exchanges with targets, also those that targets start, are limited in rate for each user.
* The user's agent is asked only if the cluster says so, and the client has forwarded it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, Final

from attrs import frozen
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.task import deferLater

from tele.admission.limits import Limits, RekeyPace
from tele.certs.certificate import Certificate
from tele.certs.check import TARGET, CheckedHost
from tele.conch.client.agent import Agent, open_agent
from tele.conch.client.target import LoginIdentity, TargetLogin, connect_target
from tele.conch.client.target_connection import TargetConnection
from tele.conch.client.transport import HostVerifier, MemberVerifier, Verifier
from tele.errors import AccessDenied, BadCertificate
from tele.loop import now
from tele.membership.member import Member
from tele.model.authority import AuthorityKind
from tele.model.frame import FrameKind
from tele.model.identity import HostRole
from tele.model.presence import Host
from tele.model.recording_modes import ProxyLogin
from tele.proxy.terminating.avatar import TargetAvatar
from tele.proxy.terminating.registration import RegisteredSession
from tele.reactor import Reactor

_NODE: Final = "the log of the node says why; is it of this version?"
_SSHD: Final = (
    "does TrustedUserCAKeys of its sshd name the authority of users (tele ca export --type user),"
    " and may this login log in there?"
)


@frozen
class SshdVerifier:
    """Accepts a host that is no member, by a certificate with its name: no key of a proxy."""

    names: HostVerifier

    def verify(self, certificate: Certificate, at: datetime) -> CheckedHost:
        """Return the identity of the host. Raises :class:`BadCertificate`."""
        checked = self.names.verify(certificate, at)
        if checked.identity is not None or TARGET in certificate.extensions:
            raise BadCertificate("it is the certificate of a member of the cluster", "host")
        return checked


@frozen
class NodeVerifier:
    """Accepts the node ``host_id``, by its membership: not what was certified for a proxy."""

    members: MemberVerifier
    host_id: str

    def verify(self, certificate: Certificate, at: datetime) -> CheckedHost:
        """Return the identity of the host. Raises :class:`BadCertificate`."""
        checked = self.members.verify(certificate, at)
        if checked.identity is None or checked.identity.host_id != self.host_id:
            raise BadCertificate("it is the certificate of another node", "host")
        return checked


def sshd_verifier(member: Member, host: Host) -> Verifier:
    """Return what accepts the certificate of a registered host that runs OpenSSH's sshd."""
    trusted = member.ssh_trust(AuthorityKind.HOST)
    name = f"{host.name}.{member.identity.host.cluster}"
    return SshdVerifier(HostVerifier(trusted, (host.name, name, *host.names)))


class TargetLogins:
    """Logs in to targets. ``endpoint(host, address)`` returns that of a host's SSH server, for a
    client at an address.
    """

    def __init__(
        self,
        reactor: Reactor,
        member: Member,
        endpoint: Callable[[Host, tuple[str, int]], IStreamClientEndpoint],
        limits: Limits,
    ) -> None:
        self._reactor = reactor
        self._member = member
        self._endpoint = endpoint
        self._limits = limits
        #: Key exchanges with targets, by user.
        self._pace = RekeyPace()

    async def connect(self, avatar: TargetAvatar, session: RegisteredSession) -> Any:
        """Return the connection of a user to their target. Raises a TeleError."""
        host = avatar.host
        await self._take_turn(avatar.grant.identity.user)
        verifier = self.verifier(host)
        endpoint = self._endpoint(host, avatar.context.remote_addr)
        if avatar.by_agent:
            agent = await self._agent(avatar)
            try:
                identities = await self._of_agent(avatar, agent)
                login = self._login(avatar, verifier, identities)
                connection = await connect_target(self._reactor, endpoint, login)
            finally:
                agent.close()
        else:
            login = self._login(avatar, verifier, [session])
            connection = await connect_target(self._reactor, endpoint, login)
            connection.forced_command = session.forced_command
        if avatar.tape is not None:
            avatar.tape.note(
                0,
                FrameKind.HOST,
                target=host.name,
                address=", ".join(host.addresses),
                fingerprint=connection.transport.host_fingerprint,
                checked=verifier is not None,
            )
        return connection

    async def _take_turn(self, user: str) -> None:
        """Wait until ``user`` may have one more key exchange with a target."""
        wait = self._pace.wait(user, 0, self._reactor.seconds())
        if wait:
            await deferLater(self._reactor, wait)

    def _login(
        self, avatar: TargetAvatar, verifier: Verifier | None, identities: Sequence[LoginIdentity]
    ) -> TargetLogin:
        return TargetLogin(
            avatar.host.name,
            avatar.grant.login,
            verifier,
            identities,
            advice=_SSHD if avatar.host.sshd else _NODE,
            connection=lambda: TargetConnection(avatar.window_budget),
            limits=self._limits,
            user=avatar.grant.identity.user,
            pace=self._pace,
        )

    def by_agent(self, host: Host) -> bool:
        """Whether the user's own agent logs in to ``host``. Nodes accept auth's certificates only,
        while proxies record.
        """
        return host.sshd and self._member.state.recording.proxy_login is ProxyLogin.AGENT

    async def _agent(self, avatar: TargetAvatar) -> Agent:
        if not avatar.agent_requested:
            raise AccessDenied(
                f"{avatar.host.name} is logged in to with your agent, which is not forwarded: use"
                " ssh -A, or ForwardAgent yes",
                "agent",
            )
        return await open_agent(self._reactor, avatar.conn)

    async def _of_agent(self, avatar: TargetAvatar, agent: Agent) -> Sequence[LoginIdentity]:
        login = avatar.grant.login
        trusted = self._member.ssh_trust(AuthorityKind.USER)
        found = await agent.identities(login, trusted, now(self._reactor))
        if not found:
            raise AccessDenied(
                f"your agent has no certificate of this cluster for login {login} that is valid"
                " now: tele login",
                "agent",
            )
        return found

    def verifier(self, host: Host) -> Verifier | None:
        """Return what accepts ``host``; None: its key is not checked, as the cluster says.

        Nodes are members, and always prove it.
        """
        if host.sshd:
            checks = self._member.state.recording.proxy_checks_host_keys
            return sshd_verifier(self._member, host) if checks else None
        return NodeVerifier(self._member.verifier(HostRole.NODE), host.id)
