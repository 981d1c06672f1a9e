"""Did this user log in from this device before?

A client that logs in again presents its earlier certificate, which may have expired, and signs the
new request with its key. The proof grants no access; it exempts the client from delays that wrong
passwords of others caused.

Invariants:

* A proof is for one user and one request: the signature covers the new public keys.
* A certificate counts for :data:`REMEMBERED` after its expiry, if it was valid before.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from typing import Final

from tele.certs.certificate import parse_certificate
from tele.certs.check import LATEST, check_user
from tele.certs.keys import PrivateKey, parse_line
from tele.errors import BadCertificate
from tele.model.api.members import PublicKeys
from tele.wire.fields import string

REMEMBERED: Final = timedelta(days=90)
#: A certificate line of ours is far shorter.
LINE_LIMIT: Final = 8 * 1024
_CONTEXT: Final = b"tele-device@tele"


def _signed(user: str, keys: PublicKeys) -> bytes:
    texts = (user, keys.ssh, keys.tls)
    return _CONTEXT + b"".join(string(text.encode("utf-8", "replace")) for text in texts)


def prove_device(key: PrivateKey, user: str, keys: PublicKeys) -> bytes:
    """Return the signature of the device's old ``key`` under a request of ``user`` for ``keys``."""
    return key.sign(_signed(user, keys))


def check_device(
    line: str,
    signature: bytes,
    user: str,
    keys: PublicKeys,
    *,
    trusted: Collection[bytes],
    cluster: str,
    remote_addr: str,
    now: datetime,
) -> str:
    """Return the name of the device: the fingerprint of its earlier key.

    ``line`` is its earlier certificate. Raises :class:`BadCertificate`.
    """
    if len(line) > LINE_LIMIT:
        raise BadCertificate("it is too long", "option")
    certificate = parse_certificate(parse_line(line))
    last = datetime.fromtimestamp(min(certificate.valid_before, int(LATEST.timestamp())), UTC)
    if now > last + REMEMBERED:
        raise BadCertificate("it expired too long ago", "validity")
    moment = min(now, last - timedelta(seconds=1))
    checked = check_user(certificate, certificate.type, trusted, None, remote_addr, moment, cluster)
    if checked.session:
        raise BadCertificate("it is a proxy's, for one session of the user", "session")
    if checked.identity.user != user:
        raise BadCertificate("it is another user's", "principal")
    certificate.key.verify(signature, _signed(user, keys), certificate.key.signature_types)
    return certificate.key.fingerprint
