"""What serves on the one port of a proxy? SSH, TLS relayed to auth, and the proxy's own pages."""

from __future__ import annotations

import resource
from typing import Any, Final

from attrs import frozen
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IAddress, IListeningPort, IOpenSSLServerConnectionCreator

from tele.conch.server.factory import SSHServerFactory
from tele.errors import Unavailable
from tele.https.site import Site
from tele.https.trust import ServerTls
from tele.membership.identity import tls_authorities
from tele.membership.member import Member
from tele.model.api.operation import Nothing
from tele.model.api.revocation import GET_KRL
from tele.proxy.admission import PortAdmission, Slot, limits_for
from tele.proxy.auth_reach import AuthEndpoints, AuthReach
from tele.proxy.demultiplexer import Demultiplexer, ProtocolRoutes
from tele.proxy.pages import Pages, WebPages, https_route
from tele.proxy.revocation_list import RevocationLists
from tele.proxy.tls_routes import Relay
from tele.reactor import Reactor
from tele.routing.router import Router
from tele.sockets.direct import listen
from tele.tunnel.messages import ClientAddress, auth_as_destination

#: What counts as the number of descriptors where the system sets no limit.
UNLIMITED: Final = 1 << 20


def descriptors() -> int:
    """Return how many descriptors this process may have open."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return UNLIMITED if soft == resource.RLIM_INFINITY else soft


@frozen
class PortSettings:
    """Where and how a proxy listens; port 0 is any.

    With ``proxy_protocol`` each connection begins with a header of that protocol, from a load
    balancer. ``https`` is the certificate of the pages, the cluster's without. ``site`` has pages
    for browsers, if it serves any.
    """

    host: str
    port: int
    proxy_protocol: bool = False
    https: IOpenSSLServerConnectionCreator | None = None
    site: Site | None = None


def listen_for_clients(
    reactor: Reactor,
    settings: PortSettings,
    member: Member,
    ssh: SSHServerFactory,
    auth: AuthEndpoints,
    router: Router,
) -> IListeningPort:
    """Listen. Raises :class:`Unavailable` if the port is taken."""
    cluster = member.identity.host.cluster
    reach = AuthReach(reactor, lambda: member.auth_away_since)
    lists = RevocationLists(reactor, lambda: member.authority.perform(GET_KRL, Nothing()))

    def relay(address: IAddress, slot: Slot) -> Relay:
        peer: Any = address
        client = ClientAddress(auth_as_destination(cluster), (peer.host, peer.port))
        return Relay(auth.next(), slot, reactor, router.sign(client), reach.attempted)

    def trust() -> tuple[str, ...]:
        return tls_authorities(member.authorities)

    site = settings.site
    web = None if site is None else WebPages(site, trust, relay, ssh.buildProtocol)
    pages = Pages(lambda: cluster, reactor, reach.unreachable_since, lists.get, web)
    tls = settings.https or ServerTls(lambda: member.identity.tls, trust, reactor)
    routes = ProtocolRoutes(
        auth=relay, https=https_route(tls, pages, reactor), ssh=ssh.buildProtocol
    )
    admission = PortAdmission(reactor, ssh.admission, limits_for(ssh.limits, descriptors()))
    factory = Demultiplexer(routes, admission, proxy_protocol=settings.proxy_protocol)
    try:
        return listen(reactor, settings.port, factory, settings.host)
    except CannotListenError as error:
        raise Unavailable(
            f"the proxy cannot listen on {settings.host}:{settings.port}: {error.socketError}; is"
            " something else running there?"
        ) from None
