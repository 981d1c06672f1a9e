"""How does a command connect to a name that has several addresses?

"Happy Eyeballs" (RFC 8305): addresses alternate between IPv6 and IPv4, each attempt starts
:data:`ATTEMPT_DELAY` after the one before, and the first that succeeds is used. An unreachable
family or address costs that delay, not a time-out.

Invariants:

* Only the standard library is imported: a command starts fast.
* The total time is bounded, whatever the number of addresses; at most :data:`ADDRESSES_LIMIT` are
  tried, whatever a name server answers.
* Every socket but the one that is returned is closed.
"""

from __future__ import annotations

import errno
import os
import selectors
import socket
import time
from collections.abc import Callable, Sequence
from typing import Any

from tele.model.addresses import ADDRESSES_LIMIT, ATTEMPT_DELAY, alternate

#: An entry of ``getaddrinfo``: family, type, protocol, canonical name, address.
Info = tuple[Any, Any, int, str, Any]
GetAddrInfo = Callable[..., Sequence[Info]]


def find(host: str, port: int, get: GetAddrInfo = socket.getaddrinfo) -> list[Info]:
    """Return the addresses of ``host`` in the order in which they are tried. Raises OSError."""
    found = get(host, port, socket.AF_UNSPEC, socket.SOCK_STREAM)
    return alternate(found, lambda info: info[0])[:ADDRESSES_LIMIT]


def dial(
    host: str, port: int, seconds: float, get: GetAddrInfo = socket.getaddrinfo
) -> socket.socket:
    """Return a socket connected to ``host``, with a time-out of ``seconds``.

    Raises OSError: the first error of an address, or TimeoutError.
    """
    addresses = find(host, port, get)
    with selectors.DefaultSelector() as pending:
        try:
            made = _first(addresses, pending, time.monotonic() + seconds)
        finally:
            for key in list(pending.get_map().values()):
                pending.unregister(key.fileobj)
                key.data.close()
    made.settimeout(seconds)
    return made


def _first(addresses: Sequence[Info], pending: selectors.BaseSelector, end: float) -> socket.socket:
    """Return the first connected socket; those that are still connecting stay ``pending``."""
    problem: OSError | None = None
    untried = list(addresses)
    next_at = 0.0
    while untried or pending.get_map():
        now = time.monotonic()
        if now >= end:
            break
        if untried and (now >= next_at or not pending.get_map()):
            try:
                _begin(untried.pop(0), pending)
            except OSError as error:  # e.g. no route for this family
                problem = problem or error
                continue
            next_at = now + ATTEMPT_DELAY
        until = min(end, next_at) if untried else end
        for key, _ in pending.select(max(0.0, until - time.monotonic())):
            made: socket.socket = key.data
            pending.unregister(made)
            number = made.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if not number:
                return made
            made.close()
            problem = problem or OSError(number, os.strerror(number))
    raise problem or TimeoutError(errno.ETIMEDOUT, "no address answered in time")


def _begin(info: Info, pending: selectors.BaseSelector) -> None:
    family, kind, protocol, _, address = info
    made = socket.socket(family, kind, protocol)
    try:
        made.setblocking(False)
        number = made.connect_ex(address)
        if number not in (0, errno.EINPROGRESS):
            raise OSError(number, os.strerror(number))
        pending.register(made, selectors.EVENT_WRITE, made)
    except BaseException:
        made.close()
        raise
