"""How does a host become a member of a cluster of which it knows only a pin?

Invariants:

* Nothing is sent before the server has shown the certificate that the pin names.
* Private keys are made here, of the suite that the cluster's CA has; auth sees public halves
  and the token.
* A refusal is final and names the next step. No answer is not a refusal.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from attrs import field, frozen
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from zope.interface import implementer

from tele.certs.rejoin import sign_rejoin
from tele.errors import AccessDenied, InvalidInput, TeleError, Unreachable
from tele.https.client import RemoteAuthority, fetch_cluster
from tele.https.identity import TlsIdentity
from tele.https.pinning import server_name
from tele.interfaces import IAuthority
from tele.membership.identity import (
    HostKeyPair,
    MemberIdentity,
    assemble,
    host_suite,
    tls_authorities,
)
from tele.model.api.members import JOIN, REJOIN, ClusterInfo, JoinRequest, RejoinRequest
from tele.model.api.operation import Operation
from tele.model.authority import Certificates
from tele.model.identity import HostRole


@frozen
class JoinSettings:
    """How to join: ``addresses`` of auth (``host:port``), a one-time ``token``, CA pins.

    ``token()`` is called only when a token is needed, in a thread, since it may read a file. It
    returns None if there is none.
    """

    addresses: tuple[str, ...]
    pins: tuple[str, ...] = ()
    token: Callable[[], str | None] = field(default=lambda: None, repr=False)

    def token_or_none(self) -> str:
        """Return the token that is there now, or nothing."""
        try:
            return self.token() or ""
        except InvalidInput:
            return ""


@implementer(IAuthority)
class AuthorityClient(Protocol):
    """An ``IAuthority`` that has connections."""

    def perform(self, operation: Operation[Any, Any], request: Any) -> Deferred[Any]:
        """See ``IAuthority``."""

    def follow(
        self, operation: Operation[Any, Any], request: Any, receiver: Callable[[Any], None]
    ) -> Deferred[None]:
        """See ``IAuthority``."""

    def close(self) -> None:
        """Close them."""


class Connect(Protocol):
    """Makes a client of auth; :class:`tele.https.client.RemoteAuthority` is one."""

    def __call__(
        self,
        reactor: IReactorTime,
        addresses: Sequence[str],
        identity: Callable[[], TlsIdentity | None],
        trust: Callable[[], Sequence[str]] | None,
        server_name: str,
    ) -> AuthorityClient:
        """Return one that calls auth at one of ``addresses``."""


class Fetch(Protocol):
    """Makes the first contact; :func:`tele.https.client.fetch_cluster` is one."""

    def __call__(
        self, reactor: IReactorTime, address: str, pins: Sequence[str]
    ) -> Deferred[ClusterInfo]:
        """Return what the server at ``address`` is, verified by ``pins``."""


@frozen
class Network:
    """How auth is reached; tests put something else here."""

    connect: Connect = RemoteAuthority
    fetch: Fetch = fetch_cluster


@frozen
class Applicant:
    """The host that joins; auth makes the host id."""

    name: str
    role: HostRole
    addresses: tuple[str, ...] = ()


async def join(
    reactor: IReactorTime,
    network: Network,
    settings: JoinSettings,
    applicant: Applicant,
    token: str | None,
) -> MemberIdentity:
    """Join with ``token``, as ``settings`` gave it, and return the new identity.

    Raises AccessDenied (token, pin) or InvalidInput (no token, no pin) when there is no
    point in trying again; Unreachable and the like when there is.
    """
    if not token:
        raise InvalidInput(
            "this machine has no valid certificate, and no token to join with;"
            " make one with: tele tokens add"
        )
    if not settings.pins:
        raise InvalidInput(
            "joining needs the cluster's CA pin (ca_pin), which proves that a server is auth;"
            " see it with: tele ca status"
        )
    info = await _first_contact(reactor, network, settings)
    trusted = tls_authorities(info.authorities)
    authority = network.connect(
        reactor, settings.addresses, lambda: None, lambda: trusted, server_name(info.cluster)
    )
    keys = HostKeyPair.generate(host_suite(info.authorities))
    request = JoinRequest(token, applicant.name, applicant.role, keys.public, applicant.addresses)
    try:
        certificates: Certificates = await IAuthority(authority).perform(JOIN, request)
    except AccessDenied as denied:
        raise AccessDenied(f"auth refuses to join this host: {denied}", denied.reason) from None
    finally:
        authority.close()
    identity = assemble(keys, certificates, applicant.role)
    if identity.host.cluster != info.cluster:
        raise TeleError("auth answered with certificates of another cluster")
    return identity


async def rejoin(
    reactor: IReactorTime,
    network: Network,
    settings: JoinSettings,
    old: MemberIdentity,
    trusted: Sequence[str],
) -> MemberIdentity:
    """Return new certificates for a member whose certificate has expired.

    ``trusted`` are the certificates (PEM) of the host authority, as far as the host knows them.

    The host proves that it has the key that auth has registered for it. Raises AccessDenied when it
    is no longer a member: then it needs a token.
    """
    host, public = old.host, old.keys.public
    proof = sign_rejoin(old.keys.ssh, host.cluster, host.host_id, host.role, public.ssh, public.tls)
    authority = network.connect(
        reactor, settings.addresses, lambda: None, lambda: trusted, server_name(host.cluster)
    )
    request = RejoinRequest(host.host_id, host.role, public, proof)
    try:
        certificates: Certificates = await IAuthority(authority).perform(REJOIN, request)
    finally:
        authority.close()
    return assemble(old.keys, certificates, host.role, host.host_id)


async def _first_contact(
    reactor: IReactorTime, network: Network, settings: JoinSettings
) -> ClusterInfo:
    problem: TeleError = Unreachable("no address of auth is known")
    for address in settings.addresses:
        try:
            return await network.fetch(reactor, address, settings.pins)
        except (AccessDenied, InvalidInput):
            raise  # the wrong CA: another address has the same
        except TeleError as error:
            problem = error
    raise problem
