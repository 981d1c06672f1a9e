"""How does the command line connect to a name that has several addresses?

"Happy Eyeballs" (RFC 8305): the addresses are tried in turn, the two families alternately, each a
moment after the one before; whichever answers first is taken. A family, or an address, that is a
black hole costs that moment, and not a time-out.

Invariants:

* Standard library only: a command starts fast.
* All is over within the time that was given, however many addresses there are; of these so many
  are tried and no more, whatever a name server answers.
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

#: What ``getaddrinfo`` returns of one address: family, kind, protocol, a name, and the address.
Info = tuple[Any, Any, int, str, Any]
GetAddrInfo = Callable[..., Sequence[Info]]


def find(host: str, port: int, get: GetAddrInfo = socket.getaddrinfo) -> list[Info]:
    """Return the addresses of ``host`` in the order in which they are tried. Raises OSError."""
    found = get(host, port, socket.AF_UNSPEC, socket.SOCK_STREAM)
    return alternate(found, lambda info: info[0])[:ADDRESSES_LIMIT]


def dial(
    host: str, port: int, seconds: float, get: GetAddrInfo = socket.getaddrinfo
) -> socket.socket:
    """Return a socket that is connected to ``host``, with a time-out of ``seconds``.

    Raises OSError: what the first address said that said anything, or TimeoutError.
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
    coming = list(addresses)
    next_at = 0.0
    while coming or pending.get_map():
        now = time.monotonic()
        if now >= end:
            break
        if coming and (now >= next_at or not pending.get_map()):
            try:
                _begin(coming.pop(0), pending)
            except OSError as error:  # such as: there is no route of this family
                problem = problem or error
                continue
            next_at = now + ATTEMPT_DELAY
        until = min(end, next_at) if coming else end
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
