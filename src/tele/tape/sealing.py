"""How is a recording sealed, so that an archive cannot read it?

Its frames are sealed with a data key of the recording (AES-256-GCM), chunk by chunk; the data key
is wrapped for each recipient with HPKE (RFC 9180, base mode: DHKEM(X25519, HKDF-SHA256),
HKDF-SHA256, AES-256-GCM). ``docs/protocols/tape`` has the bytes.

Invariants:

* Digests, the chain and the manifest are of sealed bytes: they are verified without a key.
* No two chunks are sealed with the same nonce and key: a data key is made anew by each process
  that records, and nonces are random.
* A wrapped key opens nothing but the recording and the number that it was wrapped for.
* A chunk's head cannot be changed: it is the associated data.

Entropy is an argument, but for that of HPKE, which the library takes itself. It is imported
where it is used: most programs that read recordings open none that is sealed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Final

from attrs import field, frozen

from tele.errors import BadRecording, InvalidInput
from tele.model.session import WrappedKey
from tele.tape.layout import Chunk, read_chunk

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.hpke import Suite

KEY_SIZE: Final = 32
#: The largest number of a data key: two bytes in the head of a chunk.
KEYS_LIMIT: Final = 0xFFFF
NONCE_SIZE: Final = 12
#: The ephemeral public key, the data key, the tag.
WRAPPED_SIZE: Final = 32 + KEY_SIZE + 16
_CONTEXT: Final = b"tele-recording-key@tele\n"


def _suite() -> Suite:
    from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

    return Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)


@frozen
class DataKey:
    """A data key of a recording; a :class:`tele.tape.layout.Seal`."""

    number: int
    secret: bytes = field(repr=False)
    _entropy: Callable[[int], bytes] = field(repr=False)

    def nonce(self) -> bytes:
        """See :class:`Seal`."""
        return self._entropy(NONCE_SIZE)

    def seal(self, nonce: bytes, packed: bytes, head: bytes) -> bytes:
        """See :class:`Seal`."""
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        return AESGCM(self.secret).encrypt(nonce, packed, head)


def make_data_key(number: int, entropy: Callable[[int], bytes]) -> DataKey:
    """Make a data key; ``entropy(n)`` returns ``n`` random bytes."""
    return DataKey(number, entropy(KEY_SIZE), entropy)


def opener(keys: Mapping[int, bytes]) -> Callable[[bytes, int, bytes | None], Chunk]:
    """Return what reads chunks that are sealed with one of ``keys``, and those that are not."""
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    def unseal(key: int, nonce: bytes, sealed: bytes, head: bytes) -> bytes:
        secret = keys.get(key)
        if secret is None:
            raise BadRecording(f"it is sealed with its data key {key}, which is not here")
        try:
            return AESGCM(secret).decrypt(nonce, sealed, head)
        except InvalidTag:
            raise BadRecording("a sealed chunk was changed, or its key is another one") from None

    def open_chunk(data: bytes, number: int, previous: bytes | None = None) -> Chunk:
        return read_chunk(data, number, previous, unseal)

    return open_chunk


# -- recipients -----------------------------------------------------------------------
def public_key(private: bytes) -> bytes:
    """Return the public key of an X25519 private key; both are 32 bytes."""
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def check_recipient(public: bytes) -> None:
    """Raise :class:`InvalidInput` for bytes that are no public key to wrap for."""
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey

    try:
        _suite().encrypt(b"", X25519PublicKey.from_public_bytes(public))
    except ValueError:
        raise InvalidInput("not an X25519 public key of 32 bytes") from None


def _info(recording_id: str, number: int) -> bytes:
    return _CONTEXT + f"{recording_id}\n{number}".encode("ascii")


def wrap(number: int, secret: bytes, recipient: bytes, recording_id: str) -> WrappedKey:
    """Wrap a data key for a recipient's public key. Raises :class:`InvalidInput` for a bad one."""
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey

    try:
        public = X25519PublicKey.from_public_bytes(recipient)
        data = _suite().encrypt(secret, public, _info(recording_id, number))
    except ValueError:
        raise InvalidInput("not an X25519 public key of 32 bytes") from None
    return WrappedKey(number, recipient, data)


def is_wrapped(key: WrappedKey) -> bool:
    """Whether this can be a data key that :func:`wrap` returned."""
    sizes = len(key.recipient), len(key.data)
    return sizes == (KEY_SIZE, WRAPPED_SIZE) and 0 < key.number <= KEYS_LIMIT


def unwrap(wrapped: Collection[WrappedKey], private: bytes, recording_id: str) -> dict[int, bytes]:
    """Return the data keys that are wrapped for a private key, by number.

    Raises :class:`BadRecording` if one that is for this key does not open.
    """
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

    key = X25519PrivateKey.from_private_bytes(private)
    public = key.public_key().public_bytes_raw()
    found: dict[int, bytes] = {}
    for each in wrapped:
        if each.recipient != public:
            continue
        try:
            secret = _suite().decrypt(each.data, key, _info(recording_id, each.number))
        except (InvalidTag, ValueError):
            secret = b""
        if len(secret) != KEY_SIZE:
            raise BadRecording(f"its data key {each.number} is not one of this recording")
        found[each.number] = secret
    return found
