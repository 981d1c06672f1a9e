"""What does authentication pass to the portal and to the audit?

The certificate is checked before the portal is called, so the portal's checker has nothing
to check: the realm's "avatar id" is the whole :class:`CertificateCredentials`, or
:class:`MemberCredentials` where hosts log in, too.

Invariants:

* All but the two adapters to ``twisted.cred`` are frozen values.
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
from tele.certs.login_proof import LoginProof
from tele.model.identity import HostIdentity


@frozen
class Trust:
    """The authorities whose certificates are accepted: SSH key blobs of one kind."""

    cluster: str
    authorities: frozenset[bytes]


class ICertificateCredentials(ICredentials):
    """Proof of the key of a certificate that was checked."""


@implementer(ICertificateCredentials)
@frozen
class CertificateCredentials:
    """The user who logs in. Addresses are (host, port)."""

    checked: CheckedUser
    login: str
    certificate: Certificate
    remote_addr: tuple[str, int]
    local_addr: tuple[str, int]
    proof: LoginProof | None = None


@implementer(ICertificateCredentials)
@frozen
class MemberCredentials:
    """The member that logs in with its host certificate. Addresses are (host, port)."""

    identity: HostIdentity
    certificate: Certificate
    remote_addr: tuple[str, int]
    local_addr: tuple[str, int]


@frozen
class DeniedAttempt:
    """A refused login. ``reason`` is a stable code, ``message`` a text.

    What is not known of the key or certificate is empty.
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
    """Passes on credentials that authentication has checked."""

    credentialInterfaces = (ICertificateCredentials,)

    def requestAvatarId(self, credentials: Any) -> Deferred[Any]:
        """Return the credentials themselves for the realm to decide on."""
        return succeed(credentials)


def make_portal(realm: IRealm) -> Portal:
    """Return a portal to ``realm`` that accepts certificates only."""
    return Portal(realm, [CertificateChecker()])
