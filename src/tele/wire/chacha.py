"""How does ``chacha20-poly1305@openssh.com`` make a packet (OpenSSH PROTOCOL.chacha20poly1305)?

Not the construction of RFC 8439: of 64 bytes of key the second half encrypts the 4 bytes of
the length alone, the first half the rest from its second block on; its first block is the
key of the Poly1305 tag over all of it. The nonce of everything is the sequence number.

Invariants:

* The length is all that is decrypted before the tag was checked.
* A key is renewed long before a sequence number comes again (:mod:`tele.admission.limits`).
"""

from __future__ import annotations

from typing import Any, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from cryptography.hazmat.primitives.poly1305 import Poly1305

from tele.wire.packets import (
    LENGTH_SIZE,
    WRAP,
    CipherOpener,
    CipherSealer,
    bad_length,
    not_authentic,
    payload_end,
)

TAG_SIZE: Final = 16
#: What the padding of others makes packets a multiple of.
BLOCK: Final = 8

_HALF: Final = 32
_FIRST_BLOCK: Final = bytes(64)
#: Block counter 0 and the upper half of the sequence number's 8 bytes.
_NONCE_START: Final = bytes(12)


def _contexts(key: bytes) -> tuple[Any, Any]:
    """Return what encrypts, or decrypts, the rest and the length: a stream does both."""
    nonce = _NONCE_START + bytes(4)
    body, length = key[:_HALF], key[_HALF:]
    return (
        Cipher(ChaCha20(body, nonce), None).encryptor(),
        Cipher(ChaCha20(length, nonce), None).encryptor(),
    )


class ChachaSealer(CipherSealer):
    """ChaCha20 and Poly1305, sending."""

    __slots__ = ("_body", "_length")

    def __init__(self, key: bytes, padding: bytes, sequence: int = 0) -> None:
        super().__init__(padding, sequence)
        self._body, self._length = _contexts(key)

    def _encrypt(
        self,
        header: bytes | memoryview,
        plain: bytes | memoryview,
        length: int,
        out: memoryview,
        at: int,
    ) -> int:
        start = at + LENGTH_SIZE
        stop = start + length
        end = stop + TAG_SIZE
        nonce = _NONCE_START + self.sequence.to_bytes(4, "big")
        self._length.reset_nonce(nonce)
        self._length.update_into(header, out[at:start])
        self._body.reset_nonce(nonce)
        tag_key = self._body.update(_FIRST_BLOCK)[:_HALF]
        self._body.update_into(plain, out[start:stop])
        out[stop:end] = Poly1305.generate_tag(tag_key, out[at:stop])
        self.sequence = (self.sequence + 1) & WRAP
        self.packets += 1
        self.octets += end - at
        return end


class ChachaOpener(CipherOpener):
    """ChaCha20 and Poly1305, receiving."""

    __slots__ = ("_body", "_length")

    def __init__(self, key: bytes, limit: int, sequence: int = 0) -> None:
        super().__init__(limit, sequence)
        self._body, self._length = _contexts(key)

    def open(self, source: memoryview, start: int, end: int, buffer: memoryview) -> int:
        """See :class:`Opener`. A wrong tag is a :class:`ProtocolError` of MAC_ERROR."""
        self.needed = 0
        body = start + LENGTH_SIZE
        if body > end:
            return 0
        nonce = _NONCE_START + self.sequence.to_bytes(4, "big")
        self._length.reset_nonce(nonce)
        length = int.from_bytes(self._length.update(source[start:body]), "big")
        if length % BLOCK or not BLOCK <= length <= self.limit:
            raise bad_length()
        stop = body + length
        tag_end = stop + TAG_SIZE
        if tag_end > end:
            self.needed = tag_end - start
            return 0
        self._body.reset_nonce(nonce)
        tag_key = self._body.update(_FIRST_BLOCK)[:_HALF]
        try:
            Poly1305.verify_tag(tag_key, source[start:stop], bytes(source[stop:tag_end]))
        except InvalidSignature:
            raise not_authentic() from None
        self._body.update_into(source[body:stop], buffer[:length])
        self.payload_end = payload_end(buffer[0], length)
        self.sequence = (self.sequence + 1) & WRAP
        self.packets += 1
        self.octets += tag_end - start
        return tag_end - start
