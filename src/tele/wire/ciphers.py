"""Which ciphers are there, and which keys do they get (RFC 4253, section 7.2)?

Invariants:

* The encrypted packet is authenticated: by the cipher itself, or by an ``-etm`` MAC. For a cipher
  that authenticates no MAC is negotiated.
* The client's order decides. OpenSSH up to 9 prefers ChaCha20, which takes twice the time of AES
  with hardware support: a server offers it only by configuration.
* Keys are derived once per exchange and direction and are kept by the cipher alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from typing import Final

from attrs import frozen

from tele.wire import etm, gcm
from tele.wire.chacha import ChachaOpener, ChachaSealer
from tele.wire.etm import HASHES, EtmOpener, EtmSealer
from tele.wire.gcm import GcmOpener, GcmSealer
from tele.wire.packets import CipherSealer, Opener

_CHACHA: Final = b"chacha20-poly1305@openssh.com"
_CTR: Final = frozenset({b"aes128-ctr", b"aes256-ctr"})

#: Key sizes in bytes by name, in the order of preference.
KEY_SIZES: Final[Mapping[bytes, int]] = {
    b"aes128-gcm@openssh.com": 16,
    b"aes256-gcm@openssh.com": 32,
    b"aes128-ctr": 16,
    b"aes256-ctr": 32,
    _CHACHA: 64,
}
#: All ciphers; offered by our client.
CIPHERS: Final = tuple(KEY_SIZES)
#: Offered by a server by default.
SERVER_CIPHERS: Final = tuple(name for name in CIPHERS if name != _CHACHA)
MACS: Final = tuple(HASHES)


def needs_mac(cipher: bytes) -> bool:
    """Whether ``cipher`` leaves authentication to a MAC that is negotiated."""
    return cipher in _CTR


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

    def sealer(
        self, cipher: bytes, from_client: bool, padding: bytes, sequence: int, mac: bytes = b""
    ) -> CipherSealer:
        """Return the sending direction of ``cipher``, with ``mac`` if it needs one."""
        key = self.derive(b"C" if from_client else b"D", KEY_SIZES[cipher])
        if cipher == _CHACHA:
            return ChachaSealer(key, padding, sequence)
        if needs_mac(cipher):
            iv, mac_key = self._iv(from_client, etm.IV_SIZE), self._mac_key(from_client, mac)
            return EtmSealer(key, iv, mac_key, mac, padding, sequence)
        return GcmSealer(key, self._iv(from_client, gcm.IV_SIZE), padding, sequence)

    def opener(
        self, cipher: bytes, from_client: bool, limit: int, sequence: int, mac: bytes = b""
    ) -> Opener:
        """Return the receiving direction of ``cipher``, with ``mac`` if it needs one."""
        key = self.derive(b"C" if from_client else b"D", KEY_SIZES[cipher])
        if cipher == _CHACHA:
            return ChachaOpener(key, limit, sequence)
        if needs_mac(cipher):
            iv, mac_key = self._iv(from_client, etm.IV_SIZE), self._mac_key(from_client, mac)
            return EtmOpener(key, iv, mac_key, mac, limit, sequence)
        return GcmOpener(key, self._iv(from_client, gcm.IV_SIZE), limit, sequence)

    def _iv(self, from_client: bool, size: int) -> bytes:
        return self.derive(b"A" if from_client else b"B", size)

    def _mac_key(self, from_client: bool, mac: bytes) -> bytes:
        return self.derive(b"E" if from_client else b"F", HASHES[mac].digest_size)
