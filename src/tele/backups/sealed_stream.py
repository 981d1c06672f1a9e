"""How is a backup sealed, so that the place where it is kept cannot read it?

A line of text, a header of JSON, then pieces of AES-256-GCM. Their key is made for each backup;
the header has it for each public key (HPKE, as :mod:`tele.tape.sealing`), and for a passphrase
(scrypt).

Invariants:

* Nothing is returned before it was verified; no piece can be left out, moved, or cut off.
* The header cannot be changed: it is associated data of each piece.
* What a header asks of the memory of its reader is bounded.
* A backup for a public key can be made by any owner of that key: its reader checks whose it is.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from typing import IO, TYPE_CHECKING, Any, Final

from attrs import field, frozen

from tele.errors import InvalidInput

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.hpke import Suite

MAGIC: Final = b"tele-backup-1\n"
KEY_SIZE: Final = 32
#: Bytes of a piece; all but the last one have so many.
PIECE: Final = 256 * 1024
HEADER_LIMIT: Final = 64 * 1024
RECIPIENTS_LIMIT: Final = 32
#: A shorter passphrase is guessed.
PASSPHRASE_LEAST: Final = 12
_TAG: Final = 16
_NONCE: Final = 12
_CONTEXT: Final = b"tele-backup@tele\n"
#: scrypt: 128 MiB of memory.
_COST: Final = {"n": 1 << 17, "r": 8, "p": 1}


def _suite() -> Suite:
    from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

    return Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)


@frozen
class SealedFor:
    """Who can open a backup: those with a key of ``recipients`` (X25519), or with a passphrase.

    ``passphrase`` None: only the former.
    """

    recipients: tuple[bytes, ...] = ()
    passphrase: str | None = field(default=None, repr=False)


@frozen
class OpenedBy:
    """What opens a backup: a private key (X25519) or a passphrase."""

    private: bytes | None = field(default=None, repr=False)
    passphrase: str | None = field(default=None, repr=False)


# -- the header -----------------------------------------------------------------------
def _from_passphrase(passphrase: str, salt: bytes) -> bytes:
    return hashlib.scrypt(
        passphrase.encode("utf-8"), salt=salt, dklen=KEY_SIZE, maxmem=1 << 28, **_COST
    )


def _header(key: bytes, for_whom: SealedFor, entropy: Callable[[int], bytes]) -> bytes:
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    if not for_whom.recipients and for_whom.passphrase is None:
        raise InvalidInput("a backup needs a public key or a passphrase that opens it")
    if len(for_whom.recipients) > RECIPIENTS_LIMIT:
        raise InvalidInput(f"a backup has at most {RECIPIENTS_LIMIT} public keys")
    value: dict[str, Any] = {"recipients": []}
    for each in for_whom.recipients:
        try:
            sealed = _suite().encrypt(key, X25519PublicKey.from_public_bytes(each), _CONTEXT)
        except ValueError:
            raise InvalidInput("not an X25519 public key of 32 bytes") from None
        value["recipients"].append({"public": each.hex(), "key": sealed.hex()})
    if for_whom.passphrase is not None:
        if len(for_whom.passphrase) < PASSPHRASE_LEAST:
            raise InvalidInput(f"a passphrase has at least {PASSPHRASE_LEAST} characters")
        salt, nonce = entropy(16), entropy(_NONCE)
        sealed = AESGCM(_from_passphrase(for_whom.passphrase, salt)).encrypt(nonce, key, _CONTEXT)
        value["passphrase"] = {"salt": salt.hex(), "key": (nonce + sealed).hex()}
    return json.dumps(value, separators=(",", ":")).encode("ascii")


def _key_of(header: bytes, by: OpenedBy) -> bytes:
    """Return the key of a backup. Raises :class:`InvalidInput`."""
    try:
        value = json.loads(header)
        recipients = [
            (bytes.fromhex(each["public"]), bytes.fromhex(each["key"]))
            for each in value["recipients"]
        ]
        locked = value.get("passphrase")
        salt, sealed = (
            (b"", b"")
            if locked is None
            else (bytes.fromhex(locked["salt"]), bytes.fromhex(locked["key"]))
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise InvalidInput("the header of the backup is damaged") from None
    key = b""
    if by.private is not None:
        key = _by_private(recipients[:RECIPIENTS_LIMIT], by.private)
    elif by.passphrase is not None:
        if not sealed:
            raise InvalidInput("this backup has no passphrase: give the private key that opens it")
        key = _by_passphrase(by.passphrase, salt, sealed)
    if len(key) != KEY_SIZE:
        raise InvalidInput("the header of the backup is damaged")
    return key


def _by_private(recipients: Sequence[tuple[bytes, bytes]], private: bytes) -> bytes:
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

    key = X25519PrivateKey.from_private_bytes(private)
    public = key.public_key().public_bytes_raw()
    for recipient, sealed in recipients:
        if recipient == public:
            try:
                return _suite().decrypt(sealed, key, _CONTEXT)
            except (InvalidTag, ValueError):
                raise InvalidInput("the header of the backup was changed") from None
    raise InvalidInput("this private key does not open the backup: it was made for other keys")


def _by_passphrase(passphrase: str, salt: bytes, sealed: bytes) -> bytes:
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    try:
        derived = _from_passphrase(passphrase, salt)
        return AESGCM(derived).decrypt(sealed[:_NONCE], sealed[_NONCE:], _CONTEXT)
    except (InvalidTag, ValueError):
        raise InvalidInput("this passphrase does not open the backup") from None


# -- pieces ---------------------------------------------------------------------------
def _nonce(number: int, last: bool) -> bytes:
    return number.to_bytes(_NONCE - 1, "big") + bytes([last])


class SealedWriter:
    """Writes a backup to ``file``: :meth:`write`, and :meth:`finish` at the end.

    ``entropy(n)`` returns ``n`` random bytes. Raises :class:`InvalidInput` if nothing opens it.
    """

    def __init__(
        self, file: IO[bytes], for_whom: SealedFor, entropy: Callable[[int], bytes]
    ) -> None:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        key = entropy(KEY_SIZE)
        header = _header(key, for_whom, entropy)
        self._file = file
        self._seal = AESGCM(key)
        self._head = MAGIC + len(header).to_bytes(4, "big") + header
        self._waiting = bytearray()
        self._number = 0
        file.write(self._head)

    def write(self, data: bytes) -> int:
        """Take data; they are written when a piece is full."""
        self._waiting += data
        while len(self._waiting) > PIECE:
            self._put(bytes(self._waiting[:PIECE]), last=False)
            del self._waiting[:PIECE]
        return len(data)

    def flush(self) -> None:
        """Do nothing: a piece is whole, or the last one."""

    def finish(self) -> None:
        """Write the last piece."""
        self._put(bytes(self._waiting), last=True)
        self._waiting.clear()

    def _put(self, data: bytes, *, last: bool) -> None:
        sealed = self._seal.encrypt(_nonce(self._number, last), data, self._head)
        self._number += 1
        self._file.write(sealed)


class SealedReader:
    """Reads a backup from ``file``, for :mod:`tarfile` and zstandard: :meth:`read`.

    Raises :class:`InvalidInput` if it is none, does not open, was changed or cut off.
    """

    def __init__(self, file: IO[bytes], by: OpenedBy) -> None:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        begin = file.read(len(MAGIC) + 4)
        if not begin.startswith(MAGIC) or len(begin) != len(MAGIC) + 4:
            raise InvalidInput("not a backup of tele, or of a version that this one cannot read")
        size = int.from_bytes(begin[len(MAGIC) :], "big")
        header = file.read(size) if size <= HEADER_LIMIT else b""
        if len(header) != size:
            raise InvalidInput("the header of the backup is damaged")
        self._file = file
        self._open = AESGCM(_key_of(header, by))
        self._head = begin + header
        self._next = file.read(PIECE + _TAG)
        self._data = b""
        self._number = 0
        self._ended = False

    def read(self, size: int = -1) -> bytes:
        """Return at most ``size`` bytes, empty at the end; at most a piece."""
        if not self._data and not self._ended:
            self._data = self._piece()
        if size < 0 or size >= len(self._data):
            data, self._data = self._data, b""
            return data
        data, self._data = self._data[:size], self._data[size:]
        return data

    def _piece(self) -> bytes:
        from cryptography.exceptions import InvalidTag

        sealed, self._next = self._next, self._file.read(PIECE + _TAG)
        last = not self._next
        try:
            data = self._open.decrypt(_nonce(self._number, last), sealed, self._head)
        except (InvalidTag, ValueError):
            raise InvalidInput("the backup was changed, damaged, or its end was cut off") from None
        self._number += 1
        self._ended = last
        return data
