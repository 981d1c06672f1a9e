"""Which keys and certificates prove a host, in one of its roles?

Invariants:

* Keys are made here, live here and are written to one private file; only public halves leave.
* No secret shows in a repr.
* Keys and certificates are stored in one piece, so that they always belong together.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from attrs import field, frozen
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from tele.certs.certificate import Certificate, parse_certificate
from tele.certs.check import BACKDATE
from tele.certs.keys import PrivateKey, parse_line
from tele.certs.rotation import Facts, facts_of
from tele.certs.suites import SignatureSuite, suite_of
from tele.certs.x509 import TlsKey, issued_by, read_identity
from tele.errors import BadCertificate, InvalidInput, TeleError
from tele.https.identity import TlsIdentity
from tele.model.api.members import PublicKeys
from tele.model.authority import AuthorityKind, Certificates, TrustedAuthority, authority_of
from tele.model.codec import decode, encode
from tele.model.identity import HostIdentity, HostRole


@frozen
class HostKeyPair:
    """The two private keys of a host in a role."""

    ssh: PrivateKey
    tls: TlsKey

    @classmethod
    def generate(cls, suite: SignatureSuite = SignatureSuite.ED25519) -> HostKeyPair:
        """Make both."""
        return cls(suite.generate(), TlsKey.generate())

    def is_of(self, suite: SignatureSuite) -> bool:
        """Whether the SSH key is of this suite."""
        return self.ssh.public.type.decode("ascii") == suite.key_type

    def for_authorities(self, authorities: Iterable[TrustedAuthority]) -> HostKeyPair:
        """Return these keys, with a new SSH key if theirs is of another suite than hosts have.

        They stay as they are if the suite is one that this version cannot make.
        """
        suite = _suite_made(authorities)
        return (
            self if suite is None or self.is_of(suite) else HostKeyPair(suite.generate(), self.tls)
        )

    @property
    def public(self) -> PublicKeys:
        """The public halves, for auth."""
        return PublicKeys(self.ssh.public.line, self.tls.public_pem)


@frozen
class MemberIdentity:
    """Keys, certificates, and the authorities that the host trusts with them.

    ``ssh_certificate`` and ``tls`` are of the same keys; ``issued`` and ``expires`` are
    the earlier of both certificates.
    """

    host: HostIdentity
    keys: HostKeyPair
    ssh_certificate: Certificate
    tls: TlsIdentity
    authorities: tuple[TrustedAuthority, ...]
    issued: datetime
    expires: datetime

    @property
    def leaf(self) -> x509.Certificate:
        """The X.509 certificate of the host."""
        return x509.load_pem_x509_certificates(self.tls.certificate.encode("ascii"))[0]

    def renew_at(self, fraction: float) -> datetime:
        """Return when ``fraction`` of its life is over."""
        return self.issued + (self.expires - self.issued) * fraction


def assemble(
    keys: HostKeyPair, certificates: Certificates, role: HostRole, host_id: str = ""
) -> MemberIdentity:
    """Return the identity that auth answered. Raises TeleError if it is not what was asked for.

    A host that joins has no ``host_id`` before: the certificates have it.
    """
    try:
        ssh = parse_certificate(parse_line(certificates.ssh))
        leaf = x509.load_pem_x509_certificates(certificates.tls.encode("ascii"))[0]
        host = read_identity(leaf)
    except (TeleError, ValueError) as error:
        raise TeleError(f"auth answered with certificates that cannot be read: {error}") from None
    public = leaf.public_key()
    if (
        ssh.key.blob != keys.ssh.public.blob
        or not isinstance(public, ec.EllipticCurvePublicKey)
        or public.public_numbers() != keys.tls.signer().public_key().public_numbers()
    ):
        raise TeleError("auth answered with certificates of other keys than ours")
    if not isinstance(host, HostIdentity) or (host.host_id, host.role) != (
        host_id or host.host_id,
        role,
    ):
        raise TeleError(f"auth answered with certificates of another host or role: {host!r}")
    return MemberIdentity(
        host=host,
        keys=keys,
        ssh_certificate=ssh,
        tls=TlsIdentity(certificates.tls, keys.tls.to_pem()),
        authorities=certificates.authorities,
        issued=max(_time(ssh.valid_after), leaf.not_valid_before_utc) + BACKDATE,
        expires=min(_time(ssh.valid_before), leaf.not_valid_after_utc),
    )


def _time(seconds: int) -> datetime:
    latest = datetime.max.replace(tzinfo=UTC) - timedelta(days=1)
    return datetime.fromtimestamp(min(seconds, int(latest.timestamp())), UTC)


def ssh_authorities(
    authorities: Iterable[TrustedAuthority], kind: AuthorityKind
) -> frozenset[bytes]:
    """Return the key blobs of the SSH authorities of ``kind``."""
    found = authority_of(tuple(authorities), kind)
    return frozenset() if found is None else frozenset(map(parse_line, found.ssh_public_keys))


def lasts_too_long(identity: MemberIdentity, longest: timedelta) -> bool:
    """Whether its certificates are valid for longer than the cluster allows now."""
    return identity.expires - identity.issued > longest + BACKDATE


def is_superseded(identity: MemberIdentity, authorities: Iterable[TrustedAuthority]) -> bool:
    """Whether another key than those of ``authorities`` that sign now has signed ``identity``.

    Or its SSH key is of another suite than the one that signs.
    """
    found = authority_of(tuple(authorities), AuthorityKind.HOST)
    if found is None:
        return False
    if identity.ssh_certificate.authority_key != parse_line(found.ssh_public_keys[0]):
        return True
    if not issued_by(identity.leaf, found.tls_certificates[:1]):
        return True
    suite = _suite_made((found,))
    return suite is not None and not identity.keys.is_of(suite)


def facts(identity: MemberIdentity, authorities: Iterable[TrustedAuthority]) -> Facts:
    """Return what a host reports: the keys that it trusts, and those that have certified it."""
    return facts_of(authorities, identity.ssh_certificate.authority_key, identity.leaf)


def host_suite(authorities: Iterable[TrustedAuthority]) -> SignatureSuite:
    """Return the suite of the keys that hosts of these authorities have.

    Raises InvalidInput when it is none of ours.
    """
    found = authority_of(tuple(authorities), AuthorityKind.HOST)
    return suite_of(() if found is None else found.ssh_public_keys)


def _suite_made(authorities: Iterable[TrustedAuthority]) -> SignatureSuite | None:
    """Return the suite of hosts' keys; None if this version cannot make such keys."""
    try:
        return host_suite(authorities)
    except InvalidInput:
        return None


