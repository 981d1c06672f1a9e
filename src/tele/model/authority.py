"""Which keys does a cluster trust? The public half of its authorities."""

from __future__ import annotations

from datetime import datetime
from enum import Enum

from attrs import field, frozen

from tele.model.bounds import OMITTED


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

    ``retired_ssh_keys`` and ``retired_pins`` are of keys that a rotation has replaced. They verify
    recordings and the audit of that time, and show that a pin means this cluster; no connection and
    no certificate is accepted by them.
    """

    kind: AuthorityKind
    ssh_public_keys: tuple[str, ...]
    tls_certificates: tuple[str, ...]
    pins: tuple[str, ...]
    retired_ssh_keys: tuple[str, ...] = field(default=(), metadata=OMITTED)
    retired_pins: tuple[str, ...] = field(default=(), metadata=OMITTED)

    @property
    def signed_ever(self) -> tuple[str, ...]:
        """The SSH keys that may have signed what is stored: a recording, a head of the audit."""
        return (*self.ssh_public_keys, *self.retired_ssh_keys)


@frozen
class Certificates:
    """The certificates of an identity, SSH and X.509, and the authorities to trust.

    ``ssh`` is one line ``type base64``; ``tls`` is PEM, leaf first. ``session_mfa``: a role of the
    user asks for a second factor for each session, on some nodes.
    """

    ssh: str
    tls: str
    expires: datetime
    authorities: tuple[TrustedAuthority, ...]
    session_mfa: bool = field(default=False, metadata=OMITTED)


def authority_of(
    authorities: tuple[TrustedAuthority, ...], kind: AuthorityKind
) -> TrustedAuthority | None:
    """Return the authority of ``kind``, or None."""
    return next((a for a in authorities if a.kind is kind), None)
