"""Composite keys of ML-DSA-44 and Ed25519, as OpenSSH 10.4 has them: what are they, and what do
they sign?

A forger has to break both. The scheme is MLDSA44-Ed25519-SHA512 of the IETF's composite signatures
(draft-ietf-lamps-pq-composite-sigs), with an empty context; its place in SSH is
draft-miller-sshm-mldsa44-ed25519-composite-sigs.

Invariants:

* A signature is good if both of its halves are; each half is of its own length.
* There are such keys only where ``cryptography`` offers ML-DSA (:func:`is_offered`).
* A private key is two seeds of 32 bytes; nothing shows them.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from functools import cache
from typing import Final

from attrs import field, frozen
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, mldsa

from tele.certs.algorithms import MLDSA44_ED25519
from tele.errors import InvalidInput, ProtocolError
from tele.wire.fields import Reader, string

SEED_SIZE: Final = 32
MLDSA_PUBLIC_SIZE: Final = 1312
MLDSA_SIGNATURE_SIZE: Final = 2420
#: Sizes of what is in one string of SSH.
PUBLIC_SIZE: Final = MLDSA_PUBLIC_SIZE + 32
SIGNATURE_SIZE: Final = MLDSA_SIGNATURE_SIZE + 64

_PREFIX: Final = b"CompositeAlgorithmSignatures2025"
_LABEL: Final = b"COMPSIG-MLDSA44-Ed25519-SHA512"
_NO_CONTEXT: Final = b"\0"
_MAGIC: Final = b"openssh-key-v1\0"
_BEGIN: Final = b"-----BEGIN OPENSSH PRIVATE KEY-----\n"
_END: Final = b"-----END OPENSSH PRIVATE KEY-----\n"
_NOT_OFFERED: Final = (
    "the library cryptography of this machine offers no ML-DSA, which keys of suite"
    " mldsa44-ed25519 need: install a newer one (pip install -U cryptography)"
)
_LINE: Final = 70
_BLOCK: Final = 8


@cache
def is_offered() -> bool:
    """Whether ``cryptography`` offers ML-DSA on this machine."""
    try:
        mldsa.MLDSA44PrivateKey.from_seed_bytes(bytes(SEED_SIZE))
    except UnsupportedAlgorithm:
        return False
    return True


def _signed(data: bytes) -> bytes:
    """Return what both halves sign for ``data``."""
    return _PREFIX + _LABEL + _NO_CONTEXT + hashlib.sha512(data).digest()


@frozen
class CompositePublicKey:
    """The public keys of both."""

    _mldsa_key: mldsa.MLDSA44PublicKey
    _ed25519_key: ed25519.Ed25519PublicKey

    @classmethod
    def from_public_bytes(cls, data: bytes) -> CompositePublicKey:
        """Read both, ML-DSA's first. Raises ValueError or UnsupportedAlgorithm."""
        if len(data) != PUBLIC_SIZE:
            raise ValueError(f"the key has {len(data)} bytes, not {PUBLIC_SIZE}")
        return cls(
            mldsa.MLDSA44PublicKey.from_public_bytes(data[:MLDSA_PUBLIC_SIZE]),
            ed25519.Ed25519PublicKey.from_public_bytes(data[MLDSA_PUBLIC_SIZE:]),
        )

    def public_bytes_raw(self) -> bytes:
        """Return both, ML-DSA's first."""
        return self._mldsa_key.public_bytes_raw() + self._ed25519_key.public_bytes_raw()

    def verify(self, signature: bytes, data: bytes) -> None:
        """Raise ValueError or InvalidSignature unless both halves are good."""
        if len(signature) != SIGNATURE_SIZE:
            raise ValueError(f"the signature has {len(signature)} bytes, not {SIGNATURE_SIZE}")
        signed = _signed(data)
        self._ed25519_key.verify(signature[MLDSA_SIGNATURE_SIZE:], signed)
        self._mldsa_key.verify(signature[:MLDSA_SIGNATURE_SIZE], signed, _LABEL)


