"""What a server announces of its keys."""

from __future__ import annotations

import os
from datetime import UTC, datetime

import pytest

from tele.certs.issue import HostCertificateRequest, issue_host
from tele.certs.keys import PrivateKey
from tele.conch.server.transport import host_key_algorithms
from tele.conch.transport.exchange import HostKeys
from tele.model.identity import HostRole


@pytest.mark.parametrize(
    ("kind", "plain", "certified"),
    [
        ("ssh-ed25519", [b"ssh-ed25519"], [b"ssh-ed25519-cert-v01@openssh.com"]),
        (
            "ecdsa-sha2-nistp256",
            [b"ecdsa-sha2-nistp256"],
            [b"ecdsa-sha2-nistp256-cert-v01@openssh.com"],
        ),
        (
            "ssh-rsa",
            [b"rsa-sha2-512", b"rsa-sha2-256"],
            [b"rsa-sha2-512-cert-v01@openssh.com", b"rsa-sha2-256-cert-v01@openssh.com"],
        ),
    ],
)
def test_host_key_algorithms(kind: str, plain: list[bytes], certified: list[bytes]) -> None:
    """Certificates come first, plain keys after them, SHA-1 never."""
    key = PrivateKey.generate(kind)
    request = HostCertificateRequest("h", "web1", "c", HostRole.NODE)
    now = datetime(2026, 1, 1, tzinfo=UTC)
    certificate = issue_host(PrivateKey.generate(), key.public.blob, request, now, os.urandom)
    assert host_key_algorithms(HostKeys(key, None)) == tuple(plain)
    assert host_key_algorithms(HostKeys(key, certificate)) == (*certified, *plain)
