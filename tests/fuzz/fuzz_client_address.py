"""Invariant: a signed client address is a proxy's, for this node, recent and not used before, or
a ProtocolError; other bytes are left alone.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime

from attempts import Dice, main
from tele.certs.issue import HostCertificateRequest, issue_host
from tele.certs.keys import PrivateKey
from tele.conch.client.transport import MemberVerifier
from tele.errors import ProtocolError
from tele.model.identity import HostRole
from tele.tunnel.client_address import (
    LIMIT,
    PREFACE,
    ClientAddressVerifier,
    preface_size,
    sign_client_address,
)
from tele.tunnel.messages import ClientAddress

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SECONDS = NOW.timestamp()
AUTHORITY, KEY = PrivateKey.generate(), PrivateKey.generate()
WHO = ClientAddress("node-1", ("192.0.2.1", 4711))
VERIFIER = MemberVerifier({AUTHORITY.public.blob}, "test", {HostRole.PROXY})


def _signed(role: HostRole, authority: PrivateKey, client: ClientAddress, at: float) -> bytes:
    request = HostCertificateRequest("p-1", "proxy1", "test", role)
    return sign_client_address(
        client, KEY, issue_host(authority, KEY.public.blob, request, NOW, os.urandom), at
    )


GOOD = _signed(HostRole.PROXY, AUTHORITY, WHO, SECONDS)
BAD = [
    _signed(HostRole.NODE, AUTHORITY, WHO, SECONDS),
    _signed(HostRole.PROXY, PrivateKey.generate(), WHO, SECONDS),
    _signed(HostRole.PROXY, AUTHORITY, ClientAddress("node-2", ("192.0.2.1", 1)), SECONDS),
    _signed(HostRole.PROXY, AUTHORITY, WHO, SECONDS - 1000),
    b"SSH-2.0-x\r\n",
    PREFACE + b"A" * LIMIT,
]


def check(data: bytes) -> None:
    """Hold the invariant for ``data`` at the start of a connection."""
    verifier = ClientAddressVerifier(lambda: "node-1", lambda: VERIFIER)
    try:
        size = preface_size(data)
        if not size:
            assert size == 0 or len(data) < LIMIT
            assert size is None or not data.startswith(PREFACE)
            return
        assert size <= LIMIT
        client, _ = verifier.verify(data[:size], SECONDS)
    except ProtocolError:
        return
    assert client == WHO
    try:
        verifier.verify(data[:size], SECONDS)
    except ProtocolError:
        return
    raise AssertionError("a signed client address was accepted twice")


def attempt(dice: Dice) -> None:
    """A signed client address, good or not, with damage."""
    line = GOOD if dice.random() < 0.7 else dice.choice(BAD)
    check(dice.damaged(line, 3) + dice.choice((b"", b"SSH-2.0-x\r\n")))


if __name__ == "__main__":
    main(attempt)
