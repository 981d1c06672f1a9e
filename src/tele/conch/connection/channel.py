"""What is one channel, and how much may be under way on it (RFC 4254, section 5)?

Invariants:

* Window credit is given for bytes that were consumed, never before: what a peer can make
  us hold is the window and nothing more.
* EOF and CLOSE leave after everything that was written before them.
* Data of one channel keep their order, standard error among standard output.
* A request that we do not understand, or fail at, is refused; a malformed one is the end.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from twisted.conch.ssh.channel import SSHChannel
from twisted.internet.defer import Deferred

from tele.conch.connection.backlog import Backlog
from tele.errors import ProtocolError
from tele.log import make_logger
from tele.sockets.buffers import MAX_DATA
from tele.wire.fields import Reader

if TYPE_CHECKING:
    from tele.conch.connection.connection import SSHConnection

log = make_logger(__name__)

#: What a window begins with; see ``windows`` for how it grows.
WINDOW = 2 * 1024 * 1024
#: Credit is given for so much, or for a quarter of a window that is smaller than the first.
CREDIT = WINDOW // 4
#: Requests that may wait for the answer of one before them: somebody who drags the edge of
#: a window sends dozens a second. And how many bytes they may have.
REQUESTS_LIMIT = 1024
REQUEST_OCTETS_LIMIT = 512 * 1024
#: Lines of the log about refused requests of one channel.
DECLINED_LIMIT = 16
#: What may be queued by write() before the writer is told to stop.
QUEUE_LIMIT = 256 * 1024

Answer = bool | Deferred[bool]


class Channel(SSHChannel):
    """A channel of ours; in Conch's ways, with windows that mean something.

    Subclasses override :meth:`data_view` (or Conch's ``dataReceived``), and write
    ``request_<name>(data)`` methods that return whether it was done, or a Deferred.
    """

    conn: SSHConnection
    #: Our number of it; None before it is opened.
    id: Any

    def __init__(
        self,
        localWindow: int = 0,
        localMaxPacket: int = 0,
        remoteWindow: int = 0,
        remoteMaxPacket: int = 0,
        conn: Any = None,
        data: Any = None,
        avatar: Any = None,
    ) -> None:
        super().__init__(
            localWindow or WINDOW,
            localMaxPacket or MAX_DATA,
            remoteWindow,
            remoteMaxPacket,
            conn,
            data,
            avatar,
        )
        self._consumed = 0
        self._queue = Backlog()
        self._eof_wanted = False
        self._close_wanted = False
        self._eof_sent = False
        self._stopped = False
        self._waiting_requests: deque[tuple[bytes, bytes, bool]] = deque()
        self._waiting_octets = 0
        self._answering = False
        self._catching_up = False
        self._declined = ""
        self._declined_count = 0
        #: The peer said that it sends no more data.
        self.remote_eof = False

    @property
    def remote_number(self) -> int:
        """The peer's number of this channel."""
        number: int = self.conn.channelsToRemoteChannel[self]
        return number

    @property
    def is_open(self) -> bool:
        """Whether data may be sent: it was opened, and we have not closed it."""
        return (
            self.id is not None
            and not self.localClosed
            and self in self.conn.channelsToRemoteChannel
        )

    def channelOpen(self, specificData: bytes) -> None:
        """The channel is open; Conch would log a line for each."""

    # -- receiving --------------------------------------------------------------------
    def take(self, view: memoryview, code: int | None = None) -> None:
        """Check that the peer may send this, then hand it on."""
        length = len(view)
        if length > self.localWindowLeft:
            raise ProtocolError("more data than the window has room for")
        if length > self.localMaxPacket:
            raise ProtocolError("a data message longer than the maximum packet")
        self.localWindowLeft -= length
        if self.localClosed or self.remote_eof:
            return  # it crossed our CLOSE, which is legal; or follows EOF, as OpenSSH takes it
        if code is None:
            self.data_view(view)
        else:
            self.extended_view(code, view)

    def data_view(self, view: memoryview) -> None:
        """Data arrived. Whoever overrides this calls :meth:`consumed` when it is used up."""
        data = bytes(view)
        self.dataReceived(data)
        self.consumed(len(data))

    def extended_view(self, code: int, view: memoryview) -> None:
        """Extended data arrived."""
        data = bytes(view)
        self.extReceived(code, data)
        self.consumed(len(data))

    def dataReceived(self, data: bytes) -> None:
        """Nobody wants data of this channel; Conch would log all of them."""

    def extReceived(self, dataType: int, data: bytes) -> None:
        """Nobody wants extended data of this channel; Conch would log all of them."""

    def consumed(self, count: int) -> None:
        """``count`` bytes are used up: let the peer send as many more."""
        self._consumed += count
        enough = min(CREDIT, self.localWindowSize // 4)
        if self._consumed >= enough and self.is_open and not self.remoteClosed:
            credit, self._consumed = self._consumed, 0
            self.conn.adjustWindow(self, credit)
            self.conn.windows.used(self, credit)

    @property
    def unused(self) -> int:
        """How many bytes were received and are not used up."""
        return self.localWindowSize - self.localWindowLeft - self._consumed

    # -- requests ---------------------------------------------------------------------
    def request(self, name: bytes, data: bytes, want_reply: bool) -> None:
        """A channel request; each is answered before the next one is looked at."""
        if self._answering:
            self._waiting_octets += len(name) + len(data)
            if (
                len(self._waiting_requests) >= REQUESTS_LIMIT
                or self._waiting_octets > REQUEST_OCTETS_LIMIT
            ):
                raise ProtocolError("too many channel requests at once")
            self._waiting_requests.append((name, data, want_reply))
            return
        try:
            answer = self.requestReceived(name, data)
        except ProtocolError:
            raise
        except Exception:
            log.failure("channel request {name!r} failed", name=name)
            answer = False
        if isinstance(answer, Deferred):
            self._answering = True
            answer.addErrback(self._request_failed, name)
            answer.addCallback(self._answered, name, want_reply)
            answer.addErrback(self.conn.broken)
        else:
            self._reply(bool(answer), name, want_reply)

    def requestReceived(self, requestType: bytes, data: bytes) -> Any:
        """Call ``request_<name>``; what has no such method is refused."""
        try:
            name = requestType.decode("ascii").replace("-", "_")
        except UnicodeDecodeError:
            return False
        method = getattr(self, f"request_{name}", None) if name.isidentifier() else None
        return False if method is None else method(data)

    def _request_failed(self, failure: Any, name: bytes) -> bool:
        log.failure("channel request {name!r} failed", failure, name=name)
        return False

    def decline(self, why: str) -> bool:
        """Return the answer no to the request that is handled now, which is logged with ``why``:
        most clients do not ask for an answer, or show nothing of it.
        """
        self._declined = why
        return False

    def _log_declined(self, name: bytes) -> None:
        why, self._declined = self._declined, ""
        self._declined_count += 1
        if not why:
            log.debug("request {name!r} of a channel is refused", name=name)
        elif self._declined_count <= DECLINED_LIMIT:
            log.info(
                "request {name!r} of {avatar!s} is refused: {why}{more}",
                name=name,
                avatar=self.avatar,
                why=why,
                more="; more of this channel are not listed"
                if self._declined_count == DECLINED_LIMIT
                else "",
            )

    def _answered(self, good: bool, name: bytes, want_reply: bool) -> None:
        self._answering = False
        self._reply(good, name, want_reply)
        if self._catching_up:
            return
        self._catching_up = True
        while self._waiting_requests and not self._answering and self.is_open:
            waiting = self._waiting_requests.popleft()
            self._waiting_octets -= len(waiting[0]) + len(waiting[1])
            self.request(*waiting)
        self._catching_up = False

    def _reply(self, good: bool, name: bytes, want_reply: bool) -> None:
        if not good:
            self._log_declined(name)
        if want_reply and self.is_open:
            self.conn.reply_to_channel(self, good)
        self.request_answered()

    def request_answered(self) -> None:
        """A request was answered: what has to follow the answer may be sent now."""

    # -- sending ----------------------------------------------------------------------
    def addWindowBytes(self, data: int) -> None:
        """The peer gives credit."""
        before = self.remoteWindowLeft
        self.remoteWindowLeft = before + data
        # Clients give credit in thousands of small pieces: only the first one after none
        # is news to anybody.
        if not before and data:
            self.window_opened()

    def window_opened(self) -> None:
        """There is credit where there was none."""
        self.pump_queue()

    def write(self, data: bytes) -> None:
        """Send data, now or when there is room."""
        self.send_view(data)

    def writeExtended(self, dataType: int, data: bytes) -> None:
        """Send extended data, now or when there is room."""
        self.send_view(data, dataType)

    def send_view(self, view: memoryview | bytes, code: int | None = None) -> int:
        """Send ``view``; return how much of it has to wait, which is copied.

        Nothing is sent after the end was asked for. Waiting bytes are told of by
        :meth:`queue_sent`.
        """
        if not self.is_open or self._eof_wanted or self._close_wanted:
            return 0
        sent = 0 if self._queue else self._send(memoryview(view), code)
        rest = len(view) - sent
        if rest:
            self._queue.append(memoryview(view)[sent:], code)
            self._wait_for_turn()
            if len(self._queue) > QUEUE_LIMIT and not self._stopped:
                self._stopped = True
                self.stopWriting()
        return rest

    def _can_send(self) -> bool:
        return self.remoteWindowLeft > 0 and bool(self.conn.transport.can_send())

    def _send(self, view: memoryview, code: int | None) -> int:
        """Send as much of ``view`` as the window and the socket take; return how much."""
        transport = self.conn.transport
        most = min(self.remoteMaxPacket, MAX_DATA)
        number = self.remote_number
        at, end = 0, len(view)
        while at < end and self._can_send():
            part = view[at : at + min(most, self.remoteWindowLeft)]
            self.remoteWindowLeft -= len(part)
            at += len(part)
            transport.send_data(number, part, code)
        return at

    def _wait_for_turn(self) -> None:
        # Without window there is nothing to wait for at the socket.
        if self.remoteWindowLeft > 0:
            self.conn.turns.wait(self.pump_queue)

    def pump_queue(self) -> None:
        """Send what waits, as far as there is room."""
        queue = self._queue
        if not self.is_open:
            self._forget_queue()
            return
        gone = 0
        while queue and self._can_send():
            view, code = queue.first(MAX_DATA)
            with view:
                sent = self._send(view, code)
            queue.drop(sent)
            gone += sent
        if queue:
            self._wait_for_turn()
        else:
            self.conn.turns.leave(self.pump_queue)
        if gone:
            self.queue_sent(gone)
        if self._stopped and len(queue) <= QUEUE_LIMIT // 2:
            self._stopped = False
            self.startWriting()
        if gone and not queue:
            self._finish()
            self.drained()

    @property
    def has_queue(self) -> bool:
        """Whether something that was written has not left yet."""
        return bool(self._queue)

    @property
    def has_room(self) -> bool:
        """Whether what is written now leaves now."""
        return not self._queue and self._can_send() and self.is_open

    def queue_sent(self, count: int) -> None:
        """``count`` bytes that had to wait have left."""

    def drained(self) -> None:
        """All that had to wait has left."""

    def _forget_queue(self) -> None:
        self._queue.clear()
        self.conn.turns.leave(self.pump_queue)

    # -- the end ----------------------------------------------------------------------
    def send_eof(self) -> None:
        """Send EOF after everything that was written."""
        self._eof_wanted = True
        self._finish()

    def loseConnection(self) -> None:
        """Close after everything that was written."""
        self.closing = True
        self._close_wanted = True
        self._finish()

    def _finish(self) -> None:
        if self._queue or not self.is_open:
            return
        if self._eof_wanted and not self._eof_sent:
            self._eof_sent = True
            self.conn.sendEOF(self)
        if self._close_wanted:
            self.conn.sendClose(self)

    def eofReceived(self) -> None:
        """The peer sends no more data; Conch would log a line."""

    def closeReceived(self) -> None:
        """The peer closed: whatever still waits cannot arrive any more."""
        self._forget_queue()
        self.conn.sendClose(self)

    def closed(self) -> None:
        """Both sides closed, or the connection is gone."""
        self._forget_queue()

    def openFailed(self, reason: Any) -> None:
        """The peer refused the channel that we asked for."""
        log.debug("a channel was refused: {why!r}", why=str(reason))


def read_all(data: bytes, read: Callable[[Reader], Any]) -> Any:
    """Read the fields of a request to its end."""
    reader = Reader(data)
    value = read(reader)
    reader.end()
    return value
