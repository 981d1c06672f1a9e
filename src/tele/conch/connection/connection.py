"""How do many channels share one connection (RFC 4254)?

Conch's ``SSHConnection`` with every message read strictly: a program that works on Conch's
works on this one, and a peer that breaks the protocol ends its own connection only.

Invariants:

* A number that was never given out is a protocol error; one that was closed meanwhile is
  legal, and its message is dropped.
* A channel is confirmed when it is open, and refused with the true reason.
* Replies to global requests leave in the order of the requests.
* Everything that a peer can make us keep has a limit.
"""

from __future__ import annotations

import struct
from typing import Any, Final

from twisted.conch.error import ConchError
from twisted.conch.ssh import connection as conch
from twisted.internet.defer import Deferred, fail, maybeDeferred
from twisted.internet.error import ConnectionLost
from twisted.python.failure import Failure
from zope.interface import implementer

from tele.conch.connection import refusals
from tele.conch.connection.channel import Channel
from tele.conch.connection.global_replies import GlobalReplies
from tele.conch.connection.host_key_proofs import PROVE
from tele.conch.connection.windows import Windows
from tele.conch.connection.write_scheduler import Turns
from tele.conch.transport.datapath import IDataService
from tele.errors import ProtocolError
from tele.log import make_logger
from tele.wire import numbers as n
from tele.wire.fields import Reader, boolean, string, uint32

log = make_logger(__name__)

CHANNELS_LIMIT: Final = 4096
SESSIONS_DEFAULT: Final = 10
#: Most bytes that the window of one channel grows to, and all of a connection together.
WINDOW_LIMIT: Final = 16 * 1024 * 1024
WINDOWS_LIMIT: Final = 64 * 1024 * 1024
TEXT_LIMIT: Final = 256

_MOST_CREDIT: Final = 0xFFFF_FFFF
_SESSION: Final = b"session"
_TWO_NUMBERS: Final = struct.Struct(">II")


