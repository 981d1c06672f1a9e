"""How do many channels share one connection (RFC 4254)?

Conch's ``SSHConnection`` with every message read strictly: a program that works on Conch's
works on this one, and a peer that breaks the protocol ends its own connection only.

Invariants:

* No name that a peer sends reaches a method of ours: a program's own methods answer it.
* Everything that a peer can make us keep has a limit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Final

from twisted.conch.error import ConchError

from tele.conch.connection import refusals
from tele.conch.connection.channel_opening import ChannelOpening
from tele.conch.connection.channel_transfer import ChannelTransfer
from tele.conch.connection.host_key_proofs import PROVE, HostKeyProver
from tele.conch.connection.requests import Requests
from tele.errors import ProtocolError
from tele.wire import numbers as n

NO_MORE_SESSIONS: Final = b"no-more-sessions@openssh.com"

_METHODS: Final[Mapping[int, str]] = {
    n.GLOBAL_REQUEST: "ssh_GLOBAL_REQUEST",
    n.REQUEST_SUCCESS: "ssh_REQUEST_SUCCESS",
    n.REQUEST_FAILURE: "ssh_REQUEST_FAILURE",
    n.CHANNEL_OPEN: "ssh_CHANNEL_OPEN",
    n.CHANNEL_OPEN_CONFIRMATION: "ssh_CHANNEL_OPEN_CONFIRMATION",
    n.CHANNEL_OPEN_FAILURE: "ssh_CHANNEL_OPEN_FAILURE",
    n.CHANNEL_WINDOW_ADJUST: "ssh_CHANNEL_WINDOW_ADJUST",
    n.CHANNEL_DATA: "ssh_CHANNEL_DATA",
    n.CHANNEL_EXTENDED_DATA: "ssh_CHANNEL_EXTENDED_DATA",
    n.CHANNEL_EOF: "ssh_CHANNEL_EOF",
    n.CHANNEL_CLOSE: "ssh_CHANNEL_CLOSE",
    n.CHANNEL_REQUEST: "ssh_CHANNEL_REQUEST",
    n.CHANNEL_SUCCESS: "ssh_CHANNEL_SUCCESS",
    n.CHANNEL_FAILURE: "ssh_CHANNEL_FAILURE",
}


_Handlers = Mapping[int, Callable[[Any, bytes], None]]


def _handlers_of(connection: type) -> _Handlers:
    return {number: getattr(connection, name) for number, name in _METHODS.items()}


class SSHConnection(ChannelOpening, ChannelTransfer, Requests):
    """The connection service, either end.

    As in Conch, a subclass may override ``ssh_<message>`` and have methods ``channel_<type>`` and
    ``global_<request>``. Bulk data come through ``channel_data``, not ``ssh_CHANNEL_DATA``.
    """

    _handlers: ClassVar[_Handlers]

    def __init_subclass__(cls, **named: Any) -> None:
        """Look the handlers of messages up once for each class."""
        super().__init_subclass__(**named)
        cls._handlers = _handlers_of(cls)

    def packetReceived(self, messageNum: int, packet: bytes) -> None:
        """Dispatch one message. Raises :class:`ProtocolError`."""
        handler = self._handlers.get(messageNum)
        if handler is None:
            raise ProtocolError(f"message {messageNum} is not of the connection protocol")
        handler(self, packet)

    def serviceStopped(self) -> None:
        """The connection was lost: close what is open, fail what waits."""
        self._stopped = True
        self._drop_replies()
        self._close_all()
        self._fail_requests()

    # -- what a program answers -------------------------------------------------------
    def getChannel(self, channelType: bytes, windowSize: int, maxPacket: int, data: bytes) -> Any:
        """Return a channel for what the peer opens, or a Deferred of one.

        A server asks its avatar; a client's connection has ``channel_<type>(window, packet, data)``
        methods, as in Conch.
        """
        avatar = self._avatar
        if avatar is not None:
            channel = avatar.lookupChannel(channelType, windowSize, maxPacket, data)
        else:
            make = self._method("channel", channelType)
            channel = None if make is None else make(windowSize, maxPacket, data)
        if channel is None:
            raise ConchError("unknown channel", refusals.UNKNOWN_CHANNEL_TYPE)
        return channel

    def gotGlobalRequest(self, requestType: bytes, data: bytes) -> Any:
        """Return the answer of the avatar; what it does not know, keepalives too, is refused.

        A client's connection has ``global_<name>(data)`` methods, as in Conch.
        """
        if requestType == NO_MORE_SESSIONS:
            self._no_more_sessions = True
            return True
        if requestType == PROVE and isinstance(self.transport, HostKeyProver):
            return self.transport.prove_host_keys(data)
        avatar = self._avatar
        if avatar is None:
            method = self._method("global", requestType)
            return False if method is None else method(data)
        if not requestType.isascii():
            return False
        return avatar.gotGlobalRequest(requestType, data)

    def _method(self, prefix: str, name: bytes) -> Any:
        """Return the method ``<prefix>_<name>`` of a program's class, or None.

        ``name`` is the peer's: it does not reach methods that are ours (``channel_data``).
        """
        method = f"{prefix}_{name.replace(b'-', b'_').decode('ascii', 'replace')}"
        own = hasattr(SSHConnection, method) or not method.isidentifier()
        return None if own else getattr(self, method, None)


SSHConnection._handlers = _handlers_of(SSHConnection)
