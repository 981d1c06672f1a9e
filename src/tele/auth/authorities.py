"""Where are the cluster's CA keys, and what do they sign?

Invariants:

* A CA's private key is in auth's store and in this process, nowhere else; nothing here
  shows one.
* Each kind has its own SSH key (of the cluster's suite) and its own TLS key (ECDSA P-256).
* The suite of a cluster is chosen when its CAs are made; another one is refused later.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from attrs import field, frozen
from cryptography import x509

from tele.auth.repository import Repository
from tele.certs.keys import PrivateKey, fingerprint, parse_line
from tele.certs.pins import pin
from tele.certs.suites import SignatureSuite, suite_of
from tele.certs.x509 import TlsKey, make_authority
from tele.errors import Conflict, InvalidInput, Unavailable
from tele.interfaces import IBackend
from tele.model.api.authorities import AuthorityStatus
from tele.model.authority import AuthorityKind, TrustedAuthority

PREFIX = "/authorities/"


@frozen
class StoredAuthority:
    """An authority in the store. Its repr shows no key."""

    kind: AuthorityKind
    created: datetime
    ssh_key: bytes = field(repr=False)
    tls_key: bytes = field(repr=False)
    tls_certificate: str


@frozen
class Authority:
    """One authority, ready to sign."""

    kind: AuthorityKind
    created: datetime
    ssh: PrivateKey
    tls: TlsKey
    tls_certificate: str

    @property
    def trusted(self) -> TrustedAuthority:
        """The public half."""
        return TrustedAuthority(
            self.kind,
            (self.ssh.public.line,),
            (self.tls_certificate,),
            (pin(self.tls_certificate),),
        )

    @property
    def status(self) -> AuthorityStatus:
        """As ``tele ca status`` shows it."""
        certificate = x509.load_pem_x509_certificate(self.tls_certificate.encode("ascii"))
        trusted = self.trusted
        return AuthorityStatus(
            kind=self.kind.value,
            phase="standby",
            ssh_fingerprints=tuple(fingerprint(parse_line(k)) for k in trusted.ssh_public_keys),
            pins=trusted.pins,
            created=self.created,
            expires=certificate.not_valid_after_utc,
        )


class Authorities:
    """All authorities of a cluster; :meth:`load` makes them at first start."""

    def __init__(self, loaded: dict[AuthorityKind, Authority]) -> None:
        self._by_kind = loaded

    def __getitem__(self, kind: AuthorityKind) -> Authority:
        return self._by_kind[kind]

    @property
    def trusted(self) -> tuple[TrustedAuthority, ...]:
        """The public halves, host first."""
        return tuple(self._by_kind[kind].trusted for kind in _KINDS)

    @property
    def suite(self) -> SignatureSuite:
        """The suite of the cluster's SSH keys."""
        return suite_of(self._by_kind[AuthorityKind.HOST].trusted.ssh_public_keys)

    @property
    def statuses(self) -> tuple[AuthorityStatus, ...]:
        """The status of all authorities, as ``tele ca status`` shows it."""
        return tuple(self._by_kind[kind].status for kind in _KINDS)

    @classmethod
    async def load(
        cls,
        backend: IBackend,
        cluster: str,
        now: datetime,
        entropy: Callable[[int], bytes],
        suite: SignatureSuite | None = None,
    ) -> Authorities:
        """Read the authorities; make and store those that do not exist yet.

        ``suite`` None is Ed25519 for new authorities and any suite for existing ones. Raises
        :class:`InvalidInput` if existing ones have another suite.
        """
        repository = Repository(backend, PREFIX, StoredAuthority)
        loaded = {}
        for kind in _KINDS:
            entry = await repository.get(kind.value)
            if entry is None:
                made = _make(cluster, kind, suite or SignatureSuite.ED25519, now, entropy)
                try:
                    await backend.commit(repository.put(kind.value, made, if_revision=0))
                except Conflict:  # another auth on this store was first: its key is used
                    entry = await repository.get(kind.value)
            stored = made if entry is None else entry.value
            loaded[kind] = ready = _ready(stored)
            _check_suite(ready, suite)
        return cls(loaded)


_KINDS = (AuthorityKind.HOST, AuthorityKind.USER)


def _check_suite(authority: Authority, wanted: SignatureSuite | None) -> None:
    present = suite_of((authority.ssh.public.line,))
    if wanted not in (None, present):
        raise InvalidInput(
            f"the {authority.kind.value} CA of this cluster has the suite {present.value}, not"
            f" {wanted.value}: the suite is chosen when a cluster is created; set"
            f" signature_algorithm_suite to {present.value}, or leave it out"
        )


def _make(
    cluster: str,
    kind: AuthorityKind,
    suite: SignatureSuite,
    now: datetime,
    entropy: Callable[[int], bytes],
) -> StoredAuthority:
    tls = TlsKey.generate()
    return StoredAuthority(
        kind=kind,
        created=now,
        ssh_key=suite.generate().to_openssh(),
        tls_key=tls.to_pem(),
        tls_certificate=make_authority(cluster, kind, tls, now, entropy),
    )


def _ready(stored: StoredAuthority) -> Authority:
    try:
        return Authority(
            stored.kind,
            stored.created,
            PrivateKey.from_openssh(stored.ssh_key),
            TlsKey.from_pem(stored.tls_key),
            stored.tls_certificate,
        )
    except InvalidInput as error:
        raise Unavailable(
            f"the {stored.kind.value} authority in the store is damaged: {error}"
        ) from None
