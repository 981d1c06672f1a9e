"""SSH keys: parsing, signing, and verifying signatures.

Invariants:

* Parsing is strict: a blob is read to its end, numbers are canonical, curves match.
* A signature is checked against the signature types that the caller allows, by name.
* Every error in a peer's key or signature is :class:`BadCertificate`.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Collection
from typing import Final

from attrs import field, frozen
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import (
    decode_dss_signature,
    encode_dss_signature,
)

from tele.certs import algorithms as names
from tele.certs.composite import (
    PUBLIC_SIZE,
    CompositePrivateKey,
    CompositePublicKey,
    read_openssh,
)
from tele.errors import BadCertificate, InvalidInput, ProtocolError, quoted
from tele.wire.fields import Reader, mpint, string

BLOB_LIMIT: Final = 64 * 1024

_Curve = tuple[type[ec.EllipticCurve], type[hashes.HashAlgorithm]]
_CURVES: Final[dict[bytes, _Curve]] = {
    names.ECDSA_256: (ec.SECP256R1, hashes.SHA256),
    names.ECDSA_384: (ec.SECP384R1, hashes.SHA384),
    names.ECDSA_521: (ec.SECP521R1, hashes.SHA512),
}
_RSA_HASHES: Final[dict[bytes, type[hashes.HashAlgorithm]]] = {
    names.RSA_SHA256: hashes.SHA256,
    names.RSA_SHA512: hashes.SHA512,
}

_Public = (
    ed25519.Ed25519PublicKey | rsa.RSAPublicKey | ec.EllipticCurvePublicKey | CompositePublicKey
)
_Private = (
    ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | CompositePrivateKey
)

#: The order of the group of NIST P-256 (FIPS 186-4, D.1.2.3).
_P256_ORDER: Final = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
#: Flags of a security key's signature (OpenSSH PROTOCOL.u2f).
USER_PRESENT: Final = 0x01
USER_VERIFIED: Final = 0x04


@frozen
class PublicKey:
    """A plain public key. ``type`` is its key type, ``blob`` its SSH encoding."""

    type: bytes
    blob: bytes
    _key: _Public = field(eq=False, repr=False)
    _application: bytes = field(default=b"", eq=False, repr=False)

    @property
    def signature_types(self) -> tuple[bytes, ...]:
        """The types of what :meth:`PrivateKey.sign` makes with its other half."""
        return (names.RSA_SHA512,) if self.type == names.RSA else (self.type,)

    def verify(
        self,
        signature: bytes,
        data: bytes,
        allowed: Collection[bytes],
        *,
        user_verified: bool = False,
    ) -> None:
        """Return if ``signature`` (an SSH signature blob) is of this key over ``data``.

        ``allowed`` are signature types. A security key must have seen a touch, and
        with ``user_verified`` a PIN or finger too. Raises :class:`BadCertificate`
        with reason ``signature``.
        """
        try:
            reader = Reader(signature)
            kind = reader.string(64)
            if kind not in allowed:
                raise BadCertificate(f"signature type {quoted(kind)} is not allowed", "signature")
            self._verify(kind, reader, data, user_verified)
        except (ProtocolError, InvalidSignature, ValueError) as error:
            raise BadCertificate(f"bad signature: {error}".rstrip(": "), "signature") from None

    def _verify(self, kind: bytes, reader: Reader, data: bytes, user_verified: bool) -> None:
        value = reader.string()
        if self.type in (names.SK_ED25519, names.SK_ECDSA):
            flags = reader.take(1)
            counter = reader.take(4)
            if not flags[0] & USER_PRESENT:
                raise ValueError("the security key was not touched")
            if user_verified and not flags[0] & USER_VERIFIED:
                raise ValueError("the security key did not verify its user")
            digest = hashlib.sha256(data).digest()
            data = hashlib.sha256(self._application).digest() + flags + counter + digest
        reader.end()
        match self._key:
            case rsa.RSAPublicKey() as key if kind in _RSA_HASHES:
                size = (key.key_size + 7) // 8
                # OpenSSH pads short signatures too: leading zeros may be left out.
                key.verify(value.rjust(size, b"\0"), data, padding.PKCS1v15(), _RSA_HASHES[kind]())
            case ed25519.Ed25519PublicKey() | CompositePublicKey() as key if kind == self.type:
                key.verify(value, data)
            case ec.EllipticCurvePublicKey() as key if kind == self.type:
                inner = Reader(value)
                r, s = _positive(inner.string(128)), _positive(inner.string(128))
                inner.end()
                curve = _CURVES.get(kind, _CURVES[names.ECDSA_256])
                key.verify(encode_dss_signature(r, s), data, ec.ECDSA(curve[1]()))
            case _:
                raise ValueError("the signature is of another kind than the key")

    @property
    def line(self) -> str:
        """``type base64``, without a comment."""
        return encode_line(self.type, self.blob)

    @property
    def fingerprint(self) -> str:
        """``SHA256:...`` as ssh-keygen prints it."""
        return fingerprint(self.blob)


def fingerprint(blob: bytes) -> str:
    """Return ``SHA256:...`` of a key blob, as ssh-keygen prints it."""
    digest = base64.b64encode(hashlib.sha256(blob).digest()).rstrip(b"=")
    return f"SHA256:{digest.decode('ascii')}"


def encode_line(kind: bytes, blob: bytes) -> str:
    """Return ``type base64`` of a key or certificate blob."""
    return f"{kind.decode('ascii')} {base64.b64encode(blob).decode('ascii')}"


def parse_line(text: str | bytes) -> bytes:
    """Return the blob of a public key or certificate line (``type base64 [comment]``).

    Raises :class:`InvalidInput` if it is not such a line, or if the type differs from the blob's.
    """
    raw = text.encode("utf-8") if isinstance(text, str) else text
    words = raw.split(None, 2)
    if len(words) < 2 or len(raw) > 2 * BLOB_LIMIT or b"\n" in raw.strip():
        raise InvalidInput("not a public key: expected one line 'type base64 [comment]'")
    try:
        blob = base64.b64decode(words[1], validate=True)
        kind = Reader(blob).string(64)
    except (binascii.Error, ProtocolError):
        raise InvalidInput("not a public key: the second word is not its base64") from None
    if kind != words[0]:
        raise InvalidInput(f"the line says {quoted(words[0])}, the key inside {quoted(kind)}")
    return blob


def _positive(number: bytes) -> int:
    """Read a canonical, positive mpint (RFC 4251, section 5)."""
    if not number or number[0] & 0x80 or (number[0] == 0 and not (number[1:2] or b"\0")[0] & 0x80):
        raise ProtocolError("a number is not positive or not in its shortest form")
    return int.from_bytes(number, "big")


def read_key_body(kind: bytes, reader: Reader) -> tuple[_Public, bytes]:
    """Read the fields that follow the type in a key blob: the key, and an sk application.

    Raises ProtocolError or ValueError.
    """
    if kind == names.ED25519:
        return ed25519.Ed25519PublicKey.from_public_bytes(reader.string(32)), b""
    if kind == names.RSA:
        e, n = _positive(reader.string(9)), _positive(reader.string(2050))
        if not names.RSA_MINIMUM_BITS <= n.bit_length() <= names.RSA_MAXIMUM_BITS:
            raise ValueError(f"an RSA key of {n.bit_length()} bits is not allowed")
        return rsa.RSAPublicNumbers(e, n).public_key(), b""
    if kind in _CURVES:
        if reader.string(16) != kind.rpartition(b"-")[2]:
            raise ValueError("the curve does not match the key type")
        return _point(kind, reader.string(133)), b""
    if kind == names.SK_ED25519:
        return ed25519.Ed25519PublicKey.from_public_bytes(reader.string(32)), reader.string(1024)
    if kind == names.SK_ECDSA:
        if reader.string(16) != b"nistp256":
            raise ValueError("the curve does not match the key type")
        return _point(names.ECDSA_256, reader.string(133)), reader.string(1024)
    if kind == names.MLDSA44_ED25519:
        return CompositePublicKey.from_public_bytes(reader.string(PUBLIC_SIZE)), b""
    raise ValueError(f"key type {quoted(kind)} is not supported")


def _point(kind: bytes, encoded: bytes) -> ec.EllipticCurvePublicKey:
    if encoded[:1] != b"\x04":
        raise ValueError("the point is not in uncompressed form")
    return ec.EllipticCurvePublicKey.from_encoded_point(_CURVES[kind][0](), encoded)


def parse_public_key(blob: bytes) -> PublicKey:
    """Read a plain public key blob. Raises :class:`BadCertificate`, reason ``key``."""
    try:
        reader = Reader(blob)
        kind = reader.string(64)
        key, application = read_key_body(kind, reader)
        reader.end()
    except (ProtocolError, ValueError, UnsupportedAlgorithm) as error:
        raise BadCertificate(f"bad public key: {error}", "key") from None
    return PublicKey(kind, blob, key, application)


def encode_public(key: _Public) -> tuple[bytes, bytes]:
    """Return (type, blob) of a public key of ``cryptography``."""
    match key:
        case ed25519.Ed25519PublicKey():
            kind = names.ED25519
            body = string(key.public_bytes_raw())
        case CompositePublicKey():
            kind = names.MLDSA44_ED25519
            body = string(key.public_bytes_raw())
        case rsa.RSAPublicKey():
            kind = names.RSA
            numbers = key.public_numbers()
            body = _number(numbers.e) + _number(numbers.n)
        case ec.EllipticCurvePublicKey():
            kind = next(k for k, (curve, _) in _CURVES.items() if isinstance(key.curve, curve))
            point = key.public_bytes(
                serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
            )
            body = string(kind.rpartition(b"-")[2]) + string(point)
    return kind, string(kind) + body


def _number(value: int) -> bytes:
    return mpint(value.to_bytes((value.bit_length() + 7) // 8, "big"))


@frozen(eq=False, repr=False)
class PrivateKey:
    """A private key. Its repr is its fingerprint."""

    _key: _Private
    public: PublicKey

    def __repr__(self) -> str:
        return f"<PrivateKey {self.public.type.decode('ascii')} {self.public.fingerprint}>"

    @classmethod
    def generate(cls, algorithm: str = "ssh-ed25519") -> PrivateKey:
        """Make a key: ``ssh-ed25519``, ``ecdsa-sha2-nistp256``, ``ssh-rsa`` (3072 bits), or
        ``ssh-mldsa44-ed25519@openssh.com``. Raises :class:`InvalidInput` where it cannot be made.
        """
        match algorithm:
            case "ssh-ed25519":
                return cls._of(ed25519.Ed25519PrivateKey.generate())
            case "ecdsa-sha2-nistp256":
                return cls._of(ec.generate_private_key(ec.SECP256R1()))
            case "ssh-rsa":
                return cls._of(rsa.generate_private_key(65537, 3072))
            case "ssh-mldsa44-ed25519@openssh.com":
                return cls._of(CompositePrivateKey.generate())
        raise InvalidInput(f"cannot make a key of type {quoted(algorithm)}")

    @classmethod
    def derived(cls, algorithm: str, material: bytes) -> PrivateKey:
        """Return the key of a type that 64 secret bytes, which look random, lead to."""
        match algorithm:
            case "ssh-ed25519":
                return cls._of(ed25519.Ed25519PrivateKey.from_private_bytes(material[:32]))
            case "ecdsa-sha2-nistp256":
                number = int.from_bytes(material, "big") % (_P256_ORDER - 1) + 1
                return cls._of(ec.derive_private_key(number, ec.SECP256R1()))
            case "ssh-mldsa44-ed25519@openssh.com":
                return cls._of(CompositePrivateKey.from_seeds(material))
        raise InvalidInput(f"cannot derive a key of type {quoted(algorithm)}")

    @classmethod
    def from_openssh(cls, text: bytes) -> PrivateKey:
        """Read an unencrypted OpenSSH private key. Raises :class:`InvalidInput`."""
        if (composite := read_openssh(text)) is not None:
            return cls._of(composite)
        try:
            key = serialization.load_ssh_private_key(text, None)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            raise InvalidInput("not an unencrypted OpenSSH private key") from None
        if not isinstance(key, _Private):
            raise InvalidInput("the private key is of a type that is not supported")
        return cls._of(key)

    @classmethod
    def _of(cls, key: _Private) -> PrivateKey:
        kind, blob = encode_public(key.public_key())
        return cls(key, PublicKey(kind, blob, key.public_key()))

    def to_openssh(self) -> bytes:
        """Return the unencrypted OpenSSH form: for a file of mode 0600 and nothing else."""
        return self._key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.OpenSSH,
            serialization.NoEncryption(),
        )

    def sign(self, data: bytes, signature_type: bytes | None = None) -> bytes:
        """Return an SSH signature blob over ``data``.

        ``signature_type`` may be a certificate algorithm's name; it chooses the hash
        for RSA (SHA-512 if not given).
        """
        wanted = signature_type
        if wanted is not None and wanted in names.CERTIFICATE_ALGORITHMS:
            wanted = names.CERTIFICATE_ALGORITHMS[wanted].signature
        match self._key:
            case rsa.RSAPrivateKey() as key:
                kind = wanted or names.RSA_SHA512
                if kind not in _RSA_HASHES:
                    raise InvalidInput(f"an RSA key cannot make a {quoted(kind)} signature")
                value = key.sign(data, padding.PKCS1v15(), _RSA_HASHES[kind]())
            case ed25519.Ed25519PrivateKey() | CompositePrivateKey() as key:
                kind, value = self.public.type, key.sign(data)
            case ec.EllipticCurvePrivateKey() as key:
                kind = self.public.type
                r, s = decode_dss_signature(key.sign(data, ec.ECDSA(_CURVES[kind][1]())))
                value = _number(r) + _number(s)
        if wanted is not None and wanted != kind:
            raise InvalidInput(f"this key cannot make a {quoted(wanted)} signature")
        return string(kind) + string(value)
