"""The signature algorithm suite: the type of a cluster's SSH keys (CAs, hosts, users).

Invariants:

* All keys that tele makes for a cluster are of the suite of its CAs. The suite follows from the
  CAs, so no message contains it. With ``rsa``, whose keys take a second, those that a proxy makes
  for one host or one session, and auth's own, are of ``ecdsa``.
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
    """``ed25519``; ``ecdsa`` (NIST P-256) for clients in FIPS mode; ``rsa`` (3072 bits) for those
    that know nothing else; ``mldsa44-ed25519``, which quantum computers do not break, for OpenSSH
    of 10.4 and later.
    """

    ED25519 = "ed25519"
    ECDSA = "ecdsa"
    RSA = "rsa"
    MLDSA44_ED25519 = "mldsa44-ed25519"

    @property
    def key_type(self) -> str:
        """The type of its SSH keys."""
        return _KEY_TYPES[self]

    @property
    def quick_key_type(self) -> str:
        """The type of keys of which many are made, or that are derived from a secret."""
        return _KEY_TYPES[SignatureSuite.ECDSA if self is SignatureSuite.RSA else self]

    def generate(self) -> PrivateKey:
        """Make an SSH key. Raises InvalidInput if this machine cannot."""
        from tele.certs.keys import PrivateKey

        return PrivateKey.generate(self.key_type)

    def generate_quick(self) -> PrivateKey:
        """Make an SSH key of which many are made, in a millisecond."""
        from tele.certs.keys import PrivateKey

        return PrivateKey.generate(self.quick_key_type)


_KEY_TYPES = {
    SignatureSuite.ED25519: "ssh-ed25519",
    SignatureSuite.ECDSA: "ecdsa-sha2-nistp256",
    SignatureSuite.RSA: "ssh-rsa",
    SignatureSuite.MLDSA44_ED25519: "ssh-mldsa44-ed25519@openssh.com",
}


def suite_problem(suite: SignatureSuite) -> str:
    """Return why this machine cannot make keys of a suite, or nothing."""
    from tele.certs.composite import is_offered

    if suite is not SignatureSuite.MLDSA44_ED25519 or is_offered():
        return ""
    return (
        "the library cryptography of this machine offers no ML-DSA: install one that does (pip"
        " install -U cryptography)"
    )


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
