"""How is an identity of tele encoded in X.509, for the API's mutual TLS?

One extension has the content of the SSH certificate's extensions; the ASN.1 module is in
``docs/protocols/certificates``. It is not critical, so that ordinary TLS libraries accept the
certificate; our own checks demand it.

Invariants:

* A user certificate can only be a TLS client; a host certificate both client and server.
* Only public keys are arguments here.
* Reading any certificate gives an identity or BadCertificate.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from typing import Any, Final

from attrs import frozen
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from pyasn1.codec.der.decoder import decode as der_decode
from pyasn1.codec.der.encoder import encode as der_encode
from pyasn1.error import PyAsn1Error
from pyasn1.type import char, namedtype, tag, univ

from tele.certs.check import BACKDATE
from tele.certs.names import own_addresses
from tele.errors import BadCertificate, InvalidInput
from tele.model.authority import AuthorityKind
from tele.model.identity import HostIdentity, HostRole, UserIdentity
from tele.model.lifetimes import AUTHORITY_LIFETIME

#: 2.25 is the arc of UUIDs (ITU-T X.667): this UUID was generated for tele's identities.
IDENTITY_OID: Final = x509.ObjectIdentifier("2.25.243107219317653921845609264174318220911")
VERSION: Final = 1
EXTENSION_LIMIT: Final = 32 * 1024

_UTF8 = char.UTF8String


class _Strings(univ.SequenceOf):  # type: ignore[misc]
    componentType = _UTF8()


class _Trait(univ.Sequence):  # type: ignore[misc]
    componentType = namedtype.NamedTypes(
        namedtype.NamedType("name", _UTF8()), namedtype.NamedType("values", _Strings())
    )


class _Traits(univ.SequenceOf):  # type: ignore[misc]
    componentType = _Trait()


class _User(univ.Sequence):  # type: ignore[misc]
    componentType = namedtype.NamedTypes(
        namedtype.NamedType("name", _UTF8()),
        namedtype.NamedType("roles", _Strings()),
        namedtype.NamedType("logins", _Strings()),
        namedtype.NamedType("traits", _Traits()),
        namedtype.NamedType("loginSession", _UTF8()),
        namedtype.NamedType("mfa", univ.Boolean()),
    )


class _Host(univ.Sequence):  # type: ignore[misc]
    componentType = namedtype.NamedTypes(
        namedtype.NamedType("hostId", _UTF8()),
        namedtype.NamedType("name", _UTF8()),
        namedtype.NamedType("role", _UTF8()),
    )


def _tagged(number: int) -> tag.Tag:
    return tag.Tag(tag.tagClassContext, tag.tagFormatConstructed, number)


class _Subject(univ.Choice):  # type: ignore[misc]
    componentType = namedtype.NamedTypes(
        namedtype.NamedType("user", _User().subtype(implicitTag=_tagged(0))),
        namedtype.NamedType("host", _Host().subtype(implicitTag=_tagged(1))),
    )


class _Identity(univ.Sequence):  # type: ignore[misc]
    componentType = namedtype.NamedTypes(
        namedtype.NamedType("version", univ.Integer()),
        namedtype.NamedType("cluster", _UTF8()),
        namedtype.NamedType("subject", _Subject()),
    )


def _encode(identity: UserIdentity | HostIdentity) -> bytes:
    value = _Identity()
    value["version"] = VERSION
    value["cluster"] = identity.cluster
    match identity:
        case UserIdentity():
            user = value["subject"]["user"]
            user["name"] = identity.user
            user["roles"].extend(identity.roles)
            user["logins"].extend(identity.logins)
            user["traits"].clear()
            for name, values in sorted(identity.traits.items()):
                trait = _Trait()
                trait["name"] = name
                trait["values"].extend(values)
                user["traits"].append(trait)
            user["loginSession"] = identity.login_session
            user["mfa"] = identity.mfa
        case HostIdentity():
            host = value["subject"]["host"]
            host["hostId"] = identity.host_id
            host["name"] = identity.name
            host["role"] = identity.role.value
    encoded: bytes = der_encode(value)
    return encoded


def _decode(
    data: bytes, expires: datetime, issued: datetime, serial: int
) -> UserIdentity | HostIdentity:
    value, rest = der_decode(data, asn1Spec=_Identity())
    if rest:
        raise ValueError("bytes follow the identity")
    if int(value["version"]) != VERSION:
        raise ValueError(f"identity version {int(value['version'])} is not known")
    cluster = str(value["cluster"])
    kind = value["subject"].getName()
    subject: Any = value["subject"].getComponent()
    if kind == "user":
        return UserIdentity(
            user=str(subject["name"]),
            cluster=cluster,
            expires=expires,
            roles=tuple(map(str, subject["roles"])),
            logins=tuple(map(str, subject["logins"])),
            traits={str(t["name"]): tuple(map(str, t["values"])) for t in subject["traits"]},
            login_session=str(subject["loginSession"]),
            mfa=bool(subject["mfa"]),
            issued=issued,
            serial=serial,
        )
    return HostIdentity(
        host_id=str(subject["hostId"]),
        name=str(subject["name"]),
        cluster=cluster,
        role=HostRole(str(subject["role"])),
        expires=expires,
        issued=issued,
        serial=serial,
    )


def read_identity(certificate: x509.Certificate) -> UserIdentity | HostIdentity:
    """Return the identity in a certificate. The caller verifies its chain.

    Raises :class:`BadCertificate`: ``identity`` when the extension is missing or malformed.
    """
    try:
        extension = certificate.extensions.get_extension_for_oid(IDENTITY_OID).value
        if not isinstance(extension, x509.UnrecognizedExtension):
            raise TypeError("the identity extension is of another type")
        if len(extension.value) > EXTENSION_LIMIT:
            raise ValueError("the identity is too long")
        issued = certificate.not_valid_before_utc + BACKDATE
        until, serial = certificate.not_valid_after_utc, certificate.serial_number
        return _decode(extension.value, until, issued, serial)
    except (
        x509.ExtensionNotFound,
        PyAsn1Error,
        ValueError,
        TypeError,
        RecursionError,
        OverflowError,
    ) as error:
        raise BadCertificate(
            f"no identity of tele in the certificate: {error}", "identity"
        ) from None


@frozen(repr=False)
class TlsKey:
    """A private key for TLS (ECDSA P-256). It is not in its repr."""

    _key: ec.EllipticCurvePrivateKey

    def __repr__(self) -> str:
        return "<TlsKey>"

    @classmethod
    def generate(cls) -> TlsKey:
        """Make a key."""
        return cls(ec.generate_private_key(ec.SECP256R1()))

    @classmethod
    def from_pem(cls, text: bytes) -> TlsKey:
        """Read an unencrypted PEM key. Raises :class:`InvalidInput`."""
        try:
            key = serialization.load_pem_private_key(text, None)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            raise InvalidInput("not an unencrypted PEM private key") from None
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise InvalidInput("the TLS key is not an elliptic curve key")
        return cls(key)

    def to_pem(self) -> bytes:
        """Return the unencrypted PKCS#8 PEM: for a file of mode 0600 and nothing else."""
        return self._key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )

    @property
    def public_pem(self) -> str:
        """The PEM SubjectPublicKeyInfo."""
        return (
            self._key.public_key()
            .public_bytes(
                serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
            )
            .decode("ascii")
        )

    def signer(self) -> ec.EllipticCurvePrivateKey:
        """The key itself, for signing certificates and for TLS contexts."""
        return self._key


