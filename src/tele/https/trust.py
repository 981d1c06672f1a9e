"""Which certificates does the next TLS connection show, and which does it trust?

Invariants:

* Identity and trust are asked for at each new connection, so that a renewed
  certificate or a rotated CA needs no restart; what did not change is not parsed again.
* A clock that was set back while this process runs makes no certificate invalid that was valid
  before; a certificate that is not valid yet, or no longer, has another error than one of another
  CA.
* TLS 1.3 and nothing below; no resumption, so that every connection shows its
  certificate anew.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, cast

from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from OpenSSL import SSL, crypto
from service_identity import CertificateError, VerificationError
from service_identity.cryptography import extract_patterns
from service_identity.hazmat import DNS_ID, verify_service_identity
from twisted.internet.interfaces import (
    IOpenSSLClientConnectionCreator,
    IOpenSSLServerConnectionCreator,
    IReactorTime,
)
from twisted.internet.ssl import (
    Certificate,
    CertificateOptions,
    TLSVersion,
    optionsForClientTLS,
    trustRootFromCertificates,
)
from twisted.protocols.tls import TLSMemoryBIOProtocol
from twisted.python.failure import Failure
from zope.interface import implementer

from tele.errors import InvalidInput
from tele.https.identity import ALPN, TlsIdentity

#: X509_V_ERR_CERT_NOT_YET_VALID and X509_V_ERR_CERT_HAS_EXPIRED of OpenSSL.
_NOT_YET: Final = 9
_EXPIRED: Final = 10
_PROTOCOLS: Final = [name.encode("ascii") for name in ALPN]


def _shown(identity: TlsIdentity) -> dict[str, Any]:
    # pyOpenSSL takes cryptography's own objects; Twisted passes on what it is given.
    leaf, *chain = x509.load_pem_x509_certificates(identity.certificate.encode("ascii"))
    return {
        "certificate": leaf,
        "privateKey": load_pem_private_key(identity.key, None),
        "extraCertChain": chain,
    }


def _authorities(trust: Sequence[str]) -> list[crypto.X509]:
    return [
        crypto.X509.from_cryptography(c)
        for pem in trust
        for c in x509.load_pem_x509_certificates(pem.encode("ascii"))
    ]


class WrongDate(Exception):
    """By the clock of this machine a peer's certificate is not valid yet, or no longer."""


class _Checking:
    """OpenSSL's verify callback: decides about each certificate of a peer's chain.

    It replaces Twisted's own check of the name, so it checks ``server_name`` itself;
    None is for clients' certificates. ``failed`` is called with the reason if a certificate is
    refused for its name or its dates.
    """

    def __init__(
        self,
        clock: IReactorTime | None,
        server_name: str | None = None,
        failed: Callable[[Failure], None] = lambda _: None,
    ) -> None:
        self._clock = clock
        self._server_name = server_name
        self._failed = failed

    def __call__(
        self, connection: SSL.Connection, found: crypto.X509, error: int, depth: int, good: int
    ) -> bool:
        certificate = found.to_cryptography()
        if error in (_NOT_YET, _EXPIRED):
            if not self._was_valid(certificate, error):
                self._failed(Failure(_dated(certificate, error)))
                return False
        elif not good:
            return False
        if depth == 0 and self._server_name is not None:
            try:
                patterns = extract_patterns(certificate)
                verify_service_identity(patterns, [DNS_ID(self._server_name)], [])
            except (VerificationError, CertificateError, ValueError):
                self._failed(Failure(VerificationError([])))
                return False
        return True

    def _was_valid(self, certificate: x509.Certificate, error: int) -> bool:
        """Whether it would be valid already if the clock had not been set back meanwhile."""
        begins = certificate.not_valid_before_utc.timestamp()
        return error == _NOT_YET and self._clock is not None and self._clock.seconds() >= begins


def _dated(certificate: x509.Certificate, error: int) -> WrongDate:
    if error == _NOT_YET:
        return WrongDate(f"is valid only from {certificate.not_valid_before_utc:%F %T} UTC on")
    return WrongDate(f"expired at {certificate.not_valid_after_utc:%F %T} UTC")


@implementer(IOpenSSLServerConnectionCreator)
class ServerTls:
    """Accepts TLS: shows ``identity()``, asks for a client certificate of ``trust()``.

    A client may have no certificate; one with a certificate of another CA, or with
    an expired one, is refused in the handshake.
    """

    def __init__(
        self,
        identity: Callable[[], TlsIdentity],
        trust: Callable[[], Sequence[str]],
        clock: IReactorTime | None = None,
    ) -> None:
        self._clock = clock
        self._identity = identity
        self._trust = trust
        self._made_of: object = None
        self._options: CertificateOptions | None = None

    def serverConnectionForTLS(self, protocol: TLSMemoryBIOProtocol) -> SSL.Connection:
        """Start a connection with the present identity and trust."""
        identity, trust = self._identity(), tuple(self._trust())
        if self._options is None or self._made_of != (identity, trust):
            self._options = CertificateOptions(
                **_shown(identity),
                verify=True,
                requireCertificate=False,
                caCerts=_authorities(trust),
                raiseMinimumTo=TLSVersion.TLSv1_3,
                acceptableProtocols=_PROTOCOLS,
            )
            self._made_of = (identity, trust)
        connection = self._options.serverConnectionForTLS(protocol)
        connection.set_verify(SSL.VERIFY_PEER, _Checking(self._clock))
        return connection


@implementer(IOpenSSLClientConnectionCreator)
class ClientTls:
    """Starts TLS to ``server_name``; shows ``identity()`` if there is one.

    ``trust()`` are the host authority's certificates. None is for the first
    contact only: no server is refused, and no certificate is shown to it.
    """

    def __init__(
        self,
        server_name: str,
        identity: Callable[[], TlsIdentity | None],
        trust: Callable[[], Sequence[str]] | None,
        clock: IReactorTime | None = None,
    ) -> None:
        self._clock = clock
        self._server_name = server_name
        self._identity = identity
        self._trust = trust
        self._made_of: object = None
        self._options: Any = None

    def clientConnectionForTLS(self, protocol: TLSMemoryBIOProtocol) -> SSL.Connection:
        """Start a connection with the present identity and trust."""
        if self._trust is None:
            if self._options is None:
                self._options = CertificateOptions(
                    raiseMinimumTo=TLSVersion.TLSv1_3, acceptableProtocols=_PROTOCOLS
                )
        else:
            made_of = (self._identity(), tuple(self._trust()))
            if self._options is None or self._made_of != made_of:
                self._options = self._make(*made_of)
                self._made_of = made_of
        connection = cast(SSL.Connection, self._options.clientConnectionForTLS(protocol))
        if self._trust is not None:
            checking = _Checking(self._clock, self._server_name, protocol.failVerification)
            connection.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, checking)
        return connection

    def _make(self, identity: TlsIdentity | None, trust: tuple[str, ...]) -> Any:
        if not trust:
            raise InvalidInput("no CA is trusted to name the auth server")
        return optionsForClientTLS(
            self._server_name,
            trustRoot=trustRootFromCertificates([Certificate(c) for c in _authorities(trust)]),
            acceptableProtocols=_PROTOCOLS,
            extraCertificateOptions={
                "raiseMinimumTo": TLSVersion.TLSv1_3,
                **(_shown(identity) if identity is not None else {}),
            },
        )
