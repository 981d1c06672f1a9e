"""Which ciphers are there, and which keys do they get (RFC 4253, section 7.2)?

Laws of this file:

* AEAD only: no MAC is ever negotiated, no length is ever encrypted.
* Keys are derived once per exchange and direction and are kept by the cipher alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from typing import Final

from attrs import frozen

from tele.wire.packets import GcmOpener, GcmSealer

#: Key sizes in bytes by name, in the order of preference.
KEY_SIZES: Final[Mapping[bytes, int]] = {
    b"aes128-gcm@openssh.com": 16,
    b"aes256-gcm@openssh.com": 32,
}
CIPHERS: Final = tuple(KEY_SIZES)
_IV_SIZE: Final = 12


@frozen(repr=False)
class Secrets:
    """What one exchange produced: ``shared`` is K as encoded in the hash, ``hash`` is H.

    All methods that we have hash with SHA-256.
    """

    shared: bytes
    hash: bytes
    session_id: bytes

    def derive(self, letter: bytes, size: int) -> bytes:
        """Return ``size`` bytes of the key named by ``letter`` (``A`` to ``F``)."""
        start = self.shared + self.hash
        key = sha256(start + letter + self.session_id).digest()
        while len(key) < size:
            key += sha256(start + key).digest()
        return key[:size]

    def sealer(self, cipher: bytes, from_client: bool, padding: bytes, sequence: int) -> GcmSealer:
        """Return the sending direction of ``cipher``."""
        iv, key = self._material(cipher, from_client)
        return GcmSealer(key, iv, padding, sequence)

    def opener(self, cipher: bytes, from_client: bool, limit: int, sequence: int) -> GcmOpener:
        """Return the receiving direction of ``cipher``."""
        iv, key = self._material(cipher, from_client)
        return GcmOpener(key, iv, limit, sequence)

    def _material(self, cipher: bytes, from_client: bool) -> tuple[bytes, bytes]:
        iv_letter, key_letter = (b"A", b"C") if from_client else (b"B", b"D")
        return self.derive(iv_letter, _IV_SIZE), self.derive(key_letter, KEY_SIZES[cipher])
