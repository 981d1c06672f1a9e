"""What does a browser get from a proxy, and with which rules for it?

The pages are files; everything that they show comes from auth, over TLS that begins in the browser
and ends at auth (``web/src/net/tls.ts``). The proxy passes on the bytes of that stream, as it does
for the command ``tele``. A terminal speaks SSH in another stream (``web/src/ssh``): to this port's
SSH server, and through it to a node, as ``ssh -J`` does. So there is no login for browsers, no
cookie, and nothing that a page of another origin could make a browser do in its user's name.

Invariants:

* No page runs a script, or loads anything, that is not one of these files.
* A stream is opened for pages of this origin only.
* Nothing here depends on who asks.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Final

from tele._version import VERSION
from tele.errors import ProtocolError
from tele.https.site import Headers, Refusal, SiteFile, StreamTo
from tele.web.built import INDEX, BuiltFile
from tele.web.connection import WebSocketSwitch
from tele.web.websocket import VERSION as WEBSOCKET_VERSION
from tele.web.websocket import accept

#: Where files and the streams are.
PREFIX: Final = b"/web/"
STREAMS: Final[Mapping[bytes, StreamTo]] = {
    b"/web/auth": StreamTo.AUTH,
    b"/web/ssh": StreamTo.SSH,
}

#: The digest is that of no text: xterm.js makes style elements, which stay empty.
POLICY: Final = b"; ".join((
    b"default-src 'none'",
    b"script-src 'self'",
    b"style-src 'self' 'sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU='",
    b"img-src 'self'",
    b"connect-src 'self'",
    b"base-uri 'none'",
    b"form-action 'none'",
    b"frame-ancestors 'none'",
    b"require-trusted-types-for 'script'",
    b"trusted-types lit-html",
))  # fmt: skip
_HEADERS: Final = (
    (b"content-security-policy", POLICY),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=(), payment=(), usb=()"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
)
#: A year. Browsers ignore it where they do not trust the certificate (RFC 6797, section 8.1).
_HSTS: Final = (b"strict-transport-security", b"max-age=31536000")
_FOREVER: Final = (b"cache-control", b"public, max-age=31536000, immutable")
_ASK_AGAIN: Final = (b"cache-control", b"no-cache")
_NEVER: Final = (b"cache-control", b"no-store")


class WebSite:
    """The pages, from ``files``. With ``own_certificate`` browsers shall never use plain HTTP with
    this name again: not with the cluster's certificate, whose name other services may have, too.
    """

    def __init__(self, files: Mapping[str, BuiltFile], *, own_certificate: bool = False) -> None:
        self._files = files
        self._headers = (*_HEADERS, _HSTS) if own_certificate else _HEADERS

    @property
    def headers(self) -> Headers:
        """See :class:`tele.https.site.Site`."""
        return self._headers

    def file(self, path: bytes, headers: Mapping[bytes, bytes]) -> SiteFile | None:
        """See :class:`tele.https.site.Site`."""
        if path == b"/":
            name, caching = INDEX, _ASK_AGAIN
        elif path.startswith(PREFIX):
            name, caching = path[len(PREFIX) :].decode("latin-1"), _FOREVER
        else:
            return None
        found = self._files.get(name)
        if found is None or (name == INDEX) != (path == b"/"):
            return None
        fields = [(b"content-type", found.type), caching, (b"vary", b"accept-encoding")]
        if not _takes_gzip(headers.get(b"accept-encoding", b"")):
            return SiteFile(found.plain, fields)
        return SiteFile(found.packed, [*fields, (b"content-encoding", b"gzip")])

    def cluster(self, name: str, trust: Sequence[str]) -> SiteFile:
        """See :class:`tele.https.site.Site`."""
        body = json.dumps({"cluster": name, "version": VERSION, "trust": list(trust)}).encode()
        return SiteFile(body, [(b"content-type", b"application/json"), _NEVER])

    def stream_at(self, path: bytes) -> StreamTo | None:
        """See :class:`tele.https.site.Site`."""
        return STREAMS.get(path)

    def stream(self, to: StreamTo, headers: Mapping[bytes, bytes]) -> WebSocketSwitch | Refusal:
        """See :class:`tele.https.site.Site`."""
        if headers.get(b"upgrade", b"").lower() != b"websocket" or b"upgrade" not in _tokens(
            headers.get(b"connection", b"")
        ):
            return Refusal(426, "this is a WebSocket: it is for the pages of this proxy")
        if headers.get(b"sec-websocket-version") != WEBSOCKET_VERSION:
            return Refusal(400, "only version 13 of WebSocket is known")
        # A browser states the origin of each page that opens one, and no page can change it.
        if headers.get(b"origin") != b"https://" + headers.get(b"host", b""):
            return Refusal(403, "only pages of this proxy may open this stream")
        try:
            answer = accept(headers.get(b"sec-websocket-key", b""))
        except ProtocolError as error:
            return Refusal(400, str(error))
        return WebSocketSwitch(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + answer + b"\r\n\r\n",
            to,
        )


_FORBIDDEN = re.compile(rb"q=0(\.0*)?", re.IGNORECASE)


def _tokens(value: bytes) -> list[bytes]:
    return [token.strip().lower() for token in value.split(b",")]


def _takes_gzip(value: bytes) -> bool:
    """Whether ``Accept-Encoding`` has gzip, and does not forbid it (``q=0``)."""
    for each in value.split(b","):
        name, _, rest = each.partition(b";")
        if name.strip().lower() == b"gzip":
            return _FORBIDDEN.fullmatch(rest.strip()) is None
    return False
