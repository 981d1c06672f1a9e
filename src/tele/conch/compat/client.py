"""How does a Conch program's client run on ours?

``verifyHostKey`` and ``connectionSecure`` of its transport, ``getPublicKey``,
``getPrivateKey``, ``getPassword`` and ``getGenericAnswers`` of its authentication work as in
Conch. A program that has certificates uses :func:`tele.conch.client.transport.connect` instead.

Invariants:

* Only ``verifyHostKey`` of the program accepts a plain host key; without it each is refused.
* No signature uses SHA-1: an RSA key signs with an algorithm of the server's ``server-sig-algs``.
* After REQUESTS_LIMIT refused requests the client disconnects.
"""

from __future__ import annotations

import hashlib
from typing import Any

from twisted.conch.ssh import keys
from twisted.conch.ssh import userauth as conch
from twisted.internet import reactor
from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IReactorTime

from tele.admission.limits import Limits
from tele.certs.algorithms import HOST_ALGORITHMS, PLAIN_ALGORITHMS, RSA, RSA_SHA256, RSA_SHA512
from tele.certs.keys import parse_public_key
from tele.conch.client.host_keys import PlainHostKey
from tele.conch.client.transport import SSHClientTransport
from tele.errors import BadCertificate, ProtocolError
from tele.wire import numbers as n
from tele.wire.fields import Reader, boolean, name_list, string

#: Authentication requests on one connection.
REQUESTS_LIMIT = 64

#: A user may have to look a password up.
_LIMITS = Limits(login_grace=120.0)

_HOST_KEYS = tuple(name for name in HOST_ALGORITHMS if name in PLAIN_ALGORITHMS)


def md5_fingerprint(blob: bytes) -> bytes:
    """Return a fingerprint as Conch gives it to ``verifyHostKey`` (RFC 4716, section 4)."""
    return hashlib.md5(blob, usedforsecurity=False).hexdigest().encode("ascii")


class ConchClientTransport(SSHClientTransport):
    """The client's end of one connection of a Conch program; made without arguments."""

    def __init__(self, clock: IReactorTime | None = None, limits: Limits | None = None) -> None:
        super().__init__(clock or reactor, None, limits or _LIMITS)

    def host_key_algorithms(self) -> tuple[bytes, ...]:
        """See :class:`tele.conch.transport.transport.Transport`."""
        return _HOST_KEYS

    def _verified_certificate(self, host_key: bytes) -> Deferred[Any]:
        key = PlainHostKey(parse_public_key(host_key))
        digest = md5_fingerprint(host_key)
        fingerprint = b":".join(digest[i : i + 2] for i in range(0, len(digest), 2))
        verified = self.verifyHostKey(host_key, fingerprint)
        return verified.addCallback(self._verified, key)

    def _verified(self, answer: object, key: PlainHostKey) -> PlainHostKey:
        # Conch asks for a failure; False of a program is a refusal, too.
        if answer is False:
            raise BadCertificate("verifyHostKey refused the host key", "authority")
        return key

    def verifyHostKey(self, hostKey: bytes, fingerprint: bytes) -> Deferred[Any]:
        """Fire if ``hostKey`` is the server's, fail if not. A program overrides this."""
        return fail(BadCertificate("verifyHostKey is not overridden", "authority"))

    def connectionSecure(self) -> None:
        """Request the first service. A program overrides this."""
        raise NotImplementedError


class ConchUserAuthClient(conch.SSHUserAuthClient):
    """Authenticates with the keys and passwords of a Conch program."""

    transport: Any
    _requests = 0
    lastPublicKey: Any

    def packetReceived(self, messageNum: int, packet: bytes) -> Any:
        """Handle one message of the server."""
        match messageNum:
            case n.USERAUTH_SUCCESS:
                return self.ssh_USERAUTH_SUCCESS(packet)
            case n.USERAUTH_FAILURE:
                return self.ssh_USERAUTH_FAILURE(packet)
            case n.USERAUTH_PK_OK:
                return self.ssh_USERAUTH_PK_OK(packet)
            case n.USERAUTH_BANNER:
                return self.ssh_USERAUTH_BANNER(packet)
        raise ProtocolError(f"message {messageNum} during authentication")

    def askForAuth(self, kind: bytes, extraData: bytes) -> None:
        """Send an authentication request, at most REQUESTS_LIMIT times."""
        self._requests += 1
        if self._requests > REQUESTS_LIMIT:
            self.transport.sendDisconnect(
                n.NO_MORE_AUTH_METHODS, b"too many authentication failures"
            )
            return
        super().askForAuth(kind, extraData)

    def ssh_USERAUTH_SUCCESS(self, packet: bytes) -> None:
        """Authentication succeeded."""
        self.transport.authenticated()
        super().ssh_USERAUTH_SUCCESS(packet)

    def ssh_USERAUTH_FAILURE(self, packet: bytes) -> Any:
        """Authentication failed: try the next method that the server offers, too."""
        reader = Reader(packet)
        methods, partial = reader.name_list(), reader.boolean()
        reader.end()
        known = (m for m in methods if m.isascii() and m.replace(b"-", b"").isalnum())
        return super().ssh_USERAUTH_FAILURE(name_list(known) + boolean(partial))

    def ssh_USERAUTH_BANNER(self, packet: bytes) -> None:
        """The server sent a banner. A program may show it."""

    # -- keys -------------------------------------------------------------------------
    def key_algorithm(self, key: Any) -> bytes:
        """Return the algorithm to offer for ``key`` (a ``Key`` of Conch's)."""
        kind: bytes = key.sshType()
        if kind != RSA:
            return kind
        offered = self.transport.peerExtensions.get(b"server-sig-algs", b"").split(b",")
        return RSA_SHA256 if RSA_SHA256 in offered and RSA_SHA512 not in offered else RSA_SHA512

    def _cbGetPublicKey(self, publicKey: Any) -> bool:
        if not isinstance(publicKey, keys.Key):
            return False
        self.lastPublicKey = publicKey
        self.triedPublicKeys.append(publicKey)
        self.askForAuth(b"publickey", boolean(False) + self._offered(publicKey))
        return True

    def _offered(self, key: Any) -> bytes:
        return string(self.key_algorithm(key)) + string(key.blob())

    def ssh_USERAUTH_PK_OK_publickey(self, packet: bytes) -> None:
        """The server accepts the key: sign."""
        key = self.lastPublicKey
        data = (
            string(self.transport.sessionID)
            + bytes((n.USERAUTH_REQUEST,))
            + string(self.user)
            + string(self.instance.name)
            + string(b"publickey")
            + boolean(True)
            + self._offered(key)
        )
        signing: Any = self.signData(key, data)
        if not signing:
            self.askForAuth(b"none", b"")
            return
        signing.addCallback(self._cbSignedData)
        signing.addErrback(self._ebAuth)

    def _cbSignedData(self, signedData: bytes) -> None:
        body = boolean(True) + self._offered(self.lastPublicKey) + string(signedData)
        self.askForAuth(b"publickey", body)

    def _cbSignData(self, privateKey: Any, signData: bytes) -> bytes:
        signature: bytes = privateKey.sign(signData, self.key_algorithm(privateKey))
        return signature
