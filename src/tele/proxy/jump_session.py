"""How does a session of a jump host become a connection to a node (``ssh -s proxy:HOST:PORT``)?

A client asks for the subsystem ``proxy:HOST:PORT``. The session relays to that node once the reply
is sent; every other request ends it with an error.

Invariants:

* One subsystem, shell or exec request is accepted; what it leads to is in :data:`TRANSITIONS`.
* Data that arrives before the relay begins is kept: the window bounds it.
* A stream to a node is closed with its session, whatever state the session is in.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, auto
from typing import Any, Final, Protocol

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from tele.conch.connection.backlog import Backlog
from tele.conch.connection.channel import Answer, Channel, read_all
from tele.conch.connection.refusals import refusal, terminal_lines
from tele.conch.connection.relay import RelayChannel, StreamEnd
from tele.errors import InvalidInput, TeleError
from tele.model.addresses import PORT_DIGITS
from tele.model.presence import Host

SUBSYSTEM: Final = "proxy"
STDERR: Final = 1
FAILED_STATUS: Final = 255


class NodeAccess(Protocol):
    """What a session needs of its avatar."""

    @property
    def usage(self) -> str:
        """What a client is told that wants to run something here."""

    def find(self, target: str, port: int) -> Host:
        """Return the node that the client names. Raises :class:`TeleError`."""

    def connect(self, host: Host) -> Deferred[StreamEnd]:
        """Return a stream to ``host``."""


class State(Enum):
    """What a session is waiting for."""

    IDLE = auto()
    CONNECTING = auto()
    #: The stream is there; the reply to the request is not sent yet.
    CONNECTED = auto()
    RELAYING = auto()
    #: There is an error; the reply to the request is not sent yet.
    FAILED = auto()
    #: The error was sent, and the channel is closing.
    CLOSING = auto()


class Event(Enum):
    """What happens to a session."""

    REQUESTED = auto()
    CONNECTED = auto()
    FAILED = auto()
    REPLIED = auto()


#: Every other event of a state changes nothing.
TRANSITIONS: Final[Mapping[tuple[State, Event], State]] = {
    (State.IDLE, Event.REQUESTED): State.CONNECTING,
    (State.CONNECTING, Event.CONNECTED): State.CONNECTED,
    (State.CONNECTING, Event.FAILED): State.FAILED,
    (State.CONNECTED, Event.REPLIED): State.RELAYING,
    (State.FAILED, Event.REPLIED): State.CLOSING,
}


def read_target(subsystem: bytes) -> tuple[str, int]:
    """Parse ``proxy:HOST:PORT``. Raises :class:`InvalidInput`."""
    kind, _, target = subsystem.decode("utf-8", "replace").partition(":")
    host, _, port = target.rpartition(":")
    # Teleport's clients write HOST:PORT@CLUSTER, which is refused here.
    is_number = port.isascii() and port.isdigit() and len(port) <= PORT_DIGITS
    if kind != SUBSYSTEM or not host or not is_number:
        raise InvalidInput("a jump host has no sessions but the subsystem proxy:HOST:PORT")
    return host, int(port)


class JumpSession(RelayChannel):
    """A session that relays to a node, or ends with an error."""

    name = b"session"

    def __init__(self, **named: Any) -> None:
        # The stream is replaced when there is one to a node.
        super().__init__(StreamEnd(), **named)
        self._nodes: NodeAccess = named["avatar"]
        self._state = State.IDLE
        self._connecting: Deferred[Any] | None = None
        self._early = Backlog()
        self._error = ""

    def _goes(self, event: Event) -> bool:
        """Change the state; False: the event changes nothing in this state."""
        state = TRANSITIONS.get((self._state, event))
        if state is None:
            return False
        self._state = state
        return True

    def _fail(self, error: str) -> bool:
        self._error = error
        return self._goes(Event.FAILED)

    # -- opening and requests ---------------------------------------------------------
    def channelOpen(self, specificData: bytes) -> None:
        """Wait for a request."""

    def openFailed(self, reason: Any) -> None:
        """The client disconnected before the session was open."""

    def request_env(self, data: bytes) -> Answer:
        """Refuse environment variables."""
        return False

    def request_subsystem(self, data: bytes) -> Answer:
        """Connect to the node that the subsystem names."""
        subsystem = read_all(data, lambda r: r.string())
        if not self._goes(Event.REQUESTED):
            return False
        try:
            host = self._nodes.find(*read_target(subsystem))
        except TeleError as error:
            return self._fail(str(error))
        self._connecting = self._nodes.connect(host)
        return self._connecting.addCallbacks(self._connected, self._not_connected)

    def request_shell(self, data: bytes) -> Answer:
        """Accept the request, and end with an error: a jump host runs nothing."""
        return self.request_exec(data)

    def request_exec(self, data: bytes) -> Answer:
        """Accept the request, and end with an error: a jump host runs nothing."""
        if not self._goes(Event.REQUESTED):
            return False
        return self._fail(self._nodes.usage)

    def _connected(self, stream: StreamEnd) -> bool:
        if not self.is_open:
            stream.close(self.conn.transport.clock)
            return False
        self._stream = stream
        return self._goes(Event.CONNECTED)

    def _not_connected(self, failure: Failure) -> bool:
        return self._fail(refusal(failure)[1])

    def replied(self) -> None:
        """The reply is sent: the relay, or the error, may follow it."""
        if not self.is_open or not self._goes(Event.REPLIED):
            return
        if self._state is State.RELAYING:
            self._stream.attach(self)
            self._relay_early()
        else:
            self.writeExtended(STDERR, terminal_lines(self._error))
            self.conn.sendRequest(self, b"exit-status", FAILED_STATUS.to_bytes(4, "big"))
            self.loseConnection()

    def _relay_early(self) -> None:
        early = self._early
        while early:
            view, _ = early.first(self.localMaxPacket)
            with view:
                size = len(view)
                super().data_view(view)
            early.drop(size)
        if self.remote_eof:
            super().eofReceived()

    # -- data and end -----------------------------------------------------------------
    def data_view(self, view: memoryview) -> None:
        """Relay data, keep it until the relay begins, or drop it after an error."""
        if self._state is State.RELAYING:
            super().data_view(view)
        elif self._error:
            self.consumed(len(view))
        else:
            self._early.append(view)

    def eofReceived(self) -> None:
        """The client sends no more."""
        if self._state is State.RELAYING:
            super().eofReceived()

    def window_opened(self) -> None:
        """There is credit again."""
        if self._state is State.RELAYING:
            super().window_opened()
        else:
            Channel.window_opened(self)

    def closed(self) -> None:
        """The channel is gone: close the stream, or cancel the connection attempt."""
        self._early.clear()
        if self._state is State.RELAYING:
            super().closed()
            return
        Channel.closed(self)
        if self._connecting is not None:
            self._connecting.cancel()
        if self._state is State.CONNECTED:
            self._stream.close(self.conn.transport.clock)
