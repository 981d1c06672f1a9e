"""Which keys does a cluster trust? The public half of its authorities."""

from __future__ import annotations

from datetime import datetime
from enum import Enum

from attrs import frozen


class AuthorityKind(str, Enum):
    """``user`` signs certificates of users, ``host`` those of hosts."""

    USER = "user"
    HOST = "host"


@frozen
class TrustedAuthority:
    """The trusted keys of one kind. More than one key only during a rotation.

    ``ssh_public_keys`` are lines ``type base64`` without comment, first the one that signs,
    ``tls_certificates`` PEM texts, ``pins`` ``sha256:<hex>`` of each
    SubjectPublicKeyInfo, in the same order as the certificates.
    """

    kind: AuthorityKind
    ssh_public_keys: tuple[str, ...]
    tls_certificates: tuple[str, ...]
    pins: tuple[str, ...]


@frozen
class Certificates:
    """The certificates of an identity, SSH and X.509, and the authorities to trust.

    ``ssh`` is one line ``type base64``; ``tls`` is PEM, leaf first.
    """

    ssh: str
    tls: str
    expires: datetime
    authorities: tuple[TrustedAuthority, ...]


def authority_of(
    authorities: tuple[TrustedAuthority, ...], kind: AuthorityKind
) -> TrustedAuthority | None:
    """Return the authority of ``kind``, or None."""
    return next((a for a in authorities if a.kind is kind), None)
