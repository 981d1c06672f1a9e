"""What does one channel send and receive, within its windows (RFC 4254, section 5)?

Invariants:

* Window credit is given for bytes that were consumed, never before: a peer can make us keep one
  window of data and nothing more.
* EOF and CLOSE leave after everything that was written before them.
* Data of one channel keep their order, standard error among standard output.
* An unknown request, and one that raises, is refused; a malformed one ends the connection.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from twisted.conch.ssh.channel import SSHChannel
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from tele.conch.connection.backlog import Backlog
from tele.conch.connection.channel_connection import ChannelConnection
from tele.errors import ProtocolError
from tele.log import make_logger
from tele.sockets.buffers import MAX_DATA
from tele.wire.fields import Reader

log = make_logger(__name__)

#: The initial window; see ``windows`` for how it grows.
WINDOW = 2 * 1024 * 1024
#: Credit is given for so many bytes, or for a quarter of a window that is smaller than WINDOW.
CREDIT = WINDOW // 4
#: Requests that may wait for the reply to one before them, and their bytes: a user who resizes a
#: window sends dozens a second.
REQUESTS_LIMIT = 1024
REQUEST_OCTETS_LIMIT = 512 * 1024
#: Refused requests of one channel that are logged.
DECLINED_LIMIT = 16
#: Bytes that write() may queue before the writer is told to stop.
QUEUE_LIMIT = 256 * 1024

Answer = bool | Deferred[bool]


class Channel(SSHChannel):
    """Conch's channel, with windows that follow consumption.

    Subclasses override :meth:`data_view` (or Conch's ``dataReceived``), and have
    ``request_<name>(data)`` methods that return whether it was done, or a Deferred.
    """

    conn: ChannelConnection  # type: ignore[assignment]  # Conch's is its own class
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
        #: The peer has sent EOF.
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
    def receive(self, view: memoryview, code: int | None = None) -> None:
        """See :class:`tele.conch.connection.receiver.Receiver`."""
        length = len(view)
        if length > self.localWindowLeft:
            raise ProtocolError("more data than the window allows")
        if length > self.localMaxPacket:
            raise ProtocolError("a data message longer than the maximum packet size")
        self.localWindowLeft -= length
        if self.localClosed or self.remote_eof:
            return  # it crossed our CLOSE, which is legal, or follows EOF: OpenSSH drops it, too
        if code is None:
            self.data_view(view)
        else:
            self.extended_view(code, view)

    def data_view(self, view: memoryview) -> None:
        """Data arrived. An override calls :meth:`consumed` when it has used them up."""
        data = bytes(view)
        self.dataReceived(data)
        self.consumed(len(data))

    def extended_view(self, code: int, view: memoryview) -> None:
        """Extended data arrived."""
        data = bytes(view)
        self.extReceived(code, data)
        self.consumed(len(data))

    def dataReceived(self, data: bytes) -> None:
        """Drop data; Conch would log them."""

    def extReceived(self, dataType: int, data: bytes) -> None:
        """Drop extended data; Conch would log them."""

    def consumed(self, count: int) -> None:
        """``count`` bytes were consumed: let the peer send as many more."""
        self._consumed += count
        enough = min(CREDIT, self.localWindowSize // 4)
        if self._consumed >= enough and self.is_open and not self.remoteClosed:
            credit, self._consumed = self._consumed, 0
            self.conn.adjustWindow(self, credit)
            self.conn.windows.consumed(self, credit)

    @property
    def unconsumed(self) -> int:
        """How many bytes were received and not consumed yet."""
        return self.localWindowSize - self.localWindowLeft - self._consumed

    def receive_eof(self) -> None:
        """See :class:`tele.conch.connection.receiver.Receiver`."""
        self.remote_eof = True
        self.eofReceived()

    # -- requests ---------------------------------------------------------------------
    def receive_request(self, name: bytes, data: bytes, want_reply: bool) -> None:
        """See :class:`tele.conch.connection.receiver.Receiver`. Requests are handled one by one:
        the next one after the reply to the one before.
        """
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
            log.failure("channel request failed", request=name)
            answer = False
        if isinstance(answer, Deferred):
            self._answering = True
            answer.addErrback(self._request_failed, name)
            answer.addCallback(self._answered, name, want_reply)
            answer.addErrback(self.conn.broken)
        else:
            self._reply(bool(answer), name, want_reply)

    def requestReceived(self, requestType: bytes, data: bytes) -> Any:
        """Call ``request_<name>``; refuse the request if there is no such method."""
        try:
            name = requestType.decode("ascii").replace("-", "_")
        except UnicodeDecodeError:
            return False
        method = getattr(self, f"request_{name}", None) if name.isidentifier() else None
        return False if method is None else method(data)

    def _request_failed(self, failure: Failure, name: bytes) -> bool:
        log.failure("channel request failed", failure, request=name)
        return False

    def decline(self, error: str) -> bool:
        """Return False, and have the refusal of the current request logged with ``error``: most
        clients do not ask for a reply, or do not show it.
        """
        self._declined = error
        return False

    def _log_declined(self, name: bytes) -> None:
        error, self._declined = self._declined, ""
        self._declined_count += 1
        if not error:
            log.debug("channel request refused", request=name)
        elif self._declined_count <= DECLINED_LIMIT:
            last = self._declined_count == DECLINED_LIMIT
            more = {"further": "not logged"} if last else {}
            log.info(
                "channel request refused", request=name, user=str(self.avatar), error=error, **more
            )

    def _answered(self, success: bool, name: bytes, want_reply: bool) -> None:
        self._answering = False
        self._reply(success, name, want_reply)
        if self._catching_up:
            return
        self._catching_up = True
        while self._waiting_requests and not self._answering and self.is_open:
            waiting = self._waiting_requests.popleft()
            self._waiting_octets -= len(waiting[0]) + len(waiting[1])
            self.receive_request(*waiting)
        self._catching_up = False

    def _reply(self, success: bool, name: bytes, want_reply: bool) -> None:
        if not success:
            self._log_declined(name)
        if want_reply and self.is_open:
            self.conn.reply_to_channel(self, success)
        self.replied()

    def replied(self) -> None:
        """A request was answered: what has to follow the reply may be sent now."""

    # -- sending ----------------------------------------------------------------------
    def addWindowBytes(self, data: int) -> None:
        """The peer gives credit."""
        before = self.remoteWindowLeft
        self.remoteWindowLeft = before + data
        # Clients give credit in thousands of small pieces; only the first one after none matters.
        if not before and data:
            self.window_opened()

    def window_opened(self) -> None:
        """The peer gave credit after the window was used up."""
        self.pump_queue()

    def write(self, data: bytes) -> None:
        """Send data, as soon as window and socket take them."""
        self.send_view(data)

    def writeExtended(self, dataType: int, data: bytes) -> None:
        """Send extended data, as soon as window and socket take them."""
        self.send_view(data, dataType)

    def send_view(self, view: memoryview | bytes, code: int | None = None) -> int:
        """Send ``view``; return how many bytes of it are queued, as a copy.

        Nothing is sent after :meth:`send_eof` or :meth:`loseConnection`. :meth:`queue_sent` is
        called when queued bytes have left.
        """
        if not self.is_open or self._eof_wanted or self._close_wanted:
            return 0
        sent = 0 if self._queue else self._send(memoryview(view), code)
        rest = len(view) - sent
        if rest:
            self._queue.append(memoryview(view)[sent:], code)
            self._schedule()
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

    def _schedule(self) -> None:
        # Without window, credit resumes the queue, not the socket.
        if self.remoteWindowLeft > 0:
            self.conn.write_scheduler.wait(self.pump_queue)

    def pump_queue(self) -> None:
        """Send what is queued, as far as window and socket take it."""
        queue = self._queue
        if not self.is_open:
            self._forget_queue()
            return
        left = 0
        while queue and self._can_send():
            view, code = queue.first(MAX_DATA)
            with view:
                sent = self._send(view, code)
            queue.drop(sent)
            left += sent
        if queue:
            self._schedule()
        else:
            self.conn.write_scheduler.cancel(self.pump_queue)
        if left:
            self.queue_sent(left)
        if self._stopped and len(queue) <= QUEUE_LIMIT // 2:
            self._stopped = False
            self.startWriting()
        if left and not queue:
            self._finish()
            self.drained()

    @property
    def has_queue(self) -> bool:
        """Whether written bytes wait to be sent."""
        return bool(self._queue)

    @property
    def is_writable(self) -> bool:
        """Whether what is written now is sent now."""
        return not self._queue and self._can_send() and self.is_open

    def queue_sent(self, count: int) -> None:
        """``count`` queued bytes were sent."""

    def drained(self) -> None:
        """The queue is empty again."""

    def _forget_queue(self) -> None:
        self._queue.clear()
        self.conn.write_scheduler.cancel(self.pump_queue)

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

    def withdraw(self) -> None:
        """Close now: nothing passes any more, neither what is queued nor what is received."""
        self._forget_queue()
        self.loseConnection()

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
        """The peer closed: what is queued cannot arrive any more."""
        self._forget_queue()
        self.conn.sendClose(self)

    def closed(self) -> None:
        """Both sides closed, or the connection was lost."""
        self._forget_queue()

    def openFailed(self, reason: Any) -> None:
        """The peer refused the channel that we asked for."""
        log.debug("channel open refused", error=str(reason))


def read_all(data: bytes, read: Callable[[Reader], Any]) -> Any:
    """Return what ``read`` reads of a request, which has to be all of it."""
    reader = Reader(data)
    value = read(reader)
    reader.end()
    return value
