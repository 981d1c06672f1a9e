"""Who is the caller of a request, and is the operation for callers of this kind?

Invariants:

* Checked for each request: a certificate that has expired, or whose authority was removed, is
  refused from then on, also on a connection that is still open. It is parsed once for each
  connection, and its signature verified once for each change of the authorities.
* A certificate names what its authority may sign: the user authority users, the host authority
  hosts. What the certificate itself claims is not enough.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

from cryptography import x509

from tele.certs.x509 import issued_by, read_identity
from tele.errors import AccessDenied, BadCertificate, NotLoggedIn
from tele.model.access import Reason
from tele.model.api.operation import Anyone, Hosts, Operation, Permitted, Users
from tele.model.authority import AuthorityKind, TrustedAuthority
from tele.model.identity import Caller, HostIdentity, Identity, UserIdentity


class Peer:
    """The peer of one connection, whose certificate ``show()`` returns.

    It is the same as long as the connection lasts: TLS 1.3 has no renegotiation, and the server
    never asks for another certificate.
    """

    __slots__ = ("_identity", "_show", "_since", "_trusted", "_until")

    def __init__(self, show: Callable[[], x509.Certificate]) -> None:
        self._show = show
        self._identity: Identity | None = None
        self._trusted: tuple[str, ...] = ()

    def identify(
        self,
        authorities: Sequence[TrustedAuthority],
        now: datetime,
        steady: datetime | None = None,
    ) -> Identity:
        """Return its identity; raises :class:`NotLoggedIn`. ``steady``: see :func:`steady_date`."""
        identity = self._identity
        if identity is None:
            identity = self._read()
        kind = AuthorityKind.USER if isinstance(identity, UserIdentity) else AuthorityKind.HOST
        trusted = tuple(p for a in authorities if a.kind is kind for p in a.tls_certificates)
        if not trusted or trusted != self._trusted:
            if not issued_by(self._show(), trusted):
                raise NotLoggedIn(
                    f"the client certificate is not of this cluster's {kind.value} CA"
                )
            self._trusted = trusted
        if self._since > max(now, steady or now):
            raise NotLoggedIn(
                f"the client certificate has not expired, it is valid from {self._since:%F %T} UTC"
                f" on, and by auth's clock it is {now:%F %T}: set the clock that is wrong"
            )
        if now >= self._until:
            raise NotLoggedIn(f"the client certificate expired at {self._until:%F %T} UTC")
        return identity

    def _read(self) -> Identity:
        certificate = self._show()
        try:
            identity = self._identity = read_identity(certificate)
        except BadCertificate as error:
            raise NotLoggedIn(f"the client certificate is not one of tele: {error}") from None
        self._since: datetime = certificate.not_valid_before_utc
        self._until: datetime = certificate.not_valid_after_utc
        return identity


def admit(operation: Operation[Any, Any], caller: Caller) -> None:
    """Raise unless the kind of caller is one that the operation is for.

    ``Permitted`` needs a user here; the operation checks the user's rules. Raises
    :class:`NotLoggedIn` for unauthenticated callers, :class:`AccessDenied` for others.
    """
    for who in operation.who:
        match who, caller.identity:
            case Anyone(), _:
                return
            case Hosts(roles), HostIdentity(role=role) if role in roles:
                return
            case ((Users() | Permitted()), UserIdentity()):
                return
    if caller.identity is None:
        raise NotLoggedIn("this needs a client certificate of the cluster; log in first")
    shown = (
        f"user {caller.identity.user}"
        if isinstance(caller.identity, UserIdentity)
        else f"{caller.identity.role.value} {caller.identity.name}"
    )
    raise AccessDenied(f"{operation.name} is not for {shown}", Reason.RULE)


def counted_as(identity: Identity) -> str:
    """Return the key of the share that connections, requests and streams count in."""
    if isinstance(identity, UserIdentity):
        return f"user {identity.user}"
    return f"{identity.role.value} {identity.host_id}"