@implementer(IDataService)
class SSHConnection(conch.SSHConnection):
    """The connection service, either end."""

    transport: Any
    #: Most channels, those that are being opened included.
    channels_limit = CHANNELS_LIMIT
    window_limit = WINDOW_LIMIT
    windows_limit = WINDOWS_LIMIT
    _turns: Turns | None = None
    _windows: Windows | None = None

    def __init__(self) -> None:
        super().__init__()
        self._opening = 0
        self._sessions = 0
        self._no_more_sessions = False
        self._replies: GlobalReplies | None = None
        self._stopped = False
        self._session_channels: set[Any] = set()

    # -- the service ------------------------------------------------------------------
    @property
    def turns(self) -> Turns:
        """The senders of this connection that wait for its socket."""
        if self._turns is None:
            self._turns = Turns(self.transport)
        return self._turns

    @property
    def windows(self) -> Windows:
        """How much the peer may send on the channels of this connection."""
        if self._windows is None:
            shared = getattr(getattr(self.transport, "avatar", None), "window_budget", None)
            self._windows = Windows(self, self.window_limit, self.windows_limit, shared)
        return self._windows

    def serviceStopped(self) -> None:
        """The connection is gone: close what is open, fail what waits."""
        self._stopped = True
        if self._replies is not None:
            self._replies.clear()
        for channel in list(self.channelsToRemoteChannel):
            self._close_channel(channel)
        while self.channels:
            _, channel = self.channels.popitem()
            self.windows.close(channel)
            self._guard(channel.openFailed, ConnectionLost())
        self._cleanupGlobalDeferreds()
        for waiting in list(self.deferreds.values()):
            for answer in waiting:
                answer.errback(ConnectionLost())
        self.deferreds = {"global": []}

    def packetReceived(self, messageNum: int, packet: bytes) -> None:
        """Dispatch one message. Raises :class:`ProtocolError`."""
        handler = _HANDLERS.get(messageNum)
        if handler is None:
            raise ProtocolError(f"message {messageNum} is not of the connection protocol")
        handler(self, packet)

    def _guard(self, function: Any, *words: Any) -> None:
        """What one channel raises at its end does not keep others from theirs."""
        try:
            function(*words)
        except Exception:
            log.failure("a channel failed at its end")

    def _channel(self, number: int) -> Any | None:
        channel = self.channels.get(number)
        if channel is None and number >= self.localChannelID:
            raise ProtocolError(f"there is no channel {number}")
        return channel if channel in self.channelsToRemoteChannel else None

    # -- data -------------------------------------------------------------------------
    def channel_data(self, number: int, view: memoryview) -> None:
        """See :class:`IDataService`."""
        channel = self._channel(number)
        if isinstance(channel, Channel):
            channel.take(view)
        elif channel is not None:
            self._conch_data(channel, view, None)

    def channel_extended_data(self, number: int, code: int, view: memoryview) -> None:
        """See :class:`IDataService`."""
        channel = self._channel(number)
        if isinstance(channel, Channel):
            channel.take(view, code)
        elif channel is not None:
            self._conch_data(channel, view, code)

    def _conch_data(self, channel: Any, view: memoryview, code: int | None) -> None:
        """Data for a channel class of Conch's own: consumed as soon as it has them."""
        length = len(view)
        if length > channel.localWindowLeft or length > channel.localMaxPacket:
            raise ProtocolError("more data than the window has room for")
        channel.localWindowLeft -= length
        if code is None:
            channel.dataReceived(bytes(view))
        else:
            channel.extReceived(code, bytes(view))
        if channel.localWindowLeft < channel.localWindowSize // 2 and not channel.localClosed:
            self.adjustWindow(channel, channel.localWindowSize - channel.localWindowLeft)

    def ssh_CHANNEL_DATA(self, packet: bytes) -> None:
        """CHANNEL_DATA by the slow way."""
        reader = Reader(packet)
        number, data = reader.uint32(), reader.string()
        reader.end()
        self.channel_data(number, memoryview(data))

    def ssh_CHANNEL_EXTENDED_DATA(self, packet: bytes) -> None:
        """CHANNEL_EXTENDED_DATA by the slow way."""
        reader = Reader(packet)
        number, code, data = reader.uint32(), reader.uint32(), reader.string()
        reader.end()
        self.channel_extended_data(number, code, memoryview(data))

    def ssh_CHANNEL_WINDOW_ADJUST(self, packet: bytes) -> None:
        """The peer gives credit."""
        if len(packet) != 8:
            raise ProtocolError("CHANNEL_WINDOW_ADJUST of a wrong length")
        number, credit = _TWO_NUMBERS.unpack(packet)
        channel = self._channel(number)
        if channel is not None:
            if channel.remoteWindowLeft + credit > _MOST_CREDIT:
                raise ProtocolError("a window larger than any window")
            channel.addWindowBytes(credit)

    # -- opening ----------------------------------------------------------------------
    def ssh_CHANNEL_OPEN(self, packet: bytes) -> None:
        """The peer asks for a channel."""
        reader = Reader(packet)
        kind, sender = reader.string(64), reader.uint32()
        window, most = reader.uint32(), reader.uint32()
        data = reader.rest()
        if most == 0:
            raise ProtocolError("a channel whose packets may hold nothing")
        problem = self._may_open(kind)
        if problem is not None:
            self._refuse_open(sender, refusals.RESOURCE_SHORTAGE, problem)
            return
        is_session = kind == _SESSION
        self._sessions += is_session
        self._opening += 1
        opening = maybeDeferred(self.getChannel, kind, window, most, data)
        opening.addCallbacks(
            self._opened,
            self._not_opened,
            callbackArgs=(sender, data, is_session),
            errbackArgs=(sender, is_session),
        )
        opening.addErrback(self.broken)

    def getChannel(self, channelType: bytes, windowSize: int, maxPacket: int, data: bytes) -> Any:
        """Return a channel for what the peer opens, or a Deferred of one.

        A server's avatar knows its channels; a client's connection has
        ``channel_<type>(window, packet, data)`` methods, as in Conch.
        """
        avatar = getattr(self.transport, "avatar", None)
        if avatar is not None:
            channel = avatar.lookupChannel(channelType, windowSize, maxPacket, data)
        else:
            make = self._method("channel", channelType)
            channel = None if make is None else make(windowSize, maxPacket, data)
        if channel is None:
            raise ConchError("unknown channel", refusals.UNKNOWN_CHANNEL_TYPE)
        return channel

    def _method(self, prefix: str, name: bytes) -> Any:
        """Return the method ``<prefix>_<name>`` that a program has for something, or None.

        ``name`` is the peer's: it does not reach methods that are ours (``channel_data``).
        """
        word = f"{prefix}_{name.replace(b'-', b'_').decode('ascii', 'replace')}"
        own = hasattr(SSHConnection, word) or not word.isidentifier()
        return None if own else getattr(self, word, None)

    def _may_open(self, kind: bytes) -> str | None:
        if len(self.channels) + self._opening >= self.channels_limit:
            return f"no more than {self.channels_limit} channels on a connection"
        if kind == _SESSION:
            if self._no_more_sessions:
                return "the client said that it opens no more sessions"
            grant = getattr(getattr(self.transport, "avatar", None), "grant", None)
            most = SESSIONS_DEFAULT if grant is None else grant.max_sessions
            if self._sessions >= most:
                return f"no more than {most} sessions on a connection"
        return None

    def _opened(self, channel: Any, sender: int, data: bytes, is_session: bool) -> None:
        self._opening -= 1
        if self._stopped:
            self._sessions -= is_session
            self._guard(channel.openFailed, ConnectionLost())
            return
        if channel is None:
            self._sessions -= is_session
            self._refuse_open(sender, refusals.UNKNOWN_CHANNEL_TYPE, "unknown channel")
            return
        number = self.localChannelID
        self.localChannelID += 1
        channel.conn = self
        channel.id = number
        self.channels[number] = channel
        self.channelsToRemoteChannel[channel] = sender
        self.localToRemoteChannel[number] = sender
        self.windows.open(channel)
        if is_session:
            self._session_channels.add(channel)
        self.transport.sendPacket(
            n.CHANNEL_OPEN_CONFIRMATION,
            uint32(sender)
            + uint32(number)
            + uint32(channel.localWindowSize)
            + uint32(channel.localMaxPacket)
            + channel.specificData,
        )
        self._open(channel, data)

    def _open(self, channel: Any, data: bytes) -> None:
        """Tell ``channel`` that it is open; one that fails at it is closed, and no other."""
        try:
            channel.channelOpen(data)
        except ProtocolError:
            raise
        except Exception:
            log.failure("a channel failed as it was opened")
            self.sendClose(channel)

    def _not_opened(self, failure: Failure, sender: int, is_session: bool) -> None:
        self._opening -= 1
        self._sessions -= is_session
        if self._stopped:
            return
        code, text = refusals.refusal(failure)
        self._refuse_open(sender, code, text)

    def _refuse_open(self, sender: int, code: int, text: str) -> None:
        self.transport.sendPacket(
            n.CHANNEL_OPEN_FAILURE,
            uint32(sender) + uint32(code) + string(text.encode("utf-8")[:TEXT_LIMIT]) + string(b""),
        )

    def broken(self, failure: Failure) -> None:
        """Something failed outside of a message's handling: end the connection as it would."""
        error = failure.value
        if isinstance(error, ProtocolError):
            self.transport.sendDisconnect(error.disconnect_code, str(error))
            return
        log.failure("a channel could not be handled", failure)
        self.transport.sendDisconnect(n.BY_APPLICATION, b"internal error")

    def ssh_CHANNEL_OPEN_CONFIRMATION(self, packet: bytes) -> None:
        """A channel that we asked for is open."""
        reader = Reader(packet)
        number, remote = reader.uint32(), reader.uint32()
        window, most = reader.uint32(), reader.uint32()
        channel = self._awaited(number)
        if most == 0:
            raise ProtocolError("a channel whose packets may hold nothing")
        channel.conn = self
        channel.remoteWindowLeft = window
        channel.remoteMaxPacket = most
        self.localToRemoteChannel[number] = remote
        self.channelsToRemoteChannel[channel] = remote
        self._open(channel, reader.rest())

    def openChannel(self, channel: Any, extra: bytes = b"") -> None:
        """Ask the peer for ``channel``; it hears ``channelOpen`` or ``openFailed``."""
        if self._stopped:
            self._guard(channel.openFailed, ConnectionLost())
            return
        number = self.localChannelID
        self.localChannelID += 1
        channel.conn = self
        channel.id = number
        self.channels[number] = channel
        self.windows.open(channel)
        self.transport.sendPacket(
            n.CHANNEL_OPEN,
            string(channel.name)
            + uint32(number)
            + uint32(channel.localWindowSize)
            + uint32(channel.localMaxPacket)
            + extra,
        )

    def ssh_CHANNEL_OPEN_FAILURE(self, packet: bytes) -> None:
        """A channel that we asked for was refused."""
        reader = Reader(packet)
        number, code, text = reader.uint32(), reader.uint32(), reader.string()
        reader.string()
        reader.end()
        channel = self._awaited(number)
        del self.channels[number]
        self.windows.close(channel)
        channel.openFailed(refusals.ChannelRefused(text[:TEXT_LIMIT], code))

    def _awaited(self, number: int) -> Any:
        channel = self.channels.get(number)
        if channel is None or channel in self.channelsToRemoteChannel:
            raise ProtocolError(f"channel {number} is not being opened")
        return channel

    # -- ending -----------------------------------------------------------------------
    def ssh_CHANNEL_EOF(self, packet: bytes) -> None:
        """The peer sends no more on a channel."""
        channel = self._named(packet)
        if channel is None or channel.localClosed:
            return
        if isinstance(channel, Channel):
            channel.remote_eof = True
        channel.eofReceived()

    def ssh_CHANNEL_CLOSE(self, packet: bytes) -> None:
        """The peer closes a channel."""
        channel = self._named(packet)
        if channel is None:
            return
        channel.remoteClosed = True
        was_closed = channel.localClosed
        self._guard(channel.closeReceived)
        if was_closed:
            self._close_channel(channel)
        elif not channel.localClosed and channel in self.channelsToRemoteChannel:
            self.sendClose(channel)

    def _named(self, packet: bytes) -> Any | None:
        reader = Reader(packet)
        channel = self._channel(reader.uint32())
        reader.end()
        return channel

    def sendData(self, channel: Any, data: bytes) -> None:
        """Send data that the window has room for. For channel classes of Conch's own."""
        remote = self.channelsToRemoteChannel.get(channel)
        if remote is not None and not channel.localClosed:
            self.transport.sendPacket(n.CHANNEL_DATA, uint32(remote) + string(data))

    def sendExtendedData(self, channel: Any, dataType: int, data: bytes) -> None:
        """Send extended data that the window has room for, as :meth:`sendData`."""
        remote = self.channelsToRemoteChannel.get(channel)
        if remote is not None and not channel.localClosed:
            body = uint32(remote) + uint32(dataType) + string(data)
            self.transport.sendPacket(n.CHANNEL_EXTENDED_DATA, body)

    def sendEOF(self, channel: Any) -> None:
        """Send EOF; once, and not after CLOSE."""
        if channel.localClosed or channel not in self.channelsToRemoteChannel:
            return
        remote = self.channelsToRemoteChannel[channel]
        self.transport.sendPacket(n.CHANNEL_EOF, uint32(remote))

    def sendClose(self, channel: Any) -> None:
        """Send CLOSE; the channel is gone when both sides did."""
        if channel.localClosed or channel not in self.channelsToRemoteChannel:
            return
        remote = self.channelsToRemoteChannel[channel]
        channel.localClosed = True
        self.transport.sendPacket(n.CHANNEL_CLOSE, uint32(remote))
        if channel.remoteClosed:
            self._close_channel(channel)

    def channelClosed(self, channel: Any) -> None:
        """Forget a channel and tell it."""
        self._close_channel(channel)

    def _close_channel(self, channel: Any) -> None:
        if channel not in self.channelsToRemoteChannel:
            return
        channel.localClosed = channel.remoteClosed = True
        del self.channelsToRemoteChannel[channel]
        self.localToRemoteChannel.pop(channel.id, None)
        self.channels.pop(channel.id, None)
        self.windows.close(channel)
        if channel in self._session_channels:
            self._session_channels.discard(channel)
            self._sessions -= 1
        for answer in self.deferreds.pop(channel.id, []):
            answer.errback(ConchError("the channel is closed"))
        self._guard(channel.closed)

    # -- requests on a channel --------------------------------------------------------
    def ssh_CHANNEL_REQUEST(self, packet: bytes) -> None:
        """The peer asks something of a channel."""
        reader = Reader(packet)
        channel = self._channel(reader.uint32())
        name, want_reply = reader.string(64), reader.boolean()
        data = reader.rest()
        if channel is None or channel.localClosed:
            return
        if isinstance(channel, Channel):
            channel.request(name, data, want_reply)
            return
        answer = maybeDeferred(channel.requestReceived, name, data)
        answer.addErrback(lambda _: False)
        if want_reply:
            answer.addCallback(lambda good: self.reply_to_channel(channel, bool(good)))

    def reply_to_channel(self, channel: Any, good: bool) -> None:
        """Answer a channel request."""
        remote = self.channelsToRemoteChannel.get(channel)
        if remote is not None and not channel.localClosed:
            number = n.CHANNEL_SUCCESS if good else n.CHANNEL_FAILURE
            self.transport.sendPacket(number, uint32(remote))

    def ssh_CHANNEL_SUCCESS(self, packet: bytes) -> None:
        """A request of ours was done."""
        self._request_answered(packet, None)

    def ssh_CHANNEL_FAILURE(self, packet: bytes) -> None:
        """A request of ours was refused."""
        self._request_answered(packet, ConchError("channel request failed"))

    def _request_answered(self, packet: bytes, error: Exception | None) -> None:
        channel = self._named(packet)
        if channel is None:
            return
        waiting = self.deferreds.get(channel.id)
        if not waiting:
            raise ProtocolError("an answer to a request that was not made")
        answer = waiting.pop(0)
        if error is None:
            answer.callback(b"")
        else:
            answer.errback(error)

    def sendRequest(
        self, channel: Any, requestType: bytes | str, data: bytes, wantReply: bool | int = False
    ) -> Deferred[Any] | None:
        """Ask something of the peer's channel. Conch programs name it as text, too."""
        if isinstance(requestType, str):
            requestType = requestType.encode("ascii")
        remote = self.channelsToRemoteChannel.get(channel)
        if channel.localClosed or remote is None:
            return fail(ConchError("the channel is closed")) if wantReply else None
        self.transport.sendPacket(
            n.CHANNEL_REQUEST,
            uint32(remote) + string(requestType) + boolean(bool(wantReply)) + data,
        )
        if not wantReply:
            return None
        answer: Deferred[Any] = Deferred()
        self.deferreds.setdefault(channel.id, []).append(answer)
        return answer

    def adjustWindow(self, channel: Any, bytesToAdd: int) -> None:
        """Give the peer credit."""
        if channel.localClosed or channel not in self.channelsToRemoteChannel:
            return
        remote = self.channelsToRemoteChannel[channel]
        channel.localWindowLeft += bytesToAdd
        self.transport.sendPacket(n.CHANNEL_WINDOW_ADJUST, uint32(remote) + uint32(bytesToAdd))

    # -- global requests --------------------------------------------------------------
    def ssh_GLOBAL_REQUEST(self, packet: bytes) -> None:
        """The peer asks something of the connection."""
        reader = Reader(packet)
        name, want_reply = reader.string(256), reader.boolean()
        data = reader.rest()
        if self._replies is None:
            self._replies = GlobalReplies(self.transport)
        self._replies.check_room()
        answer = maybeDeferred(self.gotGlobalRequest, name, data)
        self._replies.answer(name, answer, want_reply)

    def gotGlobalRequest(self, requestType: bytes, data: bytes) -> Any:
        """Do what the avatar knows to do; anything else is refused, keepalives included.

        A client's connection has ``global_<name>(data)`` methods, as in Conch.
        """
        if requestType == b"no-more-sessions@openssh.com":
            self._no_more_sessions = True
            return True
        prove = getattr(self.transport, "prove_host_keys", None)
        if requestType == PROVE and prove is not None:
            return prove(data)
        avatar = getattr(self.transport, "avatar", None)
        if avatar is None:
            method = self._method("global", requestType)
            return False if method is None else method(data)
        if not requestType.isascii():
            return False
        return avatar.gotGlobalRequest(requestType, data)

    def ssh_REQUEST_SUCCESS(self, packet: bytes) -> None:
        """A global request of ours was done."""
        self._global_reply().callback(packet)

    def ssh_REQUEST_FAILURE(self, packet: bytes) -> None:
        """A global request of ours was refused."""
        self._global_reply().errback(ConchError("global request failed", packet))

    def _global_reply(self) -> Deferred[Any]:
        if not self.deferreds["global"]:
            raise ProtocolError("an answer to a request that was not made")
        answer: Deferred[Any] = self.deferreds["global"].pop(0)
        return answer


