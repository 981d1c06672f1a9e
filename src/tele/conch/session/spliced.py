"""How is a session passed on to a server behind this one (RFC 4254, section 6)?

The near half is the client's session; the far half is ours on the server that runs its program.

Invariants:

* A request of the client passes a gate, or is refused. Requests pass at once and in order, and
  each peer gets the replies to its requests in their order, also of those that were refused here.
* How the program ended follows all of its output, and precedes CLOSE. No other request waits for
  data: a signal reaches a program that reads nothing, and a client that reads nothing learns that
  its input is not wanted.
* What a peer can make us keep has a limit: requests that wait for a reply, or for a link that
  takes no more. Data are limited by their windows (:mod:`tele.conch.connection.splice`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Final

from attrs import define
from twisted.internet.defer import Deferred

from tele.conch.connection.channel import REQUEST_OCTETS_LIMIT, REQUESTS_LIMIT
from tele.conch.connection.channel_connection import ChannelConnection
from tele.conch.connection.splice import FarHalf, NearHalf, SplicedChannel, open_halves
from tele.errors import AccessDenied, ProtocolError
from tele.log import make_logger

log = make_logger(__name__)

#: Name and data of a request of the client. Returns those to pass on, perhaps others. Raises
#: :class:`AccessDenied` to refuse it, or :class:`ProtocolError` if it is malformed.
Gate = Callable[[bytes, bytes], tuple[bytes, bytes]]

#: How a program ended: after its output, once.
EXITS: Final = frozenset((b"exit-status", b"exit-signal"))


@define(eq=False)
class _Reply:
    """A reply that a peer waits for; ``success`` is None until it is known."""

    success: bool | None = None


class SplicedSession(SplicedChannel):
    """One of two halves of a session."""

    other: SplicedSession

    def __init__(self, **named: Any) -> None:
        super().__init__(**named)
        #: Replies that our peer waits for, in order.
        self._owed: deque[_Reply] = deque()
        #: Bytes that were queued for our peer, and how many of them have left.
        self._queued = 0
        self._left = 0
        self._exited = False
        #: How the program ended, if that waits: passed on when as many bytes have left.
        self._exit: tuple[int, bytes, bytes, _Reply | None] | None = None
        #: Requests, and their bytes, that the link to our peer has not taken yet.
        self._untaken = 0
        self._untaken_octets = 0

    # -- from our peer ----------------------------------------------------------------
    def gate(self, name: bytes, data: bytes) -> tuple[bytes, bytes]:
        """Return the request that is passed on for one of our peer."""
        raise NotImplementedError

    def receive_request(self, name: bytes, data: bytes, want_reply: bool) -> None:
        """See :class:`tele.conch.connection.receiver.Receiver`. It is passed on at once."""
        reply = _Reply() if want_reply else None
        if reply is not None:
            if len(self._owed) >= REQUESTS_LIMIT:
                raise ProtocolError("too many channel requests at once")
            self._owed.append(reply)
        try:
            passed = self.gate(name, data)
        except ProtocolError:
            raise
        except AccessDenied as error:
            self.decline(str(error))
            self._log_declined(name)
            self._answer(reply, False)
        except Exception:
            log.failure("channel request failed", request=name)
            self._answer(reply, False)
        else:
            self.other.pass_request(*passed, reply)

    def _answer(self, reply: _Reply | None, success: bool) -> None:
        """A reply is known: send it after those before it."""
        if reply is None:
            return
        reply.success = success
        owed = self._owed
        while owed and (known := owed[0].success) is not None:
            owed.popleft()
            if self.is_open:
                self.conn.reply_to_channel(self, known)

    # -- to our peer ------------------------------------------------------------------
    def pass_request(self, name: bytes, data: bytes, reply: _Reply | None) -> None:
        """Make a request of the other half's peer; ``reply`` is what that one waits for."""
        if not self.is_open:
            self.other._answer(reply, False)
            return
        if name in EXITS:
            if self._exited:
                self.other._answer(reply, False)
                return
            self._exited = True
            if self._left < self._queued:
                self._exit = self._queued, name, data, reply
                return
        if not self.conn.transport.can_send():
            self._untaken += 1
            self._untaken_octets += len(name) + len(data)
            if self._untaken > REQUESTS_LIMIT or self._untaken_octets > REQUEST_OCTETS_LIMIT:
                raise ProtocolError("more channel requests than the other connection takes")
            self.conn.write_scheduler.wait(self._taken)
        self._request(name, data, reply)

    def _request(self, name: bytes, data: bytes, reply: _Reply | None) -> None:
        answer = self.conn.sendRequest(self, name, data, wantReply=reply is not None)
        if answer is not None:
            answer.addCallbacks(
                self._answered_by_peer,
                self._refused_by_peer,
                callbackArgs=(reply,),
                errbackArgs=(reply,),
            )

    def _answered_by_peer(self, _: object, reply: _Reply | None) -> None:
        self.other._answer(reply, True)

    def _refused_by_peer(self, _: object, reply: _Reply | None) -> None:
        """The peer refused, or the channel was closed without a reply."""
        self.other._answer(reply, False)

    def _taken(self) -> None:
        self._untaken = self._untaken_octets = 0

    def send_view(self, view: memoryview | bytes, code: int | None = None) -> int:
        """See :class:`Channel`; counts what is queued."""
        rest = super().send_view(view, code)
        self._queued += rest
        return rest

    def queue_sent(self, count: int) -> None:
        """See :class:`Channel`; called before EOF and CLOSE are sent."""
        super().queue_sent(count)
        self._left += count
        if self._exit is not None and self._left >= self._exit[0]:
            (_, name, data, reply), self._exit = self._exit, None
            self._request(name, data, reply)

    def closed(self) -> None:
        """See :class:`SplicedChannel`."""
        self._owed.clear()
        self._exit = None
        self.conn.write_scheduler.cancel(self._taken)
        super().closed()


class _NearSession(SplicedSession, NearHalf):
    """The client's session."""

    def __init__(self, gate: Gate, **named: Any) -> None:
        super().__init__(**named)
        self._gate = gate

    def gate(self, name: bytes, data: bytes) -> tuple[bytes, bytes]:
        """See :class:`SplicedSession`."""
        return self._gate(name, data)


class _FarSession(SplicedSession, FarHalf):
    """Our session on the server."""

    def gate(self, name: bytes, data: bytes) -> tuple[bytes, bytes]:
        """The client judges what the server requests, as without us."""
        return name, data


def open_spliced_session(
    connection: ChannelConnection,
    gate: Gate,
    *,
    remoteWindow: int,
    remoteMaxPacket: int,
    avatar: Any = None,
) -> Deferred[SplicedChannel]:
    """Open a session on ``connection`` for one that a client asks for.

    Fires with the channel to give to the client; see
    :func:`tele.conch.connection.splice.open_splice`.
    """
    near = _NearSession(
        gate, remoteWindow=remoteWindow, remoteMaxPacket=remoteMaxPacket, avatar=avatar
    )
    return open_halves(connection, near, _FarSession(name=b"session"), b"")
