"""Where are the cluster's CA keys, and what do they sign?

Invariants:

* A CA's private key is in auth's store, sealed, and in this process, nowhere else; nothing here
  shows one.
* Each kind has its own SSH key (of the cluster's suite) and its own TLS key (ECDSA P-256).
* Each of these keys rotates alone, by :data:`tele.certs.rotation.TABLE`. A new key is stored in the
  commit of its phase; all auths on one store follow that.
* A CA has the suite that was configured when its key was made. Another one holds from its next
  rotation on: the new key is of that suite.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from typing import TypeVar

from attrs import evolve, field, frozen
from cryptography import x509

from tele.auth.repository import Repository
from tele.auth.successions import Succession, added, make_succession, shown
from tele.certs.key_sealing import KeySeal
from tele.certs.keys import PrivateKey, fingerprint, parse_line
from tele.certs.pins import pin
from tele.certs.rotation import TABLE, Key, check_step, signing_key
from tele.certs.suites import SignatureSuite, suite_of
from tele.certs.x509 import TlsKey, make_authority
from tele.errors import Conflict, InvalidInput, TeleError, Unavailable
from tele.interfaces import Change, IBackend, Put
from tele.log import make_logger
from tele.model.api.authorities import AuthorityStatus
from tele.model.authority import AuthorityKind, TrustedAuthority
from tele.model.bounds import OMITTED
from tele.model.codec import decode
from tele.model.rotation import Phase, RotatingCa

log = make_logger(__name__)

T = TypeVar("T")

PREFIX = "/authorities/"


@frozen
class StoredRotation:
    """A rotation in progress, and its new key. Its repr shows no key.

    ``signed`` is when the new key began to sign certificates of users, None if it never did.
    ``grace`` is how long an automatic rotation takes, None for a manual one. ``succession`` is what
    the old key says of the new one from ``update_servers`` on, unless the old key is
    ``compromised``.
    """

    phase: Phase
    started: datetime
    since: datetime
    key: bytes = field(repr=False)
    certificate: str = ""
    signed: datetime | None = None
    grace: timedelta | None = field(default=None, metadata=OMITTED)
    compromised: bool = field(default=False, metadata=OMITTED)
    succession: Succession | None = field(default=None, metadata=OMITTED)

    @property
    def automatic(self) -> datetime | None:
        """When auth begins the next phase by itself: each of three has a third of the time."""
        return None if self.grace is None else self.since + self.grace / 3


@frozen
class StoredAuthority:
    """An authority in the store, where its keys are sealed. Its repr shows no key.

    ``tls_since`` is when the TLS key began to sign, if it has replaced another one.
    """

    kind: AuthorityKind
    created: datetime
    ssh_key: bytes = field(repr=False)
    tls_key: bytes = field(repr=False)
    tls_certificate: str
    ssh_rotation: StoredRotation | None = field(default=None, metadata=OMITTED)
    tls_rotation: StoredRotation | None = field(default=None, metadata=OMITTED)
    retired_ssh_keys: tuple[str, ...] = field(default=(), metadata=OMITTED)
    retired_pins: tuple[str, ...] = field(default=(), metadata=OMITTED)
    successions: tuple[Succession, ...] = field(default=(), metadata=OMITTED)
    tls_since: datetime | None = field(default=None, metadata=OMITTED)

    def rotation(self, ca: RotatingCa) -> StoredRotation | None:
        """Return the rotation of one of its CAs, None in ``standby``."""
        return self.tls_rotation if ca.is_tls else self.ssh_rotation

    def with_keys(self, change: Callable[[str, bytes], bytes]) -> StoredAuthority:
        """Return it with ``change(purpose, key)`` of each key: sealed, or opened."""

        def changed(purpose: str, rotation: StoredRotation | None) -> StoredRotation | None:
            return rotation and evolve(rotation, key=change(purpose, rotation.key))

        ssh, tls = f"{self.kind.value}/ssh", f"{self.kind.value}/tls"
        return evolve(
            self,
            ssh_key=change(ssh, self.ssh_key),
            tls_key=change(tls, self.tls_key),
            ssh_rotation=changed(ssh, self.ssh_rotation),
            tls_rotation=changed(tls, self.tls_rotation),
        )


@frozen
class Authority:
    """One authority, ready to sign. ``ssh``, ``tls`` and ``tls_certificate`` are those that sign.

    ``trusted`` is the public half of all its keys.
    """

    stored: StoredAuthority
    revision: int
    ssh: PrivateKey
    tls: TlsKey
    tls_certificate: str
    trusted: TrustedAuthority

    @property
    def kind(self) -> AuthorityKind:
        """Whose certificates it signs."""
        return self.stored.kind

    @property
    def status(self) -> AuthorityStatus:
        """As ``tele ca status`` shows it."""
        certificate = x509.load_pem_x509_certificate(self.tls_certificate.encode("ascii"))
        trusted, stored = self.trusted, self.stored
        phases = [r.phase for r in (stored.ssh_rotation, stored.tls_rotation) if r is not None]
        return AuthorityStatus(
            kind=self.kind.value,
            phase=(phases or [Phase.STANDBY])[0].value,
            ssh_fingerprints=tuple(fingerprint(parse_line(k)) for k in trusted.ssh_public_keys),
            pins=trusted.pins,
            created=stored.created,
            expires=certificate.not_valid_after_utc,
        )


class Authorities:
    """All authorities of a cluster; :meth:`load` makes them at first start."""

    def __init__(
        self,
        backend: IBackend,
        cluster: str,
        entropy: Callable[[int], bytes],
        loaded: dict[AuthorityKind, Authority],
        seal: KeySeal,
        wanted: SignatureSuite | None = None,
    ) -> None:
        self._backend = backend
        self._repository = Repository(backend, PREFIX, StoredAuthority)
        self._cluster = cluster
        self._entropy = entropy
        self._by_kind = loaded
        #: Seals what is stored; also for other secrets of the cluster.
        self.seal = seal
        self._wanted = wanted
        self._observers: list[Callable[[], None]] = []
        self._stop_watching: Callable[[], None] | None = None

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

    def next_suite(self, ca: RotatingCa) -> SignatureSuite:
        """The suite of the key that a rotation of an SSH key makes."""
        return self._wanted or suite_of(self._by_kind[ca.kind].trusted.ssh_public_keys)

    @property
    def statuses(self) -> tuple[AuthorityStatus, ...]:
        """The status of all authorities, as ``tele ca status`` shows it."""
        return tuple(self._by_kind[kind].status for kind in _KINDS)

    @property
    def host_keys_ever(self) -> frozenset[bytes]:
        """The key blobs of the host CA that may have signed what is stored, retired ones, too."""
        return frozenset(
            parse_line(k) for k in self._by_kind[AuthorityKind.HOST].trusted.signed_ever
        )

    def successions(self, now: datetime) -> list[Succession]:
        """Return what dropped TLS keys of the host CA say of those that replaced them."""
        stored = self._by_kind[AuthorityKind.HOST].stored
        rotation = stored.tls_rotation
        kept = stored.successions
        if rotation is not None and rotation.phase is Phase.UPDATE_SERVERS:
            kept = () if rotation.succession is None else (*kept, rotation.succession)
        return shown(kept, now)

    @classmethod
    async def load(
        cls,
        backend: IBackend,
        cluster: str,
        now: datetime,
        entropy: Callable[[int], bytes],
        suite: SignatureSuite | None = None,
        seal: KeySeal | None = None,
    ) -> Authorities:
        """Read the authorities; make and store those that do not exist yet.

        ``seal`` seals their keys in the store; None: they are in clear there.
        ``suite`` is that of new authorities, and of keys that a rotation makes; None is Ed25519
        for new authorities, and the suite that it has for each existing one.
        """
        repository = Repository(backend, PREFIX, StoredAuthority)
        seal = seal or KeySeal()
        loaded = {}
        for kind in _KINDS:
            entry = await repository.get(kind.value)
            if entry is None:
                made = _make(cluster, kind, suite or SignatureSuite.ED25519, now, entropy)
                try:
                    sealed = made.with_keys(seal.seal)
                    await backend.commit(repository.put(kind.value, sealed, if_revision=0))
                except Conflict:
                    log.debug("another auth on this store was first: its key is used")
                entry = await repository.get(kind.value)
                if entry is None:
                    raise Unavailable(f"the {kind.value} authority is gone from the store")
            loaded[kind] = ready = _ready(entry.value, entry.revision, seal)
            _say_suite(ready, suite)
        return cls(backend, cluster, entropy, loaded, seal, suite)

    async def follow(self) -> None:
        """Follow the store from now on: another auth may rotate. Ends with :meth:`stop`."""
        self._stop_watching = (await self._backend.watch(PREFIX, self._changed)).stop
        await self.refresh()

    def stop(self) -> None:
        """Stop following. May be called twice."""
        if self._stop_watching is not None:
            self._stop_watching()
            self._stop_watching = None

    def on_change(self, observer: Callable[[], None]) -> None:
        """Call ``observer`` whenever keys have changed."""
        self._observers.append(observer)

    async def refresh(self) -> None:
        """Read the store: for the one who has just changed it."""
        for kind in _KINDS:
            entry = await self._repository.get(kind.value)
            if entry is not None:
                self._take(entry.value, entry.revision)

    def _changed(self, change: Change) -> None:
        if change.item is None:
            return
        try:
            self._take(decode(StoredAuthority, change.item.value), change.item.revision)
        except TeleError as error:
            # The keys that this auth has are good: it goes on with them.
            log.error("an authority in the store cannot be read", error=str(error))

    def _take(self, stored: StoredAuthority, revision: int) -> None:
        if revision <= self._by_kind[stored.kind].revision:
            return
        self._by_kind[stored.kind] = _ready(stored, revision, self.seal)
        for observer in self._observers:
            observer()

    def step(
        self,
        cas: Iterable[RotatingCa],
        phase: Phase,
        moment: datetime,
        grace: timedelta | None = None,
        *,
        compromised: bool = False,
        away: timedelta,
    ) -> list[Put]:
        """Return the changes by which ``phase`` of these CAs begins at ``moment``.

        With ``grace`` their rotation is an automatic one from then on, without it a manual one. If
        the old keys are ``compromised``, they say nothing of the new ones, also later; otherwise a
        dropped one does for ``away`` (:func:`tele.auth.successions.away_of`).

        The caller commits them, and calls :meth:`refresh`; the commit fails with :class:`Conflict`
        if the authorities have changed meanwhile. Raises :class:`InvalidInput` if the phase cannot
        follow the present one.
        """
        changed: dict[AuthorityKind, StoredAuthority] = {}
        for ca in cas:
            stored = changed.get(ca.kind, self._by_kind[ca.kind].stored)
            rotation = stored.rotation(ca)
            check_step(ca, Phase.STANDBY if rotation is None else rotation.phase, phase)
            if rotation is None:
                begun = self._begun(ca, phase, moment, grace)
                after = _with(stored, ca, evolve(begun, compromised=compromised))
            else:
                if compromised:
                    rotation = evolve(rotation, compromised=True)
                said = self._succession(ca, stored, rotation, phase, moment, away)
                if phase is Phase.STANDBY:
                    after = _ended(stored, ca, rotation)
                    if ca is RotatingCa.TLS_HOST and rotation.phase is not Phase.ROLLBACK:
                        after = evolve(after, successions=added(stored.successions, said, moment))
                else:
                    signed = moment if phase is Phase.UPDATE_CLIENTS else rotation.signed
                    begun = evolve(
                        rotation, phase=phase, since=moment, signed=signed, grace=grace,
                        succession=said,
                    )  # fmt: skip
                    after = _with(stored, ca, begun)
            changed[ca.kind] = after
        return self._puts(changed)

    def made_manual(self, cas: Iterable[RotatingCa]) -> list[Put]:
        """Return the changes by which the rotations of these CAs go on by hand."""
        changed: dict[AuthorityKind, StoredAuthority] = {}
        for ca in cas:
            stored = changed.get(ca.kind, self._by_kind[ca.kind].stored)
            rotation = stored.rotation(ca)
            if rotation is not None:
                changed[ca.kind] = _with(stored, ca, evolve(rotation, grace=None))
        return self._puts(changed)

    def _puts(self, changed: Mapping[AuthorityKind, StoredAuthority]) -> list[Put]:
        return [
            self._repository.put(
                kind.value, stored.with_keys(self.seal.seal), self._by_kind[kind].revision
            )
            for kind, stored in changed.items()
        ]

    def _succession(
        self,
        ca: RotatingCa,
        stored: StoredAuthority,
        rotation: StoredRotation,
        phase: Phase,
        moment: datetime,
        away: timedelta,
    ) -> Succession | None:
        """Return what the old key says of the new one in ``phase``."""
        wanted = phase in (Phase.UPDATE_SERVERS, Phase.STANDBY)
        if not wanted or ca is not RotatingCa.TLS_HOST or rotation.compromised:
            return None
        return make_succession(
            stored.tls_certificate, TlsKey.from_pem(stored.tls_key), rotation.certificate, moment,
            self._entropy, away if phase is Phase.STANDBY else None,
        )  # fmt: skip

    def _begun(
        self, ca: RotatingCa, phase: Phase, moment: datetime, grace: timedelta | None
    ) -> StoredRotation:
        if not ca.is_tls:
            key_file = self.next_suite(ca).generate().to_openssh()
            return StoredRotation(phase, moment, moment, key_file, grace=grace)
        key = TlsKey.generate()
        certificate = make_authority(self._cluster, ca.kind, key, moment, self._entropy)
        return StoredRotation(phase, moment, moment, key.to_pem(), certificate, grace=grace)


_KINDS = (AuthorityKind.HOST, AuthorityKind.USER)


def _with(
    stored: StoredAuthority, ca: RotatingCa, rotation: StoredRotation | None
) -> StoredAuthority:
    if ca.is_tls:
        return evolve(stored, tls_rotation=rotation)
    return evolve(stored, ssh_rotation=rotation)


def _ended(stored: StoredAuthority, ca: RotatingCa, rotation: StoredRotation) -> StoredAuthority:
    """Return the authority with one key: the new one, or the old one after a rollback."""
    ended = _with(stored, ca, None)
    rolled_back = rotation.phase is Phase.ROLLBACK
    if rolled_back and rotation.signed is None:
        return ended  # nothing that is stored can be signed by the new key
    if ca.is_tls:
        leaving = rotation.certificate if rolled_back else stored.tls_certificate
        ended = evolve(ended, retired_pins=(*stored.retired_pins, pin(leaving)))
        if not rolled_back:
            ended = evolve(
                ended, tls_key=rotation.key, tls_certificate=rotation.certificate,
                tls_since=rotation.since,
            )  # fmt: skip
        return ended
    leaving_key = PrivateKey.from_openssh(rotation.key if rolled_back else stored.ssh_key)
    retired = (*stored.retired_ssh_keys, leaving_key.public.line)
    ended = evolve(ended, retired_ssh_keys=retired)
    if not rolled_back:
        ended = evolve(ended, ssh_key=rotation.key, created=rotation.started)
    return ended


def _say_suite(authority: Authority, wanted: SignatureSuite | None) -> None:
    """Log that a CA has another suite than the configuration wants, unless it rotates to that."""
    keys = authority.trusted.ssh_public_keys
    if wanted is not None and wanted not in {suite_of((key,)) for key in keys}:
        log.warn(
            "a CA gets the configured signature suite by its next rotation: tele ca rotate",
            ca=authority.kind.value, suite=suite_of(keys).value, configured=wanted.value,
        )  # fmt: skip


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


def _ready(stored: StoredAuthority, revision: int, seal: KeySeal) -> Authority:
    try:
        stored = stored.with_keys(seal.open)
        ssh = _in_order(
            stored.kind,
            PrivateKey.from_openssh(stored.ssh_key),
            stored.ssh_rotation,
            lambda new: PrivateKey.from_openssh(new.key),
        )
        tls = _in_order(
            stored.kind,
            (TlsKey.from_pem(stored.tls_key), stored.tls_certificate),
            stored.tls_rotation,
            lambda new: (TlsKey.from_pem(new.key), new.certificate),
        )
    except InvalidInput as error:
        raise Unavailable(
            f"the {stored.kind.value} authority in the store is damaged: {error}"
        ) from None
    certificates = tuple(certificate for _, certificate in tls)
    trusted = TrustedAuthority(
        stored.kind,
        tuple(key.public.line for key in ssh),
        certificates,
        tuple(map(pin, certificates)),
        stored.retired_ssh_keys,
        stored.retired_pins,
    )
    return Authority(stored, revision, ssh[0], *tls[0], trusted)


def _in_order(
    kind: AuthorityKind,
    old: T,
    rotation: StoredRotation | None,
    read: Callable[[StoredRotation], T],
) -> list[T]:
    """Return the keys that are trusted, first the one that signs."""
    if rotation is None:
        return [old]
    keys = {Key.OLD: old, Key.NEW: read(rotation)}
    signing = signing_key(rotation.phase, kind)
    trusted = TABLE[rotation.phase].trusted
    return [keys[each] for each in sorted(trusted, key=lambda each: each is not signing)]
