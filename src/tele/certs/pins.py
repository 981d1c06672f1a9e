"""CA pins: hashes of a CA's public key, by which it is recognized."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence

from tele.errors import AccessDenied, InvalidInput, quoted

_PIN = re.compile(r"sha256:[0-9a-f]{64}")


def pin(certificate: str) -> str:
    """Return ``sha256:<hex>`` of the SubjectPublicKeyInfo of a PEM certificate."""
    # A program that reads a configuration compares none.
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    key = x509.load_pem_x509_certificate(certificate.encode("ascii")).public_key()
    spki = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return f"sha256:{hashlib.sha256(spki).hexdigest()}"


def read_pin(text: str) -> str:
    """Return ``text`` as a pin in its canonical form. Raises :class:`InvalidInput`."""
    value = text.strip().lower()
    if not _PIN.fullmatch(value):
        raise InvalidInput(f"{quoted(text)} is not a CA pin: expected sha256: and 64 hex digits")
    return value


def check_pins(certificates: Iterable[str], pins: Iterable[str]) -> Sequence[str]:
    """Return the PEM certificates that match a pin.

    Raises :class:`AccessDenied` (reason ``pin``) if none does.
    """
    wanted = {read_pin(each) for each in pins}
    good = [certificate for certificate in certificates if pin(certificate) in wanted]
    if not good:
        raise AccessDenied(
            "the cluster's CA does not match the pin: another server answers in its place,"
            " or the pin is of another cluster; compare it with: tele ca status",
            "pin",
        )
    return good