def tls_authorities(authorities: Iterable[TrustedAuthority]) -> tuple[str, ...]:
    """Return the certificates (PEM) of the authority that signs hosts."""
    found = authority_of(tuple(authorities), AuthorityKind.HOST)
    return () if found is None else found.tls_certificates


@frozen
class _Stored:
    host_id: str
    role: HostRole
    ssh_key: bytes = field(repr=False)
    tls_key: bytes = field(repr=False)
    certificates: Certificates


def to_bytes(identity: MemberIdentity) -> bytes:
    """Return what is kept on disk; it holds the private keys."""
    certificates = Certificates(
        identity.ssh_certificate.line,
        identity.tls.certificate,
        identity.expires,
        identity.authorities,
    )
    host = identity.host
    keys = identity.keys
    return encode(
        _Stored(host.host_id, host.role, keys.ssh.to_openssh(), keys.tls.to_pem(), certificates)
    )


def from_bytes(data: bytes) -> MemberIdentity:
    """Read what :func:`to_bytes` wrote. Raises :class:`TeleError`."""
    try:
        stored = decode(_Stored, data)
        keys = HostKeyPair(PrivateKey.from_openssh(stored.ssh_key), TlsKey.from_pem(stored.tls_key))
        return assemble(keys, stored.certificates, stored.role, stored.host_id)
    except (TeleError, BadCertificate) as error:
        # Not the error's own text: it might quote what it could not read.
        raise TeleError(f"the stored identity is damaged ({type(error).__name__})") from None
