"""How far has a TLS connection come that passes through here, as far as one can see from outside?

From the server's first encrypted records on, everything but the types and lengths of records is
secret (RFC 8446, section 5.2): both the end of a handshake and data look like application data.
So a connection counts as answered when the server has spoken encrypted, then the client, and
then the server again: by then the client has sent its Finished, or the server closes.

Invariants:

* Nothing is kept but five bytes of a head, and each record is looked at once.
* What is no TLS is never answered; it is the server's to refuse.
"""

from __future__ import annotations

from typing import Final

from attrs import define, field

APPLICATION_DATA: Final = 0x17
_HEAD: Final = 5


@define
class RecordTypes:
    """Follows one direction. ``encrypted``: a record of application data began."""

    encrypted: bool = False
    _head: bytes = b""
    _left: int = 0

    def feed(self, data: bytes) -> None:
        """Go on to the end of ``data``, or to the first record of application data."""
        at = 0
        while at < len(data) and not self.encrypted:
            if self._left:
                step = min(self._left, len(data) - at)
                self._left -= step
                at += step
                continue
            taken = data[at : at + _HEAD - len(self._head)]
            at += len(taken)
            self._head += taken
            if len(self._head) == _HEAD:
                self.encrypted = self._head[0] == APPLICATION_DATA
                self._left = int.from_bytes(self._head[3:], "big")
                self._head = b""


@define
class Handshake:
    """Both directions. ``answered``: the client's part of the handshake was answered."""

    answered: bool = False
    _client: RecordTypes = field(factory=RecordTypes)
    _server: RecordTypes = field(factory=RecordTypes)

    def client_sent(self, data: bytes) -> None:
        """The client sent ``data``. What it sends before the server does is no Finished."""
        if self._server.encrypted:
            self._client.feed(data)

    def server_sent(self, data: bytes) -> bool:
        """The server sent ``data``; return :attr:`answered`."""
        if self._client.encrypted:
            self.answered = True
        else:
            self._server.feed(data)
        return self.answered
