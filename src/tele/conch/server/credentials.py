"""What does authentication hand to the portal, and what does it tell the audit?

The certificate is checked before the portal is asked, so the portal's checker has nothing
to check: what the realm gets as "avatar id" is the whole :class:`CertificateCredentials`, or
:class:`MemberCredentials` where hosts log in, too.

Invariants:

* Everything here is a frozen value, but the two adapters to ``twisted.cred``.
"""

from __future__ import annotations

from typing import Any

from attrs import frozen
from twisted.cred.checkers import ICredentialsChecker
from twisted.cred.credentials import ICredentials
from twisted.cred.portal import IRealm, Portal
from twisted.internet.defer import Deferred, succeed
from zope.interface import implementer

from tele.certs.certificate import Certificate
from tele.certs.check import CheckedUser
from tele.model.identity import HostIdentity


@frozen
class Trust:
    """Whose certificates are accepted: SSH key blobs of the cluster's authorities of a kind."""

    cluster: str
    authorities: frozenset[bytes]


class ICertificateCredentials(ICredentials):
    """Somebody who holds the key of a certificate that was checked."""


@implementer(ICertificateCredentials)
@frozen
class CertificateCredentials:
    """Who logs in. Addresses are (host, port)."""

    checked: CheckedUser
    login: str
    certificate: Certificate
    remote_addr: tuple[str, int]
    local_addr: tuple[str, int]


@implementer(ICertificateCredentials)
@frozen
class MemberCredentials:
    """Which host of the cluster logs in, with its own certificate. Addresses are (host, port)."""

    identity: HostIdentity
    certificate: Certificate
    remote_addr: tuple[str, int]
    local_addr: tuple[str, int]


@frozen
class DeniedAttempt:
    """Somebody who was not let in. ``reason`` is a stable code, ``message`` for people.

    What is known of the key or certificate is there; the rest is empty.
    """

    login: str
    remote_addr: tuple[str, int]
    method: str
    reason: str
    message: str
    key_id: str = ""
    serial: int = 0
    fingerprint: str = ""


@implementer(ICredentialsChecker)
class CertificateChecker:
    """Passes on what authentication has checked already."""

    credentialInterfaces = (ICertificateCredentials,)

    def requestAvatarId(self, credentials: Any) -> Deferred[Any]:
        """Return the credentials themselves: the realm decides on all of them."""
        return succeed(credentials)


def make_portal(realm: IRealm) -> Portal:
    """Return a portal to ``realm`` that certificates open, and nothing else."""
    return Portal(realm, [CertificateChecker()])
