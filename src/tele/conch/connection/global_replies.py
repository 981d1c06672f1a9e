"""In which order are global requests answered (RFC 4254, section 4)?

Invariants:

* A reply does not name its request: replies leave in the order of the requests.
* The number of requests of a peer that wait for a reply has a limit.
"""

from __future__ import annotations

from typing import Any, Final, Protocol

from attrs import define
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from tele.errors import ProtocolError, TeleError
from tele.log import make_logger
from tele.wire import numbers as n

log = make_logger(__name__)

GLOBAL_REQUESTS_LIMIT: Final = 64


@define(eq=False)
class _Reply:
    """The reply to one request; ``result`` is valid once ``ready``."""

    wanted: bool
    ready: bool = False
    result: Any = None


class _Transport(Protocol):
    """What of a transport is needed here."""

    def sendPacket(self, messageType: int, payload: bytes) -> None:
        """Send one message."""


class GlobalReplies:
    """The global requests of one peer that are not answered yet."""

    __slots__ = ("_transport", "_waiting")

    def __init__(self, transport: _Transport) -> None:
        self._transport = transport
        # A list: few wait at a time, and an empty deque is larger than all the rest here.
        self._waiting: list[_Reply] = []

    def check_limit(self) -> None:
        """Raise :class:`ProtocolError` if the peer may not make another request now."""
        if len(self._waiting) >= GLOBAL_REQUESTS_LIMIT:
            raise ProtocolError("too many global requests at once")

    def add(self, name: bytes, answer: Deferred[Any], wanted: bool) -> None:
        """Reply with what ``answer`` fires with: whether it succeeded, or (true, data)."""
        reply = _Reply(wanted)
        self._waiting.append(reply)
        answer.addErrback(self._failed, name)
        answer.addCallback(self._ready, reply)

    def _failed(self, failure: Failure, name: bytes) -> bool:
        if not failure.check(TeleError):  # those refuse the request on purpose
            log.failure("global request failed", failure, request=name)
        return False

    def _ready(self, result: Any, reply: _Reply) -> None:
        reply.ready, reply.result = True, result
        while self._waiting and self._waiting[0].ready:
            first = self._waiting.pop(0)
            if not first.wanted:
                continue
            if first.result:
                data = first.result[1] if isinstance(first.result, tuple | list) else b""
                self._transport.sendPacket(n.REQUEST_SUCCESS, data)
            else:
                self._transport.sendPacket(n.REQUEST_FAILURE, b"")

    def clear(self) -> None:
        """The connection was lost: send no reply."""
        self._waiting.clear()