def read_tls_public_key(text: str) -> ec.EllipticCurvePublicKey:
    """Read a PEM SubjectPublicKeyInfo of a P-256 key. Raises :class:`InvalidInput`."""
    try:
        key = serialization.load_pem_public_key(text.encode("ascii"))
    except (ValueError, UnicodeEncodeError, UnsupportedAlgorithm):
        raise InvalidInput("the TLS public key is not a PEM SubjectPublicKeyInfo") from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise InvalidInput("the TLS public key is not on P-256")
    return key


def make_authority(
    cluster: str,
    kind: AuthorityKind,
    key: TlsKey,
    now: datetime,
    entropy: Callable[[int], bytes],
    lifetime: timedelta = AUTHORITY_LIFETIME,
) -> str:
    """Return the self-signed CA certificate (PEM) of one kind of authority of a cluster."""
    name = _name(f"tele {kind.value} authority", cluster)
    public = key.signer().public_key()
    builder = _authority(name, public, now, now + lifetime, entropy)
    return _pem(builder.issuer_name(name).sign(key.signer(), hashes.SHA256()))


def certify_successor(
    old_certificate: str,
    old_key: TlsKey,
    new_certificate: str,
    now: datetime,
    ends: datetime,
    entropy: Callable[[int], bytes],
) -> str:
    """Return a certificate (PEM) of the key of ``new_certificate``, signed by the CA that it
    replaces: ``NewWithOld`` of RFC 4210, section 4.4.

    It is valid until ``ends``, and no longer than the old CA. Both CAs have the same name, so it
    counts as self-issued in a path (RFC 5280, section 6.1).
    """
    old = x509.load_pem_x509_certificate(old_certificate.encode("ascii"))
    new = x509.load_pem_x509_certificate(new_certificate.encode("ascii"))
    public = new.public_key()
    if new.subject != old.subject or not isinstance(public, ec.EllipticCurvePublicKey):
        raise InvalidInput("a CA is replaced by one of the same name, with an EC key")
    builder = _authority(new.subject, public, now, min(ends, old.not_valid_after_utc), entropy)
    signed = builder.issuer_name(old.subject).add_extension(
        x509.AuthorityKeyIdentifier.from_issuer_public_key(old_key.signer().public_key()),
        critical=False,
    )
    return _pem(signed.sign(old_key.signer(), hashes.SHA256()))


