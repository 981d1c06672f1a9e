"""How do AES-CTR and an ``-etm@openssh.com`` MAC make a packet (OpenSSH PROTOCOL, section 1.7)?

The length is sent in the clear. The rest is encrypted, one stream over all packets (RFC
4344, section 4), and then authenticated: the MAC is of the sequence number, the length and
the encrypted bytes.

Invariants:

* Nothing is decrypted before its MAC was checked, so that nothing can be learned from how
  we refuse it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR
from cryptography.hazmat.primitives.hashes import SHA256, SHA512, HashAlgorithm
from cryptography.hazmat.primitives.hmac import HMAC

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

IV_SIZE: Final = 16

#: What the MACs hash with, by name, in the order of preference. A key is as long as a tag.
HASHES: Final[Mapping[bytes, HashAlgorithm]] = {
    b"hmac-sha2-256-etm@openssh.com": SHA256(),
    b"hmac-sha2-512-etm@openssh.com": SHA512(),
}


def _stream(key: bytes, iv: bytes) -> Any:
    """Return what encrypts, or decrypts: a stream does both."""
    return Cipher(AES(key), CTR(iv)).encryptor()


class EtmSealer(CipherSealer):
    """AES-CTR and HMAC, sending."""

    __slots__ = ("_mac", "_stream")

    def __init__(
        self,
        key: bytes,
        iv: bytes,
        mac_key: bytes,
        mac: bytes,
        padding: bytes,
        sequence: int = 0,
    ) -> None:
        super().__init__(padding, sequence)
        self._stream = _stream(key, iv)
        self._mac = HMAC(mac_key, HASHES[mac])

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
        out[at:start] = header
        self._stream.update_into(plain, out[start:stop])
        mac = self._mac.copy()
        mac.update(self.sequence.to_bytes(4, "big"))
        mac.update(out[at:stop])
        tag = mac.finalize()
        end = stop + len(tag)
        out[stop:end] = tag
        self.sequence = (self.sequence + 1) & WRAP
        self.packets += 1
        self.octets += end - at
        return end


class EtmOpener(CipherOpener):
    """AES-CTR and HMAC, receiving."""

    __slots__ = ("_mac", "_stream", "_tag_size")

    def __init__(
        self, key: bytes, iv: bytes, mac_key: bytes, mac: bytes, limit: int, sequence: int = 0
    ) -> None:
        super().__init__(limit, sequence)
        self._stream = _stream(key, iv)
        self._mac = HMAC(mac_key, HASHES[mac])
        self._tag_size = HASHES[mac].digest_size

    def open(self, source: memoryview, start: int, end: int, buffer: memoryview) -> int:
        """See :class:`Opener`. A wrong MAC is a :class:`ProtocolError` of MAC_ERROR."""
        self.needed = 0
        body = start + LENGTH_SIZE
        if body > end:
            return 0
        length = int.from_bytes(source[start:body], "big")
        if length % BLOCK or not BLOCK <= length <= self.limit:
            raise bad_length()
        stop = body + length
        tag_end = stop + self._tag_size
        if tag_end > end:
            self.needed = tag_end - start
            return 0
        mac = self._mac.copy()
        mac.update(self.sequence.to_bytes(4, "big"))
        mac.update(source[start:stop])
        try:
            mac.verify(bytes(source[stop:tag_end]))
        except InvalidSignature:
            raise not_authentic() from None
        self._stream.update_into(source[body:stop], buffer[:length])
        self.payload_end = payload_end(buffer[0], length)
        self.sequence = (self.sequence + 1) & WRAP
        self.packets += 1
        self.octets += tag_end - start
        return tag_end - start
