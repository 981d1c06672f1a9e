"""How does a node that is dialled directly learn whom a proxy brings?

Auth learns it in the same way of those who call it through a proxy, before their TLS begins.

Before the visitor's own SSH begins, the proxy sends one line: ``TELE-VISITOR`` and, in
base64, its host certificate, who comes from where to which node and when, and a signature
over that with its host key.

Invariants:

* A word is for one node, lasts :data:`LASTS` seconds either way, and counts once: what
  somebody overheard is of no use to them.
* Whoever sends none comes as themselves.
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
from tele.tunnel.messages import Visitor
from tele.wire.fields import Reader, string

PREFACE: Final = b"TELE-VISITOR "
#: Longest preface with its end.
LIMIT: Final = 4096
LASTS: Final = 300.0
_CONTEXT: Final = b"tele-visitor@tele"


class Misdirected(ProtocolError):
    """A good word of a proxy, for another node: that one says that it is where we are."""


def vouch(visitor: Visitor, key: PrivateKey, certificate: Certificate, seconds: float) -> bytes:
    """Return the line that a proxy with ``certificate`` sends; ``seconds`` is Unix time."""
    said = string(visitor.encode()) + int(seconds * 1000).to_bytes(8, "big")
    body = string(certificate.blob) + string(said) + string(key.sign(_CONTEXT + said))
    return PREFACE + base64.b64encode(body) + b"\r\n"


def take_preface(data: bytes) -> int | None:
    """Return how long the preface at the start of ``data`` is; 0: there is none.

    None: it is not all there yet. Raises :class:`ProtocolError` for one without an end.
    """
    if not data.startswith(PREFACE):
        return None if PREFACE.startswith(data) else 0
    end = data.find(b"\n", 0, LIMIT)
    if end >= 0:
        return end + 1
    if len(data) >= LIMIT:
        raise ProtocolError("a proxy's word that does not end")
    return None


@define(eq=False)
class Vouching:
    """Takes the word of proxies at the node ``host_id()``.

    ``verifier()`` knows proxies of the cluster, and is asked anew each time.
    """

    _host_id: Callable[[], str]
    _verifier: Callable[[], MemberVerifier]
    _seen: set[bytes] = field(factory=set, init=False)
    _order: deque[tuple[float, bytes]] = field(factory=deque, init=False)

    def take(
        self, line: bytes, *dates: float, elapsed: float | None = None
    ) -> tuple[Visitor, HostIdentity | None]:
        """Return whom the preface ``line`` is about, and which proxy says so.

        ``dates`` are what it may be now, in Unix time; ``elapsed`` is the date by a clock that is
        never set, by which words are remembered, and by which a certificate may have begun
        (:func:`tele.loop.validity_date`). Raises :class:`ProtocolError`.
        """
        try:
            reader = Reader(base64.b64decode(line[len(PREFACE) :].strip(), validate=True))
        except binascii.Error:
            raise ProtocolError("a proxy's word that cannot be read") from None
        blob, said, signature = reader.string(), reader.string(), reader.string()
        reader.end()
        fields = Reader(said)
        visitor, at = Visitor.decode(fields.string()), int.from_bytes(fields.take(8), "big") / 1000
        fields.end()
        seconds = min(dates, key=lambda date: abs(date - at))
        if abs(seconds - at) > LASTS:
            off = difference(seconds - at)
            raise ProtocolError(
                f"this machine's clock is {off} the proxy's: set the one that is wrong"
            )
        proxy = self._check(blob, said, signature, seconds, max(seconds, elapsed or seconds))
        self._once(said, seconds if elapsed is None else elapsed)
        if visitor.host_id != self._host_id():
            raise Misdirected("a proxy's word for another node")
        return visitor, proxy

    def _check(
        self, blob: bytes, said: bytes, signature: bytes, seconds: float, latest: float
    ) -> HostIdentity | None:
        try:
            certificate = parse_certificate(blob)
            moment = max(seconds, min(latest, certificate.valid_after))
            proxy = self._verifier().verify(certificate, datetime.fromtimestamp(moment, UTC))
            allowed = (certificate.key.type,)
            certificate.key.verify(signature, _CONTEXT + said, allowed)
        except BadCertificate as error:
            raise ProtocolError(f"not the word of a proxy: {error}") from None
        return proxy.identity

    def _once(self, said: bytes, seconds: float) -> None:
        while self._order and self._order[0][0] < seconds - 2 * LASTS:
            self._seen.discard(self._order.popleft()[1])
        if said in self._seen:
            raise ProtocolError("a proxy's word that was said before")
        self._seen.add(said)
        self._order.append((seconds, said))
