"""Who signs with which key, and who trusts which, in each phase of a CA's rotation?

A CA has one key, or two while it rotates: the old one and the new one. Hosts report what they have
(:class:`Facts`), not which phase they believe to be in.

Invariants:

* All rules are in :data:`TABLE`; the documentation draws it from there.
* As long as each part is at most one phase behind, what a part signs or presents is trusted by all
  others.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Final

from attrs import frozen
from cryptography import x509

from tele.certs.keys import parse_line
from tele.certs.pins import pin
from tele.certs.x509 import issued_by
from tele.errors import InvalidInput
from tele.model.authority import AuthorityKind, TrustedAuthority
from tele.model.rotation import Phase, RotatingCa


class Key(str, Enum):
    """One of the two keys of a CA that rotates."""

    OLD = "old"
    NEW = "new"


@frozen
class Rules:
    """One row of the table.

    ``users`` is the key that signs certificates of users, ``hosts`` the one that signs those of
    hosts, auth's own too. ``trusted`` is for all parts. ``following``: which phases may be next.
    """

    users: Key
    hosts: Key
    trusted: tuple[Key, ...]
    following: tuple[Phase, ...]


_BOTH: Final = (Key.OLD, Key.NEW)

#: At the end of ``update_servers`` the new key takes the place of the old one; at the end of
#: ``rollback`` the new one is dropped.
TABLE: Final[Mapping[Phase, Rules]] = {
    Phase.STANDBY: Rules(Key.OLD, Key.OLD, (Key.OLD,), (Phase.INIT,)),
    Phase.INIT: Rules(Key.OLD, Key.OLD, _BOTH, (Phase.UPDATE_CLIENTS, Phase.ROLLBACK)),
    Phase.UPDATE_CLIENTS: Rules(Key.NEW, Key.OLD, _BOTH, (Phase.UPDATE_SERVERS, Phase.ROLLBACK)),
    Phase.UPDATE_SERVERS: Rules(Key.NEW, Key.NEW, _BOTH, (Phase.STANDBY, Phase.ROLLBACK)),
    Phase.ROLLBACK: Rules(Key.OLD, Key.OLD, _BOTH, (Phase.STANDBY,)),
}


def signing_key(phase: Phase, kind: AuthorityKind) -> Key:
    """Return which key of a CA of ``kind`` signs in ``phase``."""
    rules = TABLE[phase]
    return rules.users if kind is AuthorityKind.USER else rules.hosts


def check_step(ca: RotatingCa, present: Phase, wanted: Phase) -> None:
    """Raise :class:`InvalidInput` unless ``wanted`` may follow ``present``."""
    following = TABLE[present].following
    if wanted not in following:
        allowed = " or ".join(each.value for each in following)
        raise InvalidInput(
            f"the {ca.value} CA is in phase {present.value}: {wanted.value} cannot follow it,"
            f" only {allowed} can"
        )


# -- what hosts report ----------------------------------------------------------------
_VERSION: Final = "1"
#: Characters of a digest: they are compared with what auth knows, and prove nothing.
_DIGEST: Final = 8


@frozen
class Facts:
    """What a host has: digests of the keys that it trusts, by CA, and of those that signed its own
    certificates. Its text has at most 64 characters.
    """

    trusts: Mapping[RotatingCa, str]
    certified: Mapping[RotatingCa, str]

    @property
    def text(self) -> str:
        """As a host announces it."""
        trusts = ".".join(self.trusts.get(ca, "") for ca in RotatingCa)
        certified = ".".join(self.certified.get(ca, "") for ca in CERTIFYING)
        return f"{_VERSION}:{trusts}:{certified}"

    def behind(self, wanted: Facts, ca: RotatingCa) -> str:
        """Return what this host lacks of ``wanted`` for one CA, or nothing."""
        if self.trusts.get(ca) != wanted.trusts.get(ca):
            return f"it does not trust the keys of the {ca.value} CA yet"
        if ca in wanted.certified and self.certified.get(ca) != wanted.certified[ca]:
            return f"its certificate is not signed by the present key of the {ca.value} CA yet"
        return ""


#: The CAs that sign certificates of hosts.
CERTIFYING: Final = (RotatingCa.HOST, RotatingCa.TLS_HOST)


def read_facts(text: str) -> Facts | None:
    """Return what a host announced; None if it is of a version that does not report."""
    version, _, rest = text.partition(":")
    trusts, _, certified = rest.partition(":")
    trusted, signed = trusts.split("."), certified.split(".")
    if version != _VERSION or (len(trusted), len(signed)) != (len(RotatingCa), len(CERTIFYING)):
        return None
    return Facts(
        dict(zip(RotatingCa, trusted, strict=True)), dict(zip(CERTIFYING, signed, strict=True))
    )


def facts_wanted(authorities: Iterable[TrustedAuthority]) -> Facts:
    """Return what a host has that trusts these, and is certified by those that sign now."""
    trusts: dict[RotatingCa, str] = {}
    certified: dict[RotatingCa, str] = {}
    for each in authorities:
        for ca in RotatingCa:
            if ca.kind is each.kind:
                keys = _keys(each, ca)
                trusts[ca] = _digest(sorted(keys))
                if ca in CERTIFYING:
                    certified[ca] = _digest(keys[:1])
    return Facts(trusts, certified)


def facts_of(
    authorities: Iterable[TrustedAuthority], ssh_signer: bytes, tls: x509.Certificate
) -> Facts:
    """Return what a host has: it trusts ``authorities``, ``ssh_signer`` (a key blob) has signed its
    SSH certificate, and ``tls`` is its X.509 certificate.
    """
    known = tuple(authorities)
    hosts = next((a for a in known if a.kind is AuthorityKind.HOST), None)
    certified: dict[RotatingCa, str] = {RotatingCa.HOST: _digest([ssh_signer])}
    for text in () if hosts is None else hosts.tls_certificates:
        if issued_by(tls, (text,)):
            certified[RotatingCa.TLS_HOST] = _digest([_tls_key(text)])
    return Facts(facts_wanted(known).trusts, certified)


def _keys(authority: TrustedAuthority, ca: RotatingCa) -> list[bytes]:
    if ca.is_tls:
        return [each.encode() for each in authority.pins]
    return [parse_line(line) for line in authority.ssh_public_keys]


def _tls_key(certificate: str) -> bytes:
    return pin(certificate).encode()


def _digest(keys: Iterable[bytes]) -> str:
    hashed = hashlib.sha256()
    for key in keys:
        hashed.update(len(key).to_bytes(4, "big") + key)
    return hashed.hexdigest()[:_DIGEST]
