"""How do commands connect without a reactor, directly or through an egress proxy?

Invariants:

* Only the standard library and our values are imported: a command starts fast.
* Only the reply of the egress proxy is read: the caller gets every byte of the destination.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping

from tele.errors import InvalidInput, Unreachable
from tele.outbound.egress import EgressProxy, ProxyKind, from_environment
from tele.outbound.happy_eyeballs import dial
from tele.outbound.proxy_handshakes import REPLY_LIMIT, handshake_with
from tele.sockets.tcp import notice_dead_peer


def connect(
    host: str, port: int, seconds: float, environ: Mapping[str, str] = os.environ
) -> socket.socket:
    """Return a connected socket within ``seconds``; ``environ`` may name an egress proxy.

    Raises :class:`Unreachable` for the egress proxy, OSError for a direct connection.
    """
    made = _connect(host, port, seconds, environ)
    notice_dead_peer(made)
    return made


def _connect(host: str, port: int, seconds: float, environ: Mapping[str, str]) -> socket.socket:
    via = from_environment(environ)(host, port)
    if via is None:
        return dial(host, port, seconds)
    if via.kind is ProxyKind.HTTPS:
        raise InvalidInput(
            f"tele's commands cannot use {via} as egress proxy; HTTPS_PROXY may be http://... or"
            " socks5://..., and NO_PROXY lists the exceptions"
        )
    end = time.monotonic() + seconds
    try:
        made = dial(via.host, via.port, seconds)
    except OSError as error:
        cause = "no answer in time" if isinstance(error, TimeoutError) else error.strerror
        raise Unreachable(f"cannot connect to egress proxy {via} (HTTPS_PROXY): {cause}") from None
    try:
        _ask(made, via, host, port, end)
        made.settimeout(seconds)
    except BaseException:
        made.close()
        raise
    return made


def _ask(made: socket.socket, via: EgressProxy, host: str, port: int, end: float) -> None:
    handshake = handshake_with(via, host, port, via.login)
    request = handshake.begin()
    try:
        while True:
            made.settimeout(max(end - time.monotonic(), 0.001))
            if request:
                made.sendall(request)
            if handshake.done:
                return
            reply = made.recv(REPLY_LIMIT, socket.MSG_PEEK)
            if not reply:
                raise Unreachable(f"{via} closed the connection without a reply")
            request = handshake.receive(reply)
            made.recv(len(reply) - len(handshake.rest))
    except TimeoutError:
        raise Unreachable(f"egress proxy {via} (HTTPS_PROXY) does not answer") from None
    except OSError as error:
        raise Unreachable(f"connection to egress proxy {via} failed: {error.strerror}") from None
