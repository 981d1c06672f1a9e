"""The signature algorithm suite: the type of a cluster's SSH keys (CAs, hosts, users).

Invariants:

* All keys that tele makes for a cluster are of the suite of its CAs. The suite follows from the
  CAs, so no message contains it.
* A suite says which keys are made. More are accepted: :mod:`tele.certs.algorithms`.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import TYPE_CHECKING

from tele.errors import InvalidInput, quoted
from tele.wire.fields import Reader

if TYPE_CHECKING:  # a program that reads a configuration makes no keys
    from tele.certs.keys import PrivateKey


class SignatureSuite(str, Enum):
    """``ed25519``, or ``ecdsa`` (NIST P-256) for clients in FIPS mode."""

    ED25519 = "ed25519"
    ECDSA = "ecdsa"

    @property
    def key_type(self) -> str:
        """The type of its SSH keys."""
        return _KEY_TYPES[self]

    def generate(self) -> PrivateKey:
        """Make an SSH key."""
        from tele.certs.keys import PrivateKey

        return PrivateKey.generate(self.key_type)


_KEY_TYPES = {
    SignatureSuite.ED25519: "ssh-ed25519",
    SignatureSuite.ECDSA: "ecdsa-sha2-nistp256",
}


def suite_of(authority_keys: Sequence[str]) -> SignatureSuite:
    """Return the suite of the CA with these SSH keys (lines); the first is the one that signs.

    Raises :class:`InvalidInput` if keys of that type cannot be made.
    """
    from tele.certs.keys import parse_line

    if not authority_keys:
        raise InvalidInput("the cluster named no SSH key of its CA")
    kind = Reader(parse_line(authority_keys[0])).string(64).decode("ascii", "replace")
    for suite, key_type in _KEY_TYPES.items():
        if kind == key_type:
            return suite
    raise InvalidInput(
        f"the cluster's CA has a key of type {quoted(kind)}, and this version of tele makes only"
        f" {' and '.join(_KEY_TYPES.values())}; use the version that the cluster runs"
    )