def _authority(
    name: x509.Name,
    public: ec.EllipticCurvePublicKey,
    now: datetime,
    ends: datetime,
    entropy: Callable[[int], bytes],
) -> x509.CertificateBuilder:
    """Return the certificate of a CA that has to be issued."""
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .public_key(public)
        .serial_number(serial_number(entropy))
        .not_valid_before(now - BACKDATE)
        .not_valid_after(ends)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(ca=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    )


def issue_tls(
    authority_certificate: str,
    authority_key: TlsKey,
    public_key: str,
    identity: UserIdentity | HostIdentity,
    now: datetime,
    entropy: Callable[[int], bytes],
    names: Iterable[str] = (),
) -> str:
    """Return a certificate (PEM) for the PEM public key, valid until ``identity.expires``.

    A user's has the serial number of the SSH certificate, a host's may have one, too.
    ``names`` are further DNS names and IP addresses of a host, which always has
    ``<host-id>.<cluster>`` and, by its role, ``auth.<cluster>`` or ``proxy.<cluster>``.
    """
    issuer = x509.load_pem_x509_certificate(authority_certificate.encode("ascii"))
    if identity.expires <= now:
        raise InvalidInput("a certificate's end has to lie in the future")
    usages = [ExtendedKeyUsageOID.CLIENT_AUTH]
    if isinstance(identity, HostIdentity):
        usages.append(ExtendedKeyUsageOID.SERVER_AUTH)
        common = f"{identity.host_id}.{identity.cluster}"
    else:
        common = identity.user
    builder = (
        x509.CertificateBuilder()
        .subject_name(_name(common[:64], identity.cluster))
        .issuer_name(issuer.subject)
        .public_key(read_tls_public_key(public_key))
        .serial_number(identity.serial or serial_number(entropy))
        .not_valid_before(now - BACKDATE)
        .not_valid_after(min(identity.expires, issuer.not_valid_after_utc))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(ca=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.signer().public_key()),
            critical=False,
        )
        .add_extension(x509.UnrecognizedExtension(IDENTITY_OID, _encode(identity)), critical=False)
    )
    if isinstance(identity, HostIdentity):
        builder = builder.add_extension(
            x509.SubjectAlternativeName(_general_names(identity, names)), critical=False
        )
    return _pem(builder.sign(authority_key.signer(), hashes.SHA256()))


def _general_names(identity: HostIdentity, names: Iterable[str]) -> list[x509.GeneralName]:
    wanted = [f"{identity.host_id}.{identity.cluster}"]
    if identity.role is not HostRole.NODE:
        wanted.append(f"{identity.role.value}.{identity.cluster}")
    addresses = () if identity.role is HostRole.PROXY else own_addresses(names, identity.cluster)
    general: list[x509.GeneralName] = []
    for name in dict.fromkeys((*wanted, *addresses)):
        try:
            general.append(x509.IPAddress(ipaddress.ip_address(name)))
        except ValueError:
            if name.isascii():
                general.append(x509.DNSName(name))
    return general


def _name(common: str, cluster: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, cluster[:64]),
            x509.NameAttribute(NameOID.COMMON_NAME, common),
        ]
    )


def _usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=ca,
        crl_sign=ca,
        encipher_only=False,
        decipher_only=False,
    )


def serial_number(entropy: Callable[[int], bytes]) -> int:
    """Return a random serial number for a certificate."""
    # RFC 5280, 4.1.2.2: positive and at most 20 octets.
    return int.from_bytes(entropy(16), "big") | 1


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode("ascii")


def issued_by(certificate: x509.Certificate, authorities: Iterable[str]) -> bool:
    """Whether one of the PEM CA certificates signed ``certificate``."""
    for text in authorities:
        authority = x509.load_pem_x509_certificate(text.encode("ascii"))
        try:
            certificate.verify_directly_issued_by(authority)
        except (InvalidSignature, ValueError, TypeError):
            continue
        return True
    return False
