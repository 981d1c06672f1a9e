"""A certificate that was given in files: shown, replaced when the files are, never lost."""

from __future__ import annotations

import errno
import os
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import NameOID
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.logger import ILogObserver, LogEvent, globalLogPublisher
from twisted.protocols.tls import TLSMemoryBIOFactory
from zope.interface import implementer

from tele.errors import InvalidInput
from tele.https.file_certificate import CHECK_SECONDS, FileCertificate
from tele.log import event_text

NOW = datetime(2026, 11, 26, tzinfo=UTC)
Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey


def make_key() -> Key:
    return ec.generate_private_key(ec.SECP256R1())


def pem_of(key: Key, password: bytes | None = None) -> bytes:
    encryption: Any = (
        serialization.BestAvailableEncryption(password)
        if password
        else serialization.NoEncryption()
    )
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption
    )


def certificate(key: Key, name: str, *, days: int = 90, since: datetime = NOW) -> bytes:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(since - timedelta(days=1))
        .not_valid_after(since + timedelta(days=days))
        .sign(key, algorithm)
    )
    return made.public_bytes(serialization.Encoding.PEM)


@implementer(ILogObserver)
class Scene:
    """Two files, and a server that shows what is in them."""

    def __init__(self, folder: Path) -> None:
        self.clock = Clock()
        self.cert, self.key = folder / "fullchain.pem", folder / "privkey.pem"
        self.logged: list[str] = []

    def __call__(self, event: LogEvent) -> None:
        self.logged.append(event_text(event))

    def write(self, name: str, key: Key | None = None, **named: Any) -> None:
        key = key or make_key()
        self.cert.write_bytes(certificate(key, name, **named))
        self.key.touch(0o600)
        self.key.write_bytes(pem_of(key))

    def open(self) -> FileCertificate:
        return FileCertificate(self.cert, self.key, self.clock, lambda: NOW)

    def shown(self, given: FileCertificate, **context: Any) -> tuple[str, list[str]]:
        """Connect; return the name on the certificate and what TLS agreed on."""
        client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        client.check_hostname = False
        client.verify_mode = ssl.CERT_NONE
        client.set_alpn_protocols(["tele-auth", "http/1.1"])
        for name, value in context.items():
            setattr(client, name, value)
        came, out = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = client.wrap_bio(came, out, server_hostname="p")
        plain = Factory.forProtocol(Protocol)
        plain.noisy = False
        factory: Any = TLSMemoryBIOFactory(given, False, plain, clock=self.clock)
        server = factory.buildProtocol(None)
        transport = StringTransport()
        server.makeConnection(transport)
        for _ in range(5):
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                server.dataReceived(out.read())
                came.write(transport.value())
                transport.clear()
        der = tls.getpeercert(True)
        assert der is not None
        (attribute,) = x509.load_der_x509_certificate(der).subject
        return str(attribute.value), [str(tls.version()), str(tls.selected_alpn_protocol())]


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    """A scene with its log."""
    made = Scene(tmp_path)
    globalLogPublisher.addObserver(made)
    yield made
    globalLogPublisher.removeObserver(made)


@pytest.mark.parametrize(
    "key",
    [
        make_key(),
        rsa.generate_private_key(65537, 2048),
        ed25519.Ed25519PrivateKey.generate(),
    ],
    ids=["ecdsa", "rsa", "ed25519"],
)
def test_it_is_shown(scene: Scene, key: Key) -> None:
    """Keys of all kinds that TLS has; TLS 1.3, and HTTP only: auth has a port of its own."""
    scene.write("one", key)
    assert scene.shown(scene.open()) == ("one", ["TLSv1.3", "http/1.1"])


def test_older_tls_is_refused(scene: Scene) -> None:
    """A client that has nothing newer than TLS 1.2 is refused in the handshake."""
    scene.write("one")
    given = scene.open()
    with pytest.raises(ssl.SSLError):
        scene.shown(given, maximum_version=ssl.TLSVersion.TLSv1_2)


def test_new_files_are_used_without_a_restart(scene: Scene) -> None:
    """They are checked when a client connects, at most once a second."""
    scene.write("one")
    given = scene.open()
    scene.write("two")
    assert scene.shown(given)[0] == "one"
    scene.clock.advance(CHECK_SECONDS)
    assert scene.shown(given)[0] == "two"


def test_a_pair_half_written_keeps_the_old_one(scene: Scene) -> None:
    """Whatever a renewal does in between, connections work; the log says it once."""
    scene.write("one")
    given = scene.open()
    key = make_key()
    scene.cert.write_bytes(certificate(key, "two"))
    for _ in range(5):
        scene.clock.advance(CHECK_SECONDS)
        assert scene.shown(given)[0] == "one"
    (line,) = [line for line in scene.logged if "certificate not replaced" in line]
    assert "is not that of" in line
    scene.key.unlink()
    scene.clock.advance(CHECK_SECONDS)
    assert scene.shown(given)[0] == "one"
    scene.key.touch(0o600)
    scene.key.write_bytes(pem_of(key))
    scene.clock.advance(CHECK_SECONDS)
    assert scene.shown(given)[0] == "two"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda s: s.cert.unlink(), "certificate .*fullchain.pem: No such file"),
        (lambda s: s.key.unlink(), "key .*privkey.pem: No such file"),
        (lambda s: s.cert.write_bytes(b"x"), "fullchain.pem: not a certificate in PEM"),
        (lambda s: s.key.write_bytes(b"secret"), "privkey.pem: not a key in PEM, unencrypted"),
        (lambda s: s.key.write_bytes(pem_of(make_key(), b"p")), "privkey.pem: not a key in PEM"),
        (lambda s: s.key.write_bytes(pem_of(make_key())), "the key in .* is not that of"),
        (lambda s: s.key.chmod(0o644), "key .*privkey.pem: others can read it"),
    ],
)
def test_files_that_cannot_be_used(scene: Scene, damage: Any, message: str) -> None:
    """At the start each error is raised, with the file and nothing of its content."""
    scene.write("one")
    damage(scene)
    with pytest.raises(InvalidInput, match=message) as caught:
        scene.open()
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("code", [errno.EMFILE, errno.EACCES, errno.EIO])
def test_files_that_cannot_be_read_for_a_while(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """New files that could not be read at first are used as soon as they can be, though they have
    not changed since; the log says it once.
    """
    scene.write("one")
    given = scene.open()
    scene.write("two")

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", refuse)
        for _ in range(3):
            scene.clock.advance(CHECK_SECONDS)
            assert scene.shown(given)[0] == "one"
    (line,) = [line for line in scene.logged if "certificate not replaced" in line]
    assert os.strerror(code) in line
    scene.clock.advance(CHECK_SECONDS)
    assert scene.shown(given)[0] == "two"


def test_a_certificate_that_has_expired_is_logged(scene: Scene) -> None:
    """It is shown, so that clients see why; the log has a warning."""
    scene.write("old", since=NOW - timedelta(days=200))
    assert scene.shown(scene.open())[0] == "old"
    assert [line for line in scene.logged if "certificate expired" in line]
    scene.write("young", since=NOW + timedelta(days=20))
    scene.open()
    assert [line for line in scene.logged if "not valid yet" in line]
