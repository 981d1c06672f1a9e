"""How do two ends agree on a shared secret?

``curve25519-sha256`` (RFC 8731), ``ecdh-sha2-nistp256`` (RFC 5656) and the hybrid
``mlkem768x25519-sha256`` (draft-ietf-sshm-mlkem-hybrid-kex): the client sends a share, the
server replies with one, and both derive the secret.

Invariants:

* A share is checked for its exact size before anything is computed with it. One that yields no
  secret (a point of small order, an invalid KEM key) is a protocol error.
* A secret is returned as encoded in the exchange hash, and is not kept.
* Randomness is that of ``cryptography`` when it makes keys.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from hashlib import sha256
from typing import Final, Protocol

from attrs import frozen
from cryptography.hazmat.primitives.asymmetric import ec, mlkem, x25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tele.errors import ProtocolError
from tele.wire.fields import Reader, mpint, string
from tele.wire.numbers import KEY_EXCHANGE_FAILED

_X25519_SIZE: Final = 32
_MLKEM_PUBLIC_SIZE: Final = 1184
_MLKEM_CIPHERTEXT_SIZE: Final = 1088
_P256_SIZE: Final = 65


class Initiation(Protocol):
    """The client's half: made, sent, and finished with the server's share."""

    share: bytes

    def finish(self, share: bytes) -> bytes:
        """Return the encoded secret. Raises :class:`ProtocolError`."""


@frozen
class Method:
    """One key exchange method. ``respond`` takes the client's share, and returns ours and
    the encoded secret.
    """

    initiate: Callable[[], Initiation]
    respond: Callable[[bytes], tuple[bytes, bytes]]


def _bad_share() -> ProtocolError:
    return ProtocolError("the peer's key exchange share is not valid", KEY_EXCHANGE_FAILED)


def _x25519(private: x25519.X25519PrivateKey, share: bytes) -> bytes:
    if len(share) != _X25519_SIZE:
        raise _bad_share()
    try:
        return private.exchange(x25519.X25519PublicKey.from_public_bytes(share))
    except ValueError:
        raise _bad_share() from None


class _Curve25519:
    def __init__(self) -> None:
        self._private = x25519.X25519PrivateKey.generate()
        self.share = self._private.public_key().public_bytes_raw()

    def finish(self, share: bytes) -> bytes:
        return mpint(_x25519(self._private, share))


def _respond_curve25519(share: bytes) -> tuple[bytes, bytes]:
    ours = _Curve25519()
    return ours.share, ours.finish(share)


class _P256:
    def __init__(self) -> None:
        self._private = ec.generate_private_key(ec.SECP256R1())
        self.share = self._private.public_key().public_bytes(
            Encoding.X962, PublicFormat.UncompressedPoint
        )

    def finish(self, share: bytes) -> bytes:
        if len(share) != _P256_SIZE:
            raise _bad_share()
        try:
            theirs = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), share)
            return mpint(self._private.exchange(ec.ECDH(), theirs))
        except ValueError:
            raise _bad_share() from None


def _respond_p256(share: bytes) -> tuple[bytes, bytes]:
    ours = _P256()
    return ours.share, ours.finish(share)


def _hybrid_secret(post_quantum: bytes, classical: bytes) -> bytes:
    return string(sha256(post_quantum + classical).digest())


class _Mlkem768X25519:
    def __init__(self) -> None:
        self._kem = mlkem.MLKEM768PrivateKey.generate()
        self._private = x25519.X25519PrivateKey.generate()
        self.share = (
            self._kem.public_key().public_bytes_raw()
            + self._private.public_key().public_bytes_raw()
        )

    def finish(self, share: bytes) -> bytes:
        if len(share) != _MLKEM_CIPHERTEXT_SIZE + _X25519_SIZE:
            raise _bad_share()
        try:
            post_quantum = self._kem.decapsulate(share[:_MLKEM_CIPHERTEXT_SIZE])
        except ValueError:
            raise _bad_share() from None
        return _hybrid_secret(post_quantum, _x25519(self._private, share[_MLKEM_CIPHERTEXT_SIZE:]))


def _respond_mlkem(share: bytes) -> tuple[bytes, bytes]:
    if len(share) != _MLKEM_PUBLIC_SIZE + _X25519_SIZE:
        raise _bad_share()
    private = x25519.X25519PrivateKey.generate()
    classical = _x25519(private, share[_MLKEM_PUBLIC_SIZE:])
    try:
        theirs = mlkem.MLKEM768PublicKey.from_public_bytes(share[:_MLKEM_PUBLIC_SIZE])
    except ValueError:
        raise _bad_share() from None
    post_quantum, ciphertext = theirs.encapsulate()
    ours = ciphertext + private.public_key().public_bytes_raw()
    return ours, _hybrid_secret(post_quantum, classical)


_CURVE25519 = Method(_Curve25519, _respond_curve25519)

#: Methods by name, in the order of preference.
METHODS: Final[Mapping[bytes, Method]] = {
    b"mlkem768x25519-sha256": Method(_Mlkem768X25519, _respond_mlkem),
    b"curve25519-sha256": _CURVE25519,
    b"curve25519-sha256@libssh.org": _CURVE25519,
    b"ecdh-sha2-nistp256": Method(_P256, _respond_p256),
}
#: Offered by a server by default. The NIST curve is for clients that may use no other.
SERVER_METHODS: Final = tuple(name for name in METHODS if b"nistp" not in name)


def exchange_transcript(
    *,
    client_version: bytes,
    server_version: bytes,
    client_kexinit: bytes,
    server_kexinit: bytes,
    host_key: bytes,
    client_share: bytes,
    server_share: bytes,
    secret: bytes,
) -> bytes:
    """Return what H is the hash of (RFC 5656, section 4). ``secret`` is as encoded."""
    fields = (
        client_version,
        server_version,
        client_kexinit,
        server_kexinit,
        host_key,
        client_share,
        server_share,
    )
    return b"".join(map(string, fields)) + secret


def exchange_hash(transcript: bytes) -> bytes:
    """Return H, which the host key signs, and which identifies the session if it is the first."""
    return sha256(transcript).digest()


def host_key_in(transcript: bytes) -> bytes:
    """Return the host key (a blob) in a transcript. Raises :class:`ProtocolError`.

    It is the fifth string in the transcripts of all methods, also in those that we do not have: two
    versions, two KEXINITs and the host key come first (RFC 4253, section 8; RFC 4419, section 3;
    RFC 5656, section 4).
    """
    reader = Reader(transcript)
    for _ in range(4):
        reader.string()
    return reader.string()
