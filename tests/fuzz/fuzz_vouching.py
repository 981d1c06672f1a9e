"""Invariant: a line before a client's own is signed by a proxy, for this node just now
and not before, or a ProtocolError; what is no such line is left alone.
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
from tele.tunnel.messages import Visitor
from tele.tunnel.vouching import LIMIT, PREFACE, Vouching, take_preface, vouch

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SECONDS = NOW.timestamp()
AUTHORITY, KEY = PrivateKey.generate(), PrivateKey.generate()
WHO = Visitor("node-1", ("192.0.2.1", 4711))
VERIFIER = MemberVerifier({AUTHORITY.public.blob}, "test", {HostRole.PROXY})


def _word(role: HostRole, authority: PrivateKey, visitor: Visitor, at: float) -> bytes:
    request = HostCertificateRequest("p-1", "proxy1", "test", role)
    return vouch(visitor, KEY, issue_host(authority, KEY.public.blob, request, NOW, os.urandom), at)


GOOD = _word(HostRole.PROXY, AUTHORITY, WHO, SECONDS)
BAD = [
    _word(HostRole.NODE, AUTHORITY, WHO, SECONDS),
    _word(HostRole.PROXY, PrivateKey.generate(), WHO, SECONDS),
    _word(HostRole.PROXY, AUTHORITY, Visitor("node-2", ("192.0.2.1", 1)), SECONDS),
    _word(HostRole.PROXY, AUTHORITY, WHO, SECONDS - 1000),
    b"SSH-2.0-x\r\n",
    PREFACE + b"A" * LIMIT,
]


def check(data: bytes) -> None:
    """Hold the invariant for ``data`` at the start of a connection."""
    vouching = Vouching(lambda: "node-1", lambda: VERIFIER)
    try:
        size = take_preface(data)
        if not size:
            assert size == 0 or len(data) < LIMIT
            assert size is None or not data.startswith(PREFACE)
            return
        assert size <= LIMIT
        visitor, _ = vouching.take(data[:size], SECONDS)
    except ProtocolError:
        return
    assert visitor == WHO
    try:
        vouching.take(data[:size], SECONDS)
    except ProtocolError:
        return
    raise AssertionError("a word that counts twice")


def attempt(dice: Dice) -> None:
    """A word, good or not, with damage."""
    word = GOOD if dice.random() < 0.7 else dice.choice(BAD)
    check(dice.damaged(word, 3) + dice.choice((b"", b"SSH-2.0-x\r\n")))


if __name__ == "__main__":
    main(attempt)
