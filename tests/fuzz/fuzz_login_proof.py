"""Invariant: a proof of a login is one that the client has signed, and its host key is the one that
the client has seen, or there is a BadCertificate.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta

from attempts import Dice, main
from tele.certs.issue import UserCertificateRequest, issue_user
from tele.certs.keys import PrivateKey
from tele.certs.login_proof import LoginProof, check_login
from tele.errors import BadCertificate
from tele.wire.fields import boolean, mpint, string
from tele.wire.key_agreement import exchange_hash, exchange_transcript

NOW = datetime(2026, 1, 1, tzinfo=UTC)
AUTHORITY, KEY = PrivateKey.generate(), PrivateKey.generate()
HOST_KEY = b"the host key"
CERTIFICATE = issue_user(
    AUTHORITY,
    KEY.public.blob,
    UserCertificateRequest("alice", "c", ("root",), ("dev",), "s-1", timedelta(hours=1)),
    NOW,
    os.urandom,
)
TRANSCRIPT = exchange_transcript(
    client_version=b"SSH-2.0-x",
    server_version=b"SSH-2.0-y",
    client_kexinit=b"\x14client",
    server_kexinit=b"\x14server",
    host_key=HOST_KEY,
    client_share=b"e",
    server_share=b"f",
    secret=mpint(b"k"),
)
EXCHANGE = exchange_hash(TRANSCRIPT)


def _request(method: bytes) -> bytes:
    named = string(HOST_KEY) if method != b"publickey" else b""
    return (
        b"\x32"
        + string(b"root")
        + string(b"ssh-connection")
        + string(method)
        + boolean(True)
        + string(b"ssh-ed25519-cert-v01@openssh.com")
        + string(CERTIFICATE.blob)
        + named
    )


REQUESTS = [_request(b"publickey"), _request(b"publickey-hostbound-v00@openssh.com")]


def sign(exchange: bytes, request: bytes) -> bytes:
    """Sign as the client does."""
    return KEY.sign(string(exchange) + request, b"ssh-ed25519")


SIGNATURES = [sign(EXCHANGE, each) for each in REQUESTS]


def check(proof: LoginProof) -> bool:
    """Return whether a proof is accepted; it raises nothing else."""
    try:
        check_login(CERTIFICATE, "root", proof)
    except BadCertificate:
        return False
    return True


def attempt(dice: Dice) -> None:
    """A proof with damage in one part of it, or none; then a client that signs what is damaged."""
    number = dice.randrange(2)
    request, exchange, transcript = REQUESTS[number], EXCHANGE, TRANSCRIPT
    part = dice.randrange(4)
    if part == 0:
        request = dice.damaged(request, 3)
    elif part == 1:
        exchange = dice.damaged(exchange, 3)
    elif part == 2:
        transcript = dice.damaged(transcript, 3)
    same = (request, exchange) == (REQUESTS[number], EXCHANGE)
    whole = same and (number == 1 or transcript == TRANSCRIPT)
    assert check(LoginProof(exchange, request, SIGNATURES[number], transcript)) == whole
    check(LoginProof(exchange, request, sign(exchange, request), transcript))
    assert not check(LoginProof(exchange, request, sign(b"", request), transcript))


if __name__ == "__main__":
    main(attempt)
