"""With which certificates, and trusting whom, does the next TLS connection start?

Laws of this file:

* Identity and trust are asked for at each new connection, so that a renewed
  certificate or a rotated CA needs no restart; what did not change is not parsed again.
* TLS 1.3 and nothing below; no resumption, so that every connection shows its
  certificate anew.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, cast

from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from OpenSSL import SSL, crypto
from twisted.internet.interfaces import (
    IOpenSSLClientConnectionCreator,
    IOpenSSLServerConnectionCreator,
)
from twisted.internet.ssl import (
    Certificate,
    CertificateOptions,
    TLSVersion,
    optionsForClientTLS,
    trustRootFromCertificates,
)
from twisted.protocols.tls import TLSMemoryBIOProtocol
from zope.interface import implementer

from tele.errors import InvalidInput
from tele.https.identity import ALPN, TlsIdentity

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


@implementer(IOpenSSLServerConnectionCreator)
class ServerTls:
    """Accepts TLS: shows ``identity()``, asks for a client certificate of ``trust()``.

    A client may come without a certificate; one with a certificate of anybody
    else, or an expired one, is refused in the handshake.
    """

    def __init__(
        self, identity: Callable[[], TlsIdentity], trust: Callable[[], Sequence[str]]
    ) -> None:
        self._identity = identity
        self._trust = trust
        self._made_of: object = None
        self._options: CertificateOptions | None = None

    def serverConnectionForTLS(self, protocol: TLSMemoryBIOProtocol) -> SSL.Connection:
        """Start a connection with what holds now."""
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
        return self._options.serverConnectionForTLS(protocol)


@implementer(IOpenSSLClientConnectionCreator)
class ClientTls:
    """Starts TLS to ``server_name``; shows ``identity()`` if there is one.

    ``trust()`` are the host authority's certificates. None is for the first
    contact only: whoever answers is taken, and nothing of ours is shown.
    """

    def __init__(
        self,
        server_name: str,
        identity: Callable[[], TlsIdentity | None],
        trust: Callable[[], Sequence[str]] | None,
    ) -> None:
        self._server_name = server_name
        self._identity = identity
        self._trust = trust
        self._made_of: object = None
        self._options: Any = None

    def clientConnectionForTLS(self, protocol: TLSMemoryBIOProtocol) -> SSL.Connection:
        """Start a connection with what holds now."""
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
        return cast(SSL.Connection, self._options.clientConnectionForTLS(protocol))

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
