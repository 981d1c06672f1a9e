"""How are channel requests and global requests made and answered (RFC 4254, sections 4 and 5.4)?

Invariants:

* Replies to global requests leave in the order of the requests, and the peer has a limit of
  requests that wait.
* A reply to a request that was not made is a protocol error.
"""

from __future__ import annotations

from typing import Any

from twisted.conch.error import ConchError
from twisted.internet.defer import Deferred, fail, maybeDeferred
from twisted.internet.error import ConnectionLost

from tele.conch.connection.channel_table import ChannelTable
from tele.conch.connection.global_replies import GlobalReplies
from tele.errors import ProtocolError
from tele.wire import numbers as n
from tele.wire.fields import Reader, boolean, string, uint32


class Requests(ChannelTable):
    """Makes and answers requests of both kinds."""

    def __init__(self) -> None:
        super().__init__()
        self._replies: GlobalReplies | None = None

    # -- on a channel -----------------------------------------------------------------
    def ssh_CHANNEL_REQUEST(self, packet: bytes) -> None:
        """The peer makes a request on a channel."""
        reader = Reader(packet)
        channel = self._channel(reader.uint32())
        name, want_reply = reader.string(64), reader.boolean()
        data = reader.rest()
        if channel is not None and not channel.localClosed:
            self._receivers[channel.id].receive_request(name, data, want_reply)

    def sendRequest(
        self, channel: Any, requestType: bytes | str, data: bytes, wantReply: bool | int = False
    ) -> Deferred[Any] | None:
        """Make a request on the peer's channel. Conch programs name it as text, too."""
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

    def ssh_CHANNEL_SUCCESS(self, packet: bytes) -> None:
        """A channel request of ours succeeded."""
        answer = self._request_answered(packet)
        if answer is not None:
            answer.callback(b"")

    def ssh_CHANNEL_FAILURE(self, packet: bytes) -> None:
        """A channel request of ours was refused."""
        answer = self._request_answered(packet)
        if answer is not None:
            answer.errback(ConchError("channel request failed"))

    def _request_answered(self, packet: bytes) -> Deferred[Any] | None:
        channel = self._named(packet)
        if channel is None:
            return None
        waiting = self.deferreds.get(channel.id)
        if not waiting:
            raise ProtocolError("a reply to a channel request that was not made")
        answer: Deferred[Any] = waiting.pop(0)
        return answer

    # -- global -----------------------------------------------------------------------
    def ssh_GLOBAL_REQUEST(self, packet: bytes) -> None:
        """The peer makes a request of the connection."""
        reader = Reader(packet)
        name, want_reply = reader.string(256), reader.boolean()
        data = reader.rest()
        if self._replies is None:
            self._replies = GlobalReplies(self.transport)
        self._replies.check_limit()
        answer = maybeDeferred(self.gotGlobalRequest, name, data)
        self._replies.add(name, answer, want_reply)

    def ssh_REQUEST_SUCCESS(self, packet: bytes) -> None:
        """A global request of ours succeeded."""
        self._global_reply().callback(packet)

    def ssh_REQUEST_FAILURE(self, packet: bytes) -> None:
        """A global request of ours was refused."""
        self._global_reply().errback(ConchError("global request failed", packet))

    def _global_reply(self) -> Deferred[Any]:
        if not self.deferreds["global"]:
            raise ProtocolError("a reply to a global request that was not made")
        answer: Deferred[Any] = self.deferreds["global"].pop(0)
        return answer

    def _drop_replies(self) -> None:
        """The connection was lost: send no replies."""
        if self._replies is not None:
            self._replies.clear()

    def _fail_requests(self) -> None:
        """The connection was lost: no request of ours will be answered."""
        self._cleanupGlobalDeferreds()
        for waiting in list(self.deferreds.values()):
            for answer in waiting:
                answer.errback(ConnectionLost())
        self.deferreds = {"global": []}