_HANDLERS: Final = {
    n.GLOBAL_REQUEST: SSHConnection.ssh_GLOBAL_REQUEST,
    n.REQUEST_SUCCESS: SSHConnection.ssh_REQUEST_SUCCESS,
    n.REQUEST_FAILURE: SSHConnection.ssh_REQUEST_FAILURE,
    n.CHANNEL_OPEN: SSHConnection.ssh_CHANNEL_OPEN,
    n.CHANNEL_OPEN_CONFIRMATION: SSHConnection.ssh_CHANNEL_OPEN_CONFIRMATION,
    n.CHANNEL_OPEN_FAILURE: SSHConnection.ssh_CHANNEL_OPEN_FAILURE,
    n.CHANNEL_WINDOW_ADJUST: SSHConnection.ssh_CHANNEL_WINDOW_ADJUST,
    n.CHANNEL_DATA: SSHConnection.ssh_CHANNEL_DATA,
    n.CHANNEL_EXTENDED_DATA: SSHConnection.ssh_CHANNEL_EXTENDED_DATA,
    n.CHANNEL_EOF: SSHConnection.ssh_CHANNEL_EOF,
    n.CHANNEL_CLOSE: SSHConnection.ssh_CHANNEL_CLOSE,
    n.CHANNEL_REQUEST: SSHConnection.ssh_CHANNEL_REQUEST,
    n.CHANNEL_SUCCESS: SSHConnection.ssh_CHANNEL_SUCCESS,
    n.CHANNEL_FAILURE: SSHConnection.ssh_CHANNEL_FAILURE,
}