@frozen(eq=False)
class CompositePrivateKey:
    """The seeds of both."""

    _seeds: bytes = field(repr=False)
    _mldsa_key: mldsa.MLDSA44PrivateKey = field(repr=False)
    _ed25519_key: ed25519.Ed25519PrivateKey = field(repr=False)

    @classmethod
    def generate(cls) -> CompositePrivateKey:
        """Make a key. Raises :class:`InvalidInput` where there is no ML-DSA."""
        if not is_offered():
            raise InvalidInput(_NOT_OFFERED)
        first = mldsa.MLDSA44PrivateKey.generate().private_bytes_raw()
        return cls.from_seeds(first + ed25519.Ed25519PrivateKey.generate().private_bytes_raw())

    @classmethod
    def from_seeds(cls, seeds: bytes) -> CompositePrivateKey:
        """Return the key of 64 bytes: the seed of ML-DSA, then that of Ed25519."""
        if len(seeds) != 2 * SEED_SIZE:
            raise InvalidInput(f"a composite key has 64 bytes of seeds, not {len(seeds)}")
        try:
            key = mldsa.MLDSA44PrivateKey.from_seed_bytes(seeds[:SEED_SIZE])
        except UnsupportedAlgorithm:
            raise InvalidInput(_NOT_OFFERED) from None
        return cls(seeds, key, ed25519.Ed25519PrivateKey.from_private_bytes(seeds[SEED_SIZE:]))

    def public_key(self) -> CompositePublicKey:
        """The public half."""
        return CompositePublicKey(self._mldsa_key.public_key(), self._ed25519_key.public_key())

    def sign(self, data: bytes) -> bytes:
        """Return the signatures of both, ML-DSA's first."""
        signed = _signed(data)
        return self._mldsa_key.sign(signed, _LABEL) + self._ed25519_key.sign(signed)

    def private_bytes(
        self,
        encoding: serialization.Encoding,
        form: serialization.PrivateFormat,
        encryption: serialization.KeySerializationEncryption,
    ) -> bytes:
        """Return the unencrypted form of OpenSSH (PROTOCOL.key), as keys of ``cryptography`` do."""
        public = string(MLDSA44_ED25519) + string(self.public_key().public_bytes_raw())
        check = hashlib.sha256(b"check" + self._seeds).digest()[:4]
        private = check + check + public + string(self._seeds) + string(b"")
        padding = -len(private) % _BLOCK
        private += bytes(range(1, padding + 1))
        made = (
            _MAGIC + string(b"none") + string(b"none") + string(b"") + (1).to_bytes(4, "big")
            + string(public) + string(private)
        )  # fmt: skip
        text = base64.b64encode(made)
        lines = b"".join(text[at : at + _LINE] + b"\n" for at in range(0, len(text), _LINE))
        return _BEGIN + lines + _END


def read_openssh(text: bytes) -> CompositePrivateKey | None:
    """Read an unencrypted private key in OpenSSH's form; None: it is of another type.

    Raises :class:`InvalidInput` for a composite key that is malformed, or encrypted.
    """
    begin = text.find(_BEGIN.strip())
    end = text.find(_END.strip())
    if not 0 <= begin < end:
        return None
    try:
        made = base64.b64decode(
            b"".join(text[begin + len(_BEGIN) - 1 : end].split()), validate=True
        )
        if not made.startswith(_MAGIC):
            return None
        reader = Reader(made[len(_MAGIC) :])
        cipher, _, _ = (reader.string(1024) for _ in range(3))
        count, public = reader.uint32(), reader.string(64 * 1024)
        if count != 1 or Reader(public).string(64) != MLDSA44_ED25519:
            return None
        private = Reader(reader.string(64 * 1024))
        reader.end()
    except (binascii.Error, ProtocolError):
        return None
    try:
        if cipher != b"none":
            raise InvalidInput("the private key is encrypted")
        first, second = private.uint32(), private.uint32()
        kind, raw, seeds = private.string(64), private.string(4096), private.string(128)
        private.string(4096)  # the comment
        padding = private.rest()
    except ProtocolError:
        raise InvalidInput("the private key is malformed") from None
    key = CompositePrivateKey.from_seeds(seeds)
    is_whole = padding == bytes(range(1, len(padding) + 1)) and len(padding) < _BLOCK
    mine = string(MLDSA44_ED25519) + string(key.public_key().public_bytes_raw())
    if first != second or not is_whole or string(kind) + string(raw) != mine or public != mine:
        raise InvalidInput("the private key is malformed")
    return key
