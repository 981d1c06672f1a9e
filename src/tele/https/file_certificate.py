"""Which certificate does a server show that is configured with files, and when is it replaced?

Invariants:

* The files are checked when a client connects, at most once a second; what did not change
  is not read. No connection waits for the disk: a thread checks, and connections after that get
  the new certificate.
* A pair that cannot be used does not replace one that can: it is logged once.
* A key that others can read is not used.
* TLS 1.3 and nothing below; no certificate is asked of the client.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any, Final, TypeVar

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from OpenSSL import SSL
from twisted.internet.interfaces import IOpenSSLServerConnectionCreator, IReactorTime
from twisted.internet.ssl import CertificateOptions, TLSVersion
from twisted.protocols.tls import TLSMemoryBIOProtocol
from twisted.python.failure import Failure
from zope.interface import implementer

from tele.capacity.descriptors import spare_descriptor
from tele.errors import InvalidInput
from tele.log import make_logger
from tele.private_files import read_secret
from tele.workers import SerialWorker

CHECK_SECONDS: Final = 1.0
#: No chain and no key is as large.
SIZE_LIMIT: Final = 1 << 20

_log: Final = make_logger(__name__)

T = TypeVar("T")

#: What changes when a file is written or replaced.
_Marks = tuple[tuple[int, int, int, int] | None, ...]
#: What serves TLS, and the certificate in it.
_Loaded = tuple[CertificateOptions, x509.Certificate]


class _Unreadable(InvalidInput):
    """A file cannot be read, for now."""


@implementer(IOpenSSLServerConnectionCreator)
class FileCertificate:
    """Accepts TLS with the certificates in ``cert`` (PEM, leaf first) and the key in ``key``.

    Raises :class:`InvalidInput` when they cannot be used. ``now()`` is for a warning about
    certificates that have expired; they are shown nevertheless.
    """

    def __init__(
        self, cert: Path, key: Path, clock: IReactorTime, now: Callable[[], datetime]
    ) -> None:
        self._cert = cert
        self._key = key
        self._clock = clock
        self._worker = SerialWorker(clock, "https_cert")
        self._checking = False
        self._now = now
        self._checked_at = clock.seconds()
        self._marks = self._mark()
        self._reported = ""
        self._options, leaf = self._load()
        self._check_dates(leaf)

    def serverConnectionForTLS(self, protocol: TLSMemoryBIOProtocol) -> SSL.Connection:
        """Start a connection with what is in the files, or was when it was good last."""
        moment = self._clock.seconds()
        if moment - self._checked_at >= CHECK_SECONDS and not self._checking:
            self._checked_at = moment
            self._checking = True
            self._worker.call(self._check_files, self._marks).addCallbacks(
                self._found, self._failed
            )
        return self._options.serverConnectionForTLS(protocol)

    def _check_files(self, known: _Marks) -> tuple[_Marks, _Loaded | InvalidInput | None]:
        """In a thread: load the files if they have changed since ``known``."""
        marks = self._mark()
        if marks == known:
            return marks, None
        try:
            return marks, self._load()
        except InvalidInput as error:
            return marks, error

    def _found(self, found: tuple[_Marks, _Loaded | InvalidInput | None]) -> None:
        self._checking = False
        self._marks, loaded = found
        if isinstance(loaded, InvalidInput):
            if str(loaded) != self._reported:
                self._reported = str(loaded)
                _log.error("certificate not replaced", error=str(loaded))
            if isinstance(loaded, _Unreadable):
                self._marks = ()  # it may end without a change of the files
        elif loaded is not None:
            self._reported = ""
            self._options, leaf = loaded
            self._check_dates(leaf)
            _log.info("certificate replaced", path=str(self._cert))

    def _failed(self, failure: Failure) -> None:
        self._checking = False
        _log.failure("certificate files not checked", failure=failure)

    def _mark(self) -> _Marks:
        return tuple(_mark(path) for path in (self._cert, self._key))

    def _load(self) -> _Loaded:
        chain = _read(self._cert, "certificate", _public, x509.load_pem_x509_certificates)
        key = _read(self._key, "key", _secret, lambda data: load_pem_private_key(data, None))
        leaf, *others = chain
        if leaf.public_key() != key.public_key():
            raise InvalidInput(f"the key in {self._key} is not that of {self._cert}")
        # pyOpenSSL takes cryptography's own objects; Twisted passes on what it is given.
        shown: dict[str, Any] = {"certificate": leaf, "privateKey": key, "extraCertChain": others}
        try:
            options = CertificateOptions(
                **shown,
                raiseMinimumTo=TLSVersion.TLSv1_3,
                acceptableProtocols=[b"http/1.1"],
            )
            options.getContext()
        except (SSL.Error, TypeError, ValueError):
            raise InvalidInput(f"TLS cannot be served with {self._cert} and {self._key}") from None
        return options, leaf

    def _check_dates(self, leaf: x509.Certificate) -> None:
        if leaf.not_valid_after_utc <= self._now():
            _log.warn("certificate expired", path=str(self._cert))
        elif leaf.not_valid_before_utc > self._now():
            _log.warn("certificate not valid yet", path=str(self._cert))


def _mark(path: Path) -> tuple[int, int, int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _public(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(SIZE_LIMIT)


def _secret(path: Path) -> bytes:
    return read_secret(path, "key")


def _read(
    path: Path, what: str, data_of: Callable[[Path], bytes], parse: Callable[[bytes], T]
) -> T:
    try:
        with spare_descriptor():
            data = data_of(path)
    except OSError as error:
        raise _Unreadable(f"{what} {path}: {error.strerror}") from None
    try:
        return parse(data)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        # The message says nothing else about a key; TypeError is one that needs a password.
        raise InvalidInput(f"{path}: not a {what} in PEM, unencrypted") from None
