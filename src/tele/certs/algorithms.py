"""Which algorithms does tele know, and what do their names mean?

On the wire an algorithm name, the type inside a key blob and the type inside a
signature are three different things: ``rsa-sha2-256-cert-v01@openssh.com`` carries a
blob of type ``ssh-rsa-cert-v01@openssh.com`` and a signature of type ``rsa-sha2-256``
(RFC 8332; OpenSSH PROTOCOL.certkeys).

Invariants:

* SHA-1 (``ssh-rsa`` as a signature) and DSA are not here, so nothing can choose them.
"""

from __future__ import annotations

from typing import Final

from attrs import frozen

CERTIFICATE_SUFFIX: Final = b"-cert-v01@openssh.com"

ED25519: Final = b"ssh-ed25519"
RSA: Final = b"ssh-rsa"
RSA_SHA256: Final = b"rsa-sha2-256"
RSA_SHA512: Final = b"rsa-sha2-512"
ECDSA_256: Final = b"ecdsa-sha2-nistp256"
ECDSA_384: Final = b"ecdsa-sha2-nistp384"
ECDSA_521: Final = b"ecdsa-sha2-nistp521"
SK_ED25519: Final = b"sk-ssh-ed25519@openssh.com"
SK_ECDSA: Final = b"sk-ecdsa-sha2-nistp256@openssh.com"

#: A key of ML-DSA-44 and one of Ed25519 (OpenSSH 10.4); :mod:`tele.certs.composite`.
MLDSA44_ED25519: Final = b"ssh-mldsa44-ed25519@openssh.com"

RSA_MINIMUM_BITS: Final = 2048
RSA_MAXIMUM_BITS: Final = 16384


@frozen
class Algorithm:
    """``blob_type`` is what the key or certificate blob says, ``signature`` what signs."""

    name: bytes
    blob_type: bytes
    signature: bytes


def certificate_type(key_type: bytes) -> bytes:
    """Return the certificate type for a plain key type."""
    return key_type.removesuffix(b"@openssh.com") + CERTIFICATE_SUFFIX


_PLAIN: Final = (
    ED25519, ECDSA_256, ECDSA_384, ECDSA_521, SK_ED25519, SK_ECDSA, MLDSA44_ED25519,
)  # fmt: skip

#: Certificate type -> type of the key inside.
KEY_TYPES: Final = {certificate_type(plain): plain for plain in (*_PLAIN, RSA)}

#: Certificate algorithms by their name on the wire, the preferred first.
CERTIFICATE_ALGORITHMS: Final = {
    algorithm.name: algorithm
    for algorithm in (
        *(Algorithm(certificate_type(p), certificate_type(p), p) for p in _PLAIN),
        Algorithm(RSA_SHA512 + CERTIFICATE_SUFFIX, certificate_type(RSA), RSA_SHA512),
        Algorithm(RSA_SHA256 + CERTIFICATE_SUFFIX, certificate_type(RSA), RSA_SHA256),
    )
}

#: Plain key algorithms by their name on the wire.
PLAIN_ALGORITHMS: Final = {
    algorithm.name: algorithm
    for algorithm in (
        *(Algorithm(p, p, p) for p in _PLAIN),
        Algorithm(RSA_SHA512, RSA, RSA_SHA512),
        Algorithm(RSA_SHA256, RSA, RSA_SHA256),
    )
}

#: What users may log in with: certificates only.
USER_ALGORITHMS: Final = CERTIFICATE_ALGORITHMS

#: What a host may prove itself with: certificates first, security keys never.
HOST_ALGORITHMS: Final = {
    name: algorithm
    for name, algorithm in {**CERTIFICATE_ALGORITHMS, **PLAIN_ALGORITHMS}.items()
    if not name.startswith(b"sk-")
}

#: Signature types that an authority may have signed with.
SIGNATURE_ALGORITHMS: Final = frozenset((*_PLAIN, RSA_SHA256, RSA_SHA512))

#: The value of ``server-sig-algs`` (RFC 8308): certificates and the signatures under them.
SERVER_SIGNATURE_ALGORITHMS: Final = (*USER_ALGORITHMS, *PLAIN_ALGORITHMS)
