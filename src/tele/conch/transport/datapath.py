"""How do a transport and the connection service exchange bulk data?

Everything else uses Conch's methods (``sendPacket``, ``sendDisconnect``, ``packetReceived``).

Invariants:

* Views are valid during the call that passes them, and no longer (see :mod:`tele.sockets.buffers`).
* A sender calls :meth:`IDataTransport.can_send` first. After a False it waits to be called as one
  of ``ready_observers``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from zope.interface import Attribute, Interface


class IDataTransport(Interface):
    """The sending side of bulk data: an SSH transport, server or client."""

    data_buffers: Sequence[memoryview] = Attribute(
        "buffers of 32768 bytes that plaintext to be sent is read into, one for each packet"
    )
    data_buffer: memoryview = Attribute("the first of ``data_buffers``")
    ready_observers: set[Callable[[], None]] = Attribute(
        "called without arguments whenever can_send() may have become true again; "
        "an observer may add or remove observers while it is called"
    )

    def can_send() -> bool:
        """Whether data may be sent now.

        False during a key exchange, while the socket has not taken what was sent before, before
        authentication, and after the end. After a True, any number of seals up to one flush may
        follow without another check.
        """

    def seal_data(channel: int, lengths: Sequence[int], extended: int | None = None) -> None:
        """Encrypt so many bytes of each of the first ``data_buffers``, as one CHANNEL_DATA each for
        the peer's ``channel``.

        With ``extended`` (1 is stderr) as CHANNEL_EXTENDED_DATA of that type. They are sent by
        :meth:`flush`, or sooner if the output buffer is full.
        """

    def flush() -> None:
        """Send all sealed packets, in one call if the socket takes them."""

    def send_data(channel: int, view: memoryview | bytes, extended: int | None = None) -> None:
        """Copy and seal ``view`` (at most 32768 bytes), and flush.

        While received packets are handled the flush follows after all of them.
        """


class IDataService(Interface):
    """The receiving side: a connection service that takes data without a copy.

    A service without this interface gets Conch's ``packetReceived(93 to 95, payload)``.
    """

    def channel_data(number: int, view: memoryview) -> None:
        """CHANNEL_DATA for our channel ``number``; the view holds exactly its data."""

    def channel_extended_data(number: int, code: int, view: memoryview) -> None:
        """CHANNEL_EXTENDED_DATA of type ``code`` for our channel ``number``."""

    def channel_credit(number: int, credit: int) -> None:
        """CHANNEL_WINDOW_ADJUST: the peer takes ``credit`` bytes more on our channel ``number``.

        A client sends thousands of them for each gigabyte that it is sent.
        """
