"""OpenSSH certificates (PROTOCOL.certkeys): parsing and encoding.

Invariants:

* Any bytes are either a :class:`Certificate` or :class:`BadCertificate`; nothing else.
* No signature is checked here (see ``check``), and the CA's key is not parsed, so that a forged
  certificate costs no public-key operation of its CA.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from typing import Final

from attrs import field, frozen
from cryptography.exceptions import UnsupportedAlgorithm

from tele.certs.algorithms import KEY_TYPES
from tele.certs.keys import PublicKey, encode_line, encode_public, fingerprint, read_key_body
from tele.errors import BadCertificate, ProtocolError, quoted
from tele.wire.fields import Reader, string

SIZE_LIMIT: Final = 32 * 1024
PRINCIPALS_LIMIT: Final = 256
OPTIONS_LIMIT: Final = 64
FOREVER: Final = 0xFFFF_FFFF_FFFF_FFFF


class CertKind(IntEnum):
    """The type of a certificate: for a user or a host."""

    USER = 1
    HOST = 2


@frozen
class Certificate:
    """One certificate. Times are Unix seconds, ``valid_before`` is exclusive.

    ``authority_key`` is the CA's key blob, ``signed`` all bytes that ``signature`` covers.
    """

    type: bytes
    nonce: bytes = field(repr=False)
    key: PublicKey
    serial: int
    kind: CertKind
    key_id: str
    principals: tuple[str, ...]
    valid_after: int
    valid_before: int
    critical: Mapping[str, bytes]
    extensions: Mapping[str, bytes]
    authority_key: bytes = field(repr=False)
    signature: bytes = field(repr=False)
    signed: bytes = field(repr=False)
    blob: bytes = field(repr=False)

    @property
    def line(self) -> str:
        """``type base64``, as in a ``-cert.pub`` file."""
        return encode_line(self.type, self.blob)

    @property
    def authority_fingerprint(self) -> str:
        """``SHA256:...`` of the CA's key."""
        return fingerprint(self.authority_key)


def read_options(data: bytes) -> dict[str, bytes]:
    """Read critical options or extensions: sorted, unique, each value a string or empty."""
    reader = Reader(data)
    options: dict[str, bytes] = {}
    last = b""
    while not reader.at_end():
        name, value = reader.string(256), reader.string(SIZE_LIMIT)
        if name <= last:
            raise ProtocolError("options are not in order")
        if len(options) >= OPTIONS_LIMIT:
            raise ProtocolError("too many options")
        last = name
        inner = b""
        if value:
            body = Reader(value)
            inner = body.string()
            body.end()
        options[_ascii(name)] = inner
    return options


def write_options(options: Mapping[str, bytes]) -> bytes:
    """Encode critical options or extensions; a flag is an empty value."""
    return b"".join(
        string(name.encode("ascii")) + string(string(value) if value else b"")
        for name, value in sorted(options.items(), key=lambda pair: pair[0].encode("ascii"))
    )


def _ascii(name: bytes) -> str:
    if not name.isascii() or not name.decode("ascii").isprintable():
        raise ProtocolError("a name is not printable ASCII")
    return name.decode("ascii")


def _text(data: bytes) -> str:
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        raise ProtocolError("a text is not UTF-8") from None
    if "\0" in text:
        raise ProtocolError("a text holds a zero byte")
    return text


def parse_certificate(blob: bytes) -> Certificate:
    """Read a certificate blob. Raises :class:`BadCertificate` with reason ``malformed``."""
    try:
        return _parse(blob)
    except (ProtocolError, ValueError, UnsupportedAlgorithm) as error:
        raise BadCertificate(f"not a usable certificate: {error}", "malformed") from None


def _parse(blob: bytes) -> Certificate:
    if len(blob) > SIZE_LIMIT:
        raise ValueError(f"it has {len(blob)} bytes, more than {SIZE_LIMIT}")
    reader = Reader(blob)
    kind = reader.string(64)
    plain = KEY_TYPES.get(kind)
    if plain is None:
        raise ValueError(f"type {quoted(kind)} is not supported")
    nonce = reader.string(256)
    key, application = read_key_body(plain, reader)
    serial = reader.uint64()
    number = reader.uint32()
    key_id = _text(reader.string(1024))
    principals = _principals(reader.string())
    valid_after, valid_before = reader.uint64(), reader.uint64()
    critical, extensions = read_options(reader.string()), read_options(reader.string())
    reader.string()  # reserved
    authority_key = reader.string()
    # Certificates signed by a certificate are not allowed (PROTOCOL.certkeys).
    if Reader(authority_key).string(64) in KEY_TYPES:
        raise ValueError("its authority is itself a certificate")
    signature = reader.string(4096)
    reader.end()
    signed = blob[: len(blob) - 4 - len(signature)]
    _, encoded = encode_public(key)
    if plain.startswith(b"sk-"):
        encoded = string(plain) + _after_type(encoded) + string(application)
    return Certificate(
        kind, nonce, PublicKey(plain, encoded, key, application), serial, CertKind(number), key_id,
        principals, valid_after, valid_before, critical, extensions, authority_key, signature,
        signed, blob,
    )  # fmt: skip


def _after_type(encoded: bytes) -> bytes:
    """The fields after the type: a security key's begin with those of the same plain key."""
    reader = Reader(encoded)
    reader.string()
    return reader.rest()


def _principals(data: bytes) -> tuple[str, ...]:
    reader = Reader(data)
    principals: list[str] = []
    while not reader.at_end():
        if len(principals) >= PRINCIPALS_LIMIT:
            raise ValueError(f"it has more than {PRINCIPALS_LIMIT} principals")
        principals.append(_text(reader.string(256)))
    return tuple(principals)
