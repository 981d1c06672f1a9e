"""Has the server answered the end of a TLS handshake that the proxy relays?

From the server's first encrypted records on, only the types and lengths of records are visible
(RFC 8446, section 5.2): the end of a handshake and data both look like application data. A
connection counts as answered when the server has sent encrypted records, then the client, then the
server again: by then the client has sent its Finished, or the server closes.

Invariants:

* Only the five bytes of a record header are kept, and each record is parsed once.
* A stream that is not TLS is never answered; the server refuses it.
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
        """Parse ``data`` up to its end, or to the first record of application data."""
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
    """Both directions. ``answered``: the server has answered the client's part of the handshake."""

    answered: bool = False
    _client: RecordTypes = field(factory=RecordTypes)
    _server: RecordTypes = field(factory=RecordTypes)

    def client_sent(self, data: bytes) -> None:
        """The client sent ``data``. Before the server's encrypted records there is no Finished."""
        if self._server.encrypted:
            self._client.feed(data)

    def server_sent(self, data: bytes) -> bool:
        """The server sent ``data``; return :attr:`answered`."""
        if self._client.encrypted:
            self.answered = True
        else:
            self._server.feed(data)
        return self.answered
