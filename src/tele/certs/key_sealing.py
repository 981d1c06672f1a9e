"""How are private keys of CAs sealed, so that the store alone signs nothing?

One secret of the cluster seals them (AES-256-GCM). The secret is wrapped for the key of each auth,
and for keys that are kept elsewhere, with HPKE (RFC 9180, base mode: DHKEM(X25519, HKDF-SHA256),
HKDF-SHA256, AES-256-GCM).

Invariants:

* A sealed key opens for the purpose that it was sealed for, and for no other: the key of one CA
  cannot be put in the place of another's.
* Where keys are sealed, one that is not is refused: who can write to the store, and has no key,
  cannot give the cluster a CA key of his own.
* No error and no repr shows a key or the secret.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final

from attrs import field, frozen

from tele.errors import InvalidInput
from tele.model.session import WrappedKey

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.hpke import Suite

SECRET_SIZE: Final = 32
NONCE_SIZE: Final = 12
#: How a sealed key begins. No key in PEM, and no OpenSSH key, begins like this.
_MARK: Final = b"tele-sealed-key-1\0"
_CONTEXT: Final = b"tele-signing-keys@tele\n"


def is_sealed(stored: bytes) -> bool:
    """Whether this is a sealed key."""
    return stored.startswith(_MARK)


@frozen
class KeySeal:
    """Seals and opens private keys by the cluster's ``secret``; None: they are in clear.

    ``entropy(n)`` returns ``n`` random bytes.
    """

    _secret: bytes | None = field(default=None, repr=False)
    _entropy: Callable[[int], bytes] | None = field(default=None, repr=False)

    def seal(self, purpose: str, key: bytes) -> bytes:
        """Return what is stored of a key: sealed, or as it is if there is no secret."""
        if self._secret is None or self._entropy is None:
            return key
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        nonce = self._entropy(NONCE_SIZE)
        return _MARK + nonce + AESGCM(self._secret).encrypt(nonce, key, purpose.encode())

    def open(self, purpose: str, stored: bytes) -> bytes:
        """Return the key. Raises :class:`InvalidInput` if it does not open for ``purpose``."""
        if self._secret is None:
            if is_sealed(stored):
                raise InvalidInput("it is sealed, and this auth was given no key for that")
            return stored
        if not is_sealed(stored):
            raise InvalidInput("it is not sealed, and the keys of this cluster are")
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        begin = len(_MARK) + NONCE_SIZE
        nonce, sealed = stored[len(_MARK) : begin], stored[begin:]
        try:
            return AESGCM(self._secret).decrypt(nonce, sealed, purpose.encode())
        except (InvalidTag, ValueError):
            raise InvalidInput("it was sealed for another purpose, or changed") from None


# -- the secret, wrapped --------------------------------------------------------------
def _suite() -> Suite:
    from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

    return Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)


def wrap_secret(secret: bytes, recipient: bytes, cluster: str) -> WrappedKey:
    """Wrap the secret of ``cluster`` for an X25519 public key of 32 bytes.

    Raises :class:`InvalidInput` for a bad one.
    """
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey

    try:
        public = X25519PublicKey.from_public_bytes(recipient)
        data = _suite().encrypt(secret, public, _CONTEXT + cluster.encode())
    except ValueError:
        raise InvalidInput("not an X25519 public key of 32 bytes") from None
    return WrappedKey(1, recipient, data)


def unwrap_secret(wrapped: Iterable[WrappedKey], private: bytes, cluster: str) -> bytes | None:
    """Return the secret of ``cluster``; None if it is not wrapped for this private key.

    Raises :class:`InvalidInput` if what is wrapped for it does not open.
    """
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

    key = X25519PrivateKey.from_private_bytes(private)
    public = key.public_key().public_bytes_raw()
    for each in wrapped:
        if each.recipient != public:
            continue
        try:
            secret = _suite().decrypt(each.data, key, _CONTEXT + cluster.encode())
        except (InvalidTag, ValueError):
            secret = b""
        if len(secret) != SECRET_SIZE:
            raise InvalidInput("the secret of the signing keys in the store is damaged")
        return secret
    return None
