"""Invariant: any bytes are a certificate that encodes to the same bytes, or BadCertificate; and
none passes a check but what an authority signed.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta

from attempts import Dice, main
from tele.certs.algorithms import USER_ALGORITHMS
from tele.certs.certificate import Certificate, parse_certificate, read_options, write_options
from tele.certs.check import check_host, check_user
from tele.certs.issue import (
    HostCertificateRequest,
    UserCertificateRequest,
    issue_host,
    issue_user,
)
from tele.certs.keys import PrivateKey
from tele.errors import BadCertificate
from tele.model.identity import HostRole

NOW = datetime(2026, 1, 1, tzinfo=UTC)
AUTHORITIES = [PrivateKey.generate(), PrivateKey.generate("ecdsa-sha2-nistp256")]
TRUSTED = frozenset(key.public.blob for key in AUTHORITIES)


def _issued() -> list[Certificate]:
    user = UserCertificateRequest(
        "alice", "test", ("alice", "root"), ("dev",), "s-1", timedelta(hours=1)
    )
    host = HostCertificateRequest("h-1", "web1", "test", HostRole.NODE)
    made = []
    for authority in AUTHORITIES:
        for kind in ("ssh-ed25519", "ecdsa-sha2-nistp256", "ssh-rsa"):
            blob = PrivateKey.generate(kind).public.blob
            made.append(issue_user(authority, blob, user, NOW, os.urandom))
            made.append(issue_host(authority, blob, host, NOW, os.urandom))
    return made


ISSUED = _issued()
SEEDS = [certificate.blob for certificate in ISSUED]
SIGNED = {certificate.signed for certificate in ISSUED}


def check(blob: bytes) -> None:
    """Hold the invariant for ``blob``."""
    try:
        certificate = parse_certificate(blob)
    except BadCertificate:
        return
    assert certificate.blob == blob
    assert blob.startswith(certificate.signed)
    for options in (certificate.critical, certificate.extensions):
        assert read_options(write_options(options)) == options
    _check_no_login(certificate)


def _check_no_login(certificate: Certificate) -> None:
    for name, algorithm in USER_ALGORITHMS.items():
        if algorithm.blob_type == certificate.type:
            try:
                check_user(certificate, name, TRUSTED, "root", "192.0.2.1", NOW, "test")
            except BadCertificate:
                continue
            assert certificate.signed in SIGNED
    try:
        check_host(certificate, TRUSTED, ("web1",), NOW)
    except BadCertificate:
        return
    assert certificate.signed in SIGNED


def attempt(dice: Dice) -> None:
    """A good certificate with damage, or two that are mixed."""
    blob = dice.choice(SEEDS)
    if dice.random() < 0.1:
        other = dice.choice(SEEDS)
        blob = blob[: dice.randint(0, len(blob))] + other[dice.randint(0, len(other)) :]
    check(dice.damaged(blob, 3))


if __name__ == "__main__":
    main(attempt)
