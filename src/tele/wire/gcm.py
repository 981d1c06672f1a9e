"""How does AES-GCM make a packet (OpenSSH PROTOCOL, section 1.6; RFC 5647)?

The length is sent in the clear and authenticated; the nonce is the IV with its last 8 bytes
counted up.

Invariants:

* No nonce is used twice: the count goes on whatever happens to a packet.
"""

from __future__ import annotations

from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tele.wire.packets import (
    BLOCK,
    LENGTH_SIZE,
    WRAP,
    CipherOpener,
    CipherSealer,
    bad_length,
    not_authentic,
    payload_end,
)

TAG_SIZE: Final = 16
IV_SIZE: Final = 12

_NONCE_WRAP: Final = 0xFFFFFFFFFFFFFFFF


class GcmSealer(CipherSealer):
    """AES-GCM, sending."""

    __slots__ = ("_counter", "_encrypt_into", "_fixed")

    def __init__(self, key: bytes, iv: bytes, padding: bytes, sequence: int = 0) -> None:
        super().__init__(padding, sequence)
        self._encrypt_into = AESGCM(key).encrypt_into
        self._fixed = iv[:4]
        self._counter = int.from_bytes(iv[4:12], "big")

    def _encrypt(
        self,
        header: bytes | memoryview,
        plain: bytes | memoryview,
        length: int,
        out: memoryview,
        at: int,
    ) -> int:
        body = at + LENGTH_SIZE
        end = body + length + TAG_SIZE
        counter = self._counter
        self._counter = (counter + 1) & _NONCE_WRAP
        out[at:body] = header
        nonce = self._fixed + counter.to_bytes(8, "big")
        self._encrypt_into(nonce, plain, header, out[body:end])
        self.sequence = (self.sequence + 1) & WRAP
        self.packets += 1
        self.octets += end - at
        return end


class GcmOpener(CipherOpener):
    """AES-GCM, receiving."""

    __slots__ = ("_counter", "_decrypt_into", "_fixed")

    def __init__(self, key: bytes, iv: bytes, limit: int, sequence: int = 0) -> None:
        super().__init__(limit, sequence)
        self._decrypt_into = AESGCM(key).decrypt_into
        self._fixed = iv[:4]
        self._counter = int.from_bytes(iv[4:12], "big")

    def open(self, source: memoryview, start: int, end: int, room: memoryview) -> int:
        """See :class:`Opener`. A wrong tag is a :class:`ProtocolError` of MAC_ERROR."""
        self.needed = 0
        body = start + LENGTH_SIZE
        if body > end:
            return 0
        header = source[start:body]
        length = int.from_bytes(header, "big")
        if length % BLOCK or not BLOCK <= length <= self.limit:
            raise bad_length()
        stop = body + length + TAG_SIZE
        if stop > end:
            self.needed = stop - start
            return 0
        counter = self._counter
        self._counter = (counter + 1) & _NONCE_WRAP
        nonce = self._fixed + counter.to_bytes(8, "big")
        try:
            self._decrypt_into(nonce, source[body:stop], header, room[:length])
        except InvalidTag:
            raise not_authentic() from None
        self.payload_end = payload_end(room[0], length)
        self.sequence = (self.sequence + 1) & WRAP
        self.packets += 1
        self.octets += stop - start
        return stop - start
