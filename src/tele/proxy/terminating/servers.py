"""Which SSH server answers a client for a target, in this proxy?

Each target has a server of its own, which proves itself with the certificate for that target. To
the client it is the target: the same checks of the certificate, the same messages and limits.

Invariants:

* A server is kept while it has connections; an idle one costs nothing.
* Key exchanges of clients are limited in rate for each address, over all targets.
* The client's address is the one that the proxy saw, on every route to the proxy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from twisted.cred.portal import IRealm
from twisted.internet.interfaces import IAddress, IReactorTime
from twisted.internet.task import deferLater

from tele.admission.limits import RekeyPace
from tele.conch.server.credentials import DeniedAttempt, Trust, make_portal
from tele.conch.server.factory import ServerAlgorithms, SSHServerFactory
from tele.conch.server.settings import ServerSettings
from tele.conch.server.transport import SSHServerTransport
from tele.errors import Unavailable
from tele.model.addresses import source_network
from tele.model.identity import HostRole
from tele.model.presence import Host
from tele.proxy.terminating.certificates import TargetCertificates
from tele.tunnel.relayed_channels import MemberConnection

#: Servers that are kept without connections.
IDLE_LIMIT: Final = 64


class TargetServers:
    """Makes the server's end of clients' connections to targets.

    :param realm: given the id of a target, returns who may log in there.
    :param users: returns the authorities of users.
    :param denied: is called for each refused login, after the id of the target.
    :param banner: see :class:`SSHServerFactory`, as for ``allowed``.
    """

    def __init__(
        self,
        clock: IReactorTime,
        certificates: TargetCertificates,
        realm: Callable[[str], IRealm],
        users: Callable[[], Trust],
        settings: ServerSettings,
        denied: Callable[[str, DeniedAttempt], None],
        banner: Callable[[SSHServerTransport], str] = lambda _: "",
        allowed: Callable[[], ServerAlgorithms] = ServerAlgorithms,
    ) -> None:
        self._banner = banner
        self._allowed = allowed
        self._clock = clock
        self._certificates = certificates
        self._realm = realm
        self._users = users
        self._settings = settings
        self._denied = denied
        self._servers: dict[str, SSHServerFactory] = {}
        self._stopped = False
        self._pace = RekeyPace()

    @property
    def present(self) -> Iterator[SSHServerTransport]:
        """All connections, authenticated or not."""
        for server in list(self._servers.values()):
            yield from list(server.present)

    def stop(self) -> None:
        """Accept no more connections; those that are there go on."""
        self._stopped = True
        for server in self._servers.values():
            server.stopFactory()

    async def accept(self, host: Host, address: IAddress) -> SSHServerTransport:
        """Return what serves a client at ``address``, who has logged in to the proxy.

        Raises :class:`Unavailable`.
        """
        source = source_network(getattr(address, "host", ""))
        wait = self._pace.wait(source, 0, self._clock.seconds())
        if wait:
            await deferLater(self._clock, wait)
        key = await self._certificates.get(host.id)
        if self._stopped:
            raise Unavailable("the proxy is shutting down")
        server = self._servers.pop(host.id, None)
        if server is None:
            self._forget_idle()
            server = SSHServerFactory(
                portal=make_portal(self._realm(host.id)),
                host_keys=key.host_keys,
                user_trust=self._users,
                clock=self._clock,
                connection=MemberConnection,
                limits=self._settings.limits,
                algorithms=self._settings.algorithms,
                passes_proofs=True,
                banner=self._banner,
                allowed=self._allowed,
                on_denied=lambda attempt: self._denied(host.id, attempt),
                part=HostRole.PROXY.value,
            )
            server.rekey_pace = self._pace
        server.host_keys = key.host_keys
        self._servers[host.id] = server
        protocol = server.build_vouched(address)
        if protocol is None:
            raise Unavailable("too many clients log in to this host through this proxy: try again")
        return protocol

    def _forget_idle(self) -> None:
        """Forget servers without connections, those that were used last excepted."""
        idle = [host_id for host_id, server in self._servers.items() if not server.present]
        for host_id in idle[: max(0, len(idle) - IDLE_LIMIT)]:
            self._servers.pop(host_id).stopFactory()
