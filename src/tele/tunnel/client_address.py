"""How does a node that a proxy dials directly learn the address of the client?

The proxy sends a *signed client address* before the client's own SSH: one line, ``TELE-CLIENT`` and
base64 of the proxy's host certificate, the client's address, the node it is for, the time, and a
signature by the proxy's host key. Auth learns the address of a client of its API in the same form,
before TLS.

Invariants:

* A signed client address is for one node, is valid for :data:`VALID_SECONDS` either way, and is
  accepted once: a copy is useless.
* Without one, the connection counts as its TCP peer's. A line of another version is an error that
  says which side to upgrade, and nothing is accepted on such a connection.
"""

from __future__ import annotations

import base64
import binascii
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

from attrs import define, field

from tele.certs.certificate import Certificate, parse_certificate
from tele.certs.keys import PrivateKey
from tele.conch.client.transport import MemberVerifier
from tele.errors import BadCertificate, ProtocolError
from tele.model.identity import HostIdentity
from tele.text import difference
from tele.tunnel.messages import ClientAddress
from tele.wire.fields import Reader, string

PREFACE: Final = b"TELE-CLIENT "
#: What the lines of all versions begin with, and the line of versions before this one.
_FAMILY: Final = b"TELE-"
_FORMER: Final = b"TELE-VISITOR "
#: The longest line, its end included.
LIMIT: Final = 4096
VALID_SECONDS: Final = 300.0
_CONTEXT: Final = b"tele-client@tele"


class WrongDestination(ProtocolError):
    """A valid signed client address for another node, which announces our address as its own."""


def sign_client_address(
    client: ClientAddress, key: PrivateKey, certificate: Certificate, seconds: float
) -> bytes:
    """Return the line that a proxy with ``certificate`` sends; ``seconds`` is Unix time."""
    signed = string(client.encode()) + int(seconds * 1000).to_bytes(8, "big")
    body = string(certificate.blob) + string(signed) + string(key.sign(_CONTEXT + signed))
    return PREFACE + base64.b64encode(body) + b"\r\n"


def preface_size(data: bytes) -> int | None:
    """Return the length of the line at the start of ``data``; 0: there is none.

    None: it is incomplete. Raises :class:`ProtocolError` if it is too long, or of another version.
    """
    if not data.startswith(PREFACE):
        if PREFACE.startswith(data) or _FORMER.startswith(data):
            return None
        if not data.startswith(_FAMILY):
            return 0
        older = data.startswith(_FORMER)
        raise ProtocolError(
            "the proxy has an older version than this host: upgrade the proxy"
            if older
            else "the proxy has a newer version than this host: upgrade this host"
        )
    end = data.find(b"\n", 0, LIMIT)
    if end >= 0:
        return end + 1
    if len(data) >= LIMIT:
        raise ProtocolError(f"signed client address longer than {LIMIT} bytes")
    return None


@define(eq=False)
class ClientAddressVerifier:
    """Verifies signed client addresses for the node ``host_id()``.

    ``verifier()`` checks certificates of proxies of the cluster; it is called for each line.
    """

    _host_id: Callable[[], str]
    _verifier: Callable[[], MemberVerifier]
    _seen: set[bytes] = field(factory=set, init=False)
    _order: deque[tuple[float, bytes]] = field(factory=deque, init=False)

    def verify(
        self, line: bytes, *dates: float, elapsed: float | None = None
    ) -> tuple[ClientAddress, HostIdentity | None]:
        """Return the client address in ``line``, and the proxy that signed it.

        ``dates`` are the candidates for the present date, in Unix time; ``elapsed`` is the date by
        a clock that is never set: it decides how long a line is remembered, and bounds the start of
        a certificate (:func:`tele.loop.validity_date`). Raises :class:`ProtocolError`.
        """
        try:
            reader = Reader(base64.b64decode(line[len(PREFACE) :].strip(), validate=True))
        except binascii.Error:
            raise ProtocolError("signed client address is not base64") from None
        blob, signed, signature = reader.string(), reader.string(), reader.string()
        reader.end()
        fields = Reader(signed)
        client = ClientAddress.decode(fields.string())
        at = int.from_bytes(fields.take(8), "big") / 1000
        fields.end()
        seconds = min(dates, key=lambda date: abs(date - at))
        if abs(seconds - at) > VALID_SECONDS:
            off = difference(seconds - at)
            raise ProtocolError(
                f"this machine's clock is {off} the proxy's: set the one that is wrong"
            )
        proxy = self._check(blob, signed, signature, seconds, max(seconds, elapsed or seconds))
        self._remember(signed, seconds if elapsed is None else elapsed)
        if client.host_id != self._host_id():
            raise WrongDestination("signed client address is for another node")
        return client, proxy

    def _check(
        self, blob: bytes, signed: bytes, signature: bytes, seconds: float, latest: float
    ) -> HostIdentity | None:
        try:
            certificate = parse_certificate(blob)
            moment = max(seconds, min(latest, certificate.valid_after))
            proxy = self._verifier().verify(certificate, datetime.fromtimestamp(moment, UTC))
            allowed = certificate.key.signature_types
            certificate.key.verify(signature, _CONTEXT + signed, allowed)
        except BadCertificate as error:
            raise ProtocolError(f"client address not signed by a proxy: {error}") from None
        return proxy.identity

    def _remember(self, signed: bytes, seconds: float) -> None:
        while self._order and self._order[0][0] < seconds - 2 * VALID_SECONDS:
            self._seen.discard(self._order.popleft()[1])
        if signed in self._seen:
            raise ProtocolError("signed client address was used before")
        self._seen.add(signed)
        self._order.append((seconds, signed))
