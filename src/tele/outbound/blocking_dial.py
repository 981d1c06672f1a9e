"""How does the command line connect, where connections leave through a proxy of the network?

Invariants:

* Standard library only, besides our values: a command starts fast.
* Not a byte more is read than the answer of the proxy of the network, so that whoever gets the
  socket has all that comes from the other side.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping

from tele.errors import InvalidInput, Unreachable
from tele.outbound.egress import EgressProxy, Kind, from_environment
from tele.outbound.happy_eyeballs import dial
from tele.outbound.proxy_handshakes import ANSWER_LIMIT, ask
from tele.sockets.tcp import notice_dead_peer


def connect(
    host: str, port: int, seconds: float, environ: Mapping[str, str] = os.environ
) -> socket.socket:
    """Return a connected socket, directly or as ``environ`` says; all within ``seconds``.

    Raises :class:`Unreachable` for the way out, OSError for a direct connection.
    """
    made = _connect(host, port, seconds, environ)
    notice_dead_peer(made)
    return made


def _connect(host: str, port: int, seconds: float, environ: Mapping[str, str]) -> socket.socket:
    via = from_environment(environ)(host, port)
    if via is None:
        return dial(host, port, seconds)
    if via.kind is Kind.HTTPS:
        raise InvalidInput(
            f"tele's commands do not leave through {via}; HTTPS_PROXY may be http://... or"
            " socks5://..., and NO_PROXY says what needs no proxy"
        )
    end = time.monotonic() + seconds
    try:
        made = dial(via.host, via.port, seconds)
    except OSError as error:
        why = "no answer in time" if isinstance(error, TimeoutError) else error.strerror
        raise Unreachable(f"{via} is not reached; it is the way out (HTTPS_PROXY): {why}") from None
    try:
        _ask(made, via, host, port, end)
        made.settimeout(seconds)
    except BaseException:
        made.close()
        raise
    return made


def _ask(made: socket.socket, via: EgressProxy, host: str, port: int, end: float) -> None:
    asking = ask(via, host, port, via.login)
    answer = asking.begin()
    try:
        while True:
            made.settimeout(max(end - time.monotonic(), 0.001))
            if answer:
                made.sendall(answer)
            if asking.done:
                return
            said = made.recv(ANSWER_LIMIT, socket.MSG_PEEK)
            if not said:
                raise Unreachable(f"{via} closed the connection instead of an answer")
            answer = asking.receive(said)
            made.recv(len(said) - len(asking.rest))
    except TimeoutError:
        raise Unreachable(f"{via} does not answer; it is the way out (HTTPS_PROXY)") from None
    except OSError as error:
        raise Unreachable(f"{via} broke the connection: {error.strerror}") from None
