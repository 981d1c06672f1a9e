"""Proofs that a user has logged in to a server."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from hashlib import sha256, sha512

import pytest

from tele.certs.certificate import Certificate
from tele.certs.issue import UserCertificateRequest, issue_user
from tele.certs.keys import PrivateKey
from tele.certs.login_proof import LoginProof, check_login
from tele.errors import BadCertificate
from tele.wire.fields import boolean, mpint, string
from tele.wire.key_agreement import exchange_transcript

EXCHANGE = b"x" * 32
HOSTBOUND = b"publickey-hostbound-v00@openssh.com"
ALGORITHMS = {
    "ssh-ed25519": (b"ssh-ed25519-cert-v01@openssh.com", b"ssh-ed25519"),
    "ecdsa-sha2-nistp256": (b"ecdsa-sha2-nistp256-cert-v01@openssh.com", b"ecdsa-sha2-nistp256"),
    "ssh-rsa": (b"rsa-sha2-512-cert-v01@openssh.com", b"rsa-sha2-512"),
}


class User:
    """A user with a key of a kind, who signs requests."""

    def __init__(self, kind: str = "ssh-ed25519") -> None:
        self.key = PrivateKey.generate(kind)
        self.algorithm, self.signature = ALGORITHMS[kind]
        request = UserCertificateRequest(
            "alice", "c", ("root",), ("dev",), "s-1", timedelta(hours=1)
        )
        authority = PrivateKey.generate()
        self.certificate: Certificate = issue_user(
            authority, self.key.public.blob, request, datetime.now(UTC), os.urandom
        )

    def request(
        self,
        login: bytes = b"root",
        service: bytes = b"ssh-connection",
        method: bytes = HOSTBOUND,
        blob: bytes = b"",
        number: int = 50,
        signed: bool = True,
        rest: bytes = b"",
    ) -> bytes:
        return (
            bytes((number,))
            + string(login)
            + string(service)
            + string(method)
            + boolean(signed)
            + string(self.algorithm)
            + string(blob or self.certificate.blob)
            + (string(b"host key") if method == HOSTBOUND else b"")
            + rest
        )

    def sign(self, request: bytes, exchange: bytes = EXCHANGE) -> bytes:
        return self.key.sign(string(exchange) + request, self.signature)

    def proof(
        self, request: bytes, exchange: bytes = EXCHANGE, transcript: bytes = b""
    ) -> LoginProof:
        return LoginProof(exchange, request, self.sign(request, exchange), transcript)


def transcript(host_key: bytes = b"host key", secret: bytes = b"secret") -> bytes:
    """What the hash of a key exchange is made of."""
    names = ("client_version", "server_version", "client_kexinit", "server_kexinit")
    shares = {"client_share": b"e", "server_share": b"f"}
    fields = {name: name.encode() for name in names}
    return exchange_transcript(**fields, **shares, host_key=host_key, secret=mpint(secret))


@pytest.mark.parametrize("kind", ALGORITHMS)
def test_a_login_is_proven(kind: str) -> None:
    """Each kind of key, as OpenSSH signs with it; the host key is what the client has seen."""
    user = User(kind)
    request = user.request()
    found = check_login(user.certificate, "root", user.proof(request))
    assert (found.algorithm, found.host_key) == (user.algorithm, b"host key")


@pytest.mark.parametrize(
    "request_",
    [
        User().request(),
        b"",
        b"\x32",
        b"\x32\xff\xff\xff\xff",
    ],
)
def test_it_is_of_this_certificate(request_: bytes) -> None:
    """A request with another certificate, or one that is malformed, proves nothing (attack)."""
    user = User()
    with pytest.raises(BadCertificate):
        check_login(user.certificate, "root", user.proof(request_))


def test_it_is_for_this_login() -> None:
    """What the user signed for another login, service or purpose is not used for this (attack)."""
    user = User()
    for request in (
        user.request(login=b"alice"),
        user.request(service=b"ssh-userauth"),
        user.request(method=b"hostbased"),
        user.request(method=b"publickey"),
        user.request(number=51),
        user.request(signed=False),
        user.request(rest=b"more"),
    ):
        with pytest.raises(BadCertificate):
            check_login(user.certificate, "root", user.proof(request))


@pytest.mark.parametrize("kind", ALGORITHMS)
def test_a_login_of_a_client_that_does_not_bind_it_is_proven(kind: str) -> None:
    """The session identifier that such a client signs is a hash of the host key that it saw."""
    user, made = User(kind), transcript()
    proof = user.proof(user.request(method=b"publickey"), sha256(made).digest(), made)
    found = check_login(user.certificate, "root", proof)
    assert (found.algorithm, found.host_key) == (user.algorithm, b"host key")


def test_the_host_key_is_the_one_that_was_hashed() -> None:
    """A proxy that was taken over puts no other host key in the place of the one that the client
    has seen (attack).
    """
    user, made = User(), transcript()
    exchange, request = sha256(made).digest(), user.request(method=b"publickey")
    other = transcript(b"another host key")
    for proof in (
        user.proof(request, exchange, other),
        user.proof(request, exchange, transcript(secret=b"another secret")),
        user.proof(request, exchange, made + b"more"),
        user.proof(request, exchange, made[:-1]),
        user.proof(request, exchange),
        user.proof(request, sha512(made).digest(), made),
        LoginProof(sha256(other).digest(), request, user.sign(request, exchange), other),
    ):
        with pytest.raises(BadCertificate):
            check_login(user.certificate, "root", proof)


def test_a_transcript_is_no_secret_of_a_log() -> None:
    """The secret of the key exchange is in none of what quotes a proof."""
    user, made = User(), transcript(secret=b"secret")
    assert b"secret" not in repr(user.proof(user.request(), transcript=made)).encode()


def test_it_is_of_this_connection() -> None:
    """The signature of another connection, or none, is no proof (attack)."""
    user = User()
    request = user.request()
    for exchange, signature in (
        (EXCHANGE, user.sign(request, b"y" * 32)),
        (EXCHANGE, b""),
        (EXCHANGE, user.key.sign(request, user.signature)),
        (b"short", user.sign(request, b"short")),
    ):
        with pytest.raises(BadCertificate):
            check_login(user.certificate, "root", LoginProof(exchange, request, signature))
