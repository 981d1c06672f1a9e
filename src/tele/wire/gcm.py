"""How does AES-GCM make a packet (OpenSSH PROTOCOL, section 1.6; RFC 5647)?

The length is sent in the clear and authenticated; the nonce is the IV with its last 8 bytes
counted up.

Invariants:

* No nonce is used twice: the counter is increased whatever happens to a packet.
* A direction that is idle keeps its key and no OpenSSL context, which takes 2.6 kB and less than a
  microsecond to make.
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tele.wire.numbers import CHANNEL_DATA
from tele.wire.packets import (
    BLOCK,
    DATA_FIELDS,
    DATA_HEADER,
    DATA_HEADER_SIZE,
    DATA_START,
    LENGTH_SIZE,
    MIN_PADDING,
    WRAP,
    CipherOpener,
    CipherSealer,
    bad_length,
    bad_padding,
    not_authentic,
    padding_for,
)

TAG_SIZE: Final = 16
IV_SIZE: Final = 12

_NONCE_WRAP: Final = 0xFFFFFFFFFFFFFFFF
#: Where the encrypted part of a packet of channel data begins in its buffer.
_BODY: Final = DATA_START + LENGTH_SIZE

#: Contexts that are kept whether they are used or not.
CONTEXTS_KEPT: Final = 64
#: Contexts that are checked for use when one more is made.
_CHECKED: Final = 4

#: The directions that have a context, and how many packets they had when they were last checked.
_with_context: Final[deque[tuple[weakref.ref[GcmSealer | GcmOpener], int]]] = deque()


def _context_made(direction: GcmSealer | GcmOpener) -> None:
    """Note that ``direction`` has a context; idle directions lose theirs for it."""
    _with_context.append((weakref.ref(direction), direction.packets))
    for _ in range(min(_CHECKED, len(_with_context) - CONTEXTS_KEPT)):
        reference, packets = _with_context.popleft()
        checked = reference()
        if checked is None:
            continue
        if checked.packets == packets:
            checked.drop_context()
        else:
            _with_context.append((reference, checked.packets))


class GcmSealer(CipherSealer):
    """AES-GCM, sending."""

    __slots__ = ("__weakref__", "_counter", "_encrypt_into", "_fixed", "_key")

    def __init__(self, key: bytes, iv: bytes, padding: bytes, sequence: int = 0) -> None:
        super().__init__(padding, sequence)
        self._key = key
        self._encrypt_into: Callable[..., Any] | None = None
        self._fixed = iv[:4]
        self._counter = int.from_bytes(iv[4:12], "big")

    @property
    def has_context(self) -> bool:
        """Whether it holds an OpenSSL context."""
        return self._encrypt_into is not None

    def drop_context(self) -> None:
        """Make a new context for the next packet."""
        self._encrypt_into = None

    def seal_data(
        self,
        buffer: memoryview,
        channel: int,
        size: int,
        code: int | None,
        out: memoryview,
        at: int,
    ) -> int:
        """See :class:`Sealer`. The same as for any cipher, in one call for each packet."""
        encrypt_into = self._encrypt_into
        if code is not None or encrypt_into is None:
            return super().seal_data(buffer, channel, size, code, out, at)
        padding = padding_for(DATA_FIELDS + size, BLOCK)
        length = DATA_FIELDS + size + padding
        DATA_HEADER.pack_into(buffer, DATA_START, length, padding, CHANNEL_DATA, channel, size)
        data_end = DATA_HEADER_SIZE + size
        buffer[data_end : data_end + padding] = self._padding[:padding]
        header = buffer[DATA_START:_BODY]
        body = at + LENGTH_SIZE
        end = body + length + TAG_SIZE
        out[at:body] = header
        counter = self._counter
        self._counter = (counter + 1) & _NONCE_WRAP
        nonce = self._fixed + counter.to_bytes(8, "big")
        encrypt_into(nonce, buffer[_BODY : _BODY + length], header, out[body:end])
        self.sequence = (self.sequence + 1) & WRAP
        self.packets += 1
        self.octets += end - at
        return end

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
        encrypt_into = self._encrypt_into
        if encrypt_into is None:
            encrypt_into = self._encrypt_into = AESGCM(self._key).encrypt_into
            _context_made(self)
        encrypt_into(nonce, plain, header, out[body:end])
        self.sequence = (self.sequence + 1) & WRAP
        self.packets += 1
        self.octets += end - at
        return end


class GcmOpener(CipherOpener):
    """AES-GCM, receiving."""

    __slots__ = ("__weakref__", "_counter", "_decrypt_into", "_fixed", "_key")

    def __init__(self, key: bytes, iv: bytes, limit: int, sequence: int = 0) -> None:
        super().__init__(limit, sequence)
        self._key = key
        self._decrypt_into: Callable[..., Any] | None = None
        self._fixed = iv[:4]
        self._counter = int.from_bytes(iv[4:12], "big")

    @property
    def has_context(self) -> bool:
        """Whether it holds an OpenSSL context."""
        return self._decrypt_into is not None

    def drop_context(self) -> None:
        """Make a new context for the next packet."""
        self._decrypt_into = None

    def open(self, source: memoryview, start: int, end: int, buffer: memoryview) -> int:
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
        decrypt_into = self._decrypt_into
        if decrypt_into is None:
            decrypt_into = self._decrypt_into = AESGCM(self._key).decrypt_into
            _context_made(self)
        try:
            decrypt_into(nonce, source[body:stop], header, buffer[:length])
        except InvalidTag:
            raise not_authentic() from None
        padding = buffer[0]
        if not MIN_PADDING <= padding <= length - 2:
            raise bad_padding()
        self.payload_end = length - padding
        self.sequence = (self.sequence + 1) & WRAP
        self.packets += 1
        self.octets += stop - start
        return stop - start
