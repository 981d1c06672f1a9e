"""How does a program use the SSH engine by itself? Its names for embedders.

Two kinds of programs use it:

* with certificates, as tele itself: :class:`SSHServerFactory` with a portal of
  :func:`make_portal`, and :func:`connect` with :func:`execute`;
* programs written for Conch: the modules of this package are called as those of
  ``twisted.conch.ssh`` and have the same names inside, so that only imports change.

Invariant: names only.
"""

from __future__ import annotations

from tele.admission.limits import Limits
from tele.certs.certificate import Certificate, parse_certificate
from tele.certs.check import CheckedHost, CheckedUser
from tele.certs.keys import PrivateKey, PublicKey, parse_line, parse_public_key
from tele.conch.client.session import ProgramChannel, Result, execute
from tele.conch.client.transport import ClientIdentity, HostVerifier, connect
from tele.conch.connection.connection import SSHConnection
from tele.conch.connection.permissions import IPermissions, Permissions
from tele.conch.server.credentials import (
    CertificateChecker,
    CertificateCredentials,
    DeniedAttempt,
    ICertificateCredentials,
    Trust,
    make_portal,
)
from tele.conch.server.factory import ServerAlgorithms, SSHServerFactory
from tele.conch.session.programs import Exit, ProgramRequest, PtyRequest
from tele.conch.transport.exchange import HostKeys

__all__ = [
    "Certificate",
    "CertificateChecker",
    "CertificateCredentials",
    "CheckedHost",
    "CheckedUser",
    "ClientIdentity",
    "DeniedAttempt",
    "Exit",
    "HostKeys",
    "HostVerifier",
    "ICertificateCredentials",
    "IPermissions",
    "Limits",
    "Permissions",
    "PrivateKey",
    "ProgramChannel",
    "ProgramRequest",
    "PtyRequest",
    "PublicKey",
    "Result",
    "SSHConnection",
    "SSHServerFactory",
    "ServerAlgorithms",
    "Trust",
    "connect",
    "execute",
    "make_portal",
    "parse_certificate",
    "parse_line",
    "parse_public_key",
]
