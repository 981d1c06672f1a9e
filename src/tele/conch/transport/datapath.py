"""What do a transport and the connection service say to each other about bulk data?

Everything else goes the way of Conch (``sendPacket``, ``sendDisconnect``, ``packetReceived``).

Invariants:

* Views are valid during the call that passes them, and no longer (see ``scratch``).
* Whoever sends data asks :meth:`IDataTransport.can_send` first; whoever is told False waits
  to be called through ``ready_observers``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from zope.interface import Attribute, Interface


class IDataTransport(Interface):
    """The sending side of bulk data: an SSH transport of ours, server or client."""

    data_buffers: Sequence[memoryview] = Attribute(
        "rooms of 32768 bytes that plaintext to be sent is read into, one for each packet"
    )
    data_buffer: memoryview = Attribute("the first of them")
    ready_observers: set[Callable[[], None]] = Attribute(
        "called without arguments whenever can_send() may have become true again; "
        "an observer may add or remove observers while it is called"
    )

    def can_send() -> bool:
        """Whether data may be sent now.

        False while keys are exchanged, while the socket has not taken what was sent before,
        before authentication and after the end. After a True, any number of seals up to one
        flush may follow without asking again.
        """

    def seal_data(channel: int, length: int, extended: int | None = None, room: int = 0) -> None:
        """Encrypt ``data_rooms[room][:length]`` as CHANNEL_DATA for the peer's ``channel`` number.

        With ``extended`` (1 is stderr) as CHANNEL_EXTENDED_DATA of that type. It is on its
        way to the peer after :meth:`flush`, or sooner if the output scratch is full.
        """

    def flush() -> None:
        """Give all that is sealed to the socket, in one send if it takes it."""

    def send_data(channel: int, view: memoryview | bytes, extended: int | None = None) -> None:
        """Copy ``view`` (at most 32768 bytes) into ``data_room``, seal and, unless the
        transport is just handling received packets and flushes at their end, flush.
        """


class IDataService(Interface):
    """The receiving side: a connection service that takes data without a copy.

    A service without these methods gets Conch's ``packetReceived(94 or 95, payload)``.
    """

    def channel_data(number: int, view: memoryview) -> None:
        """CHANNEL_DATA for our channel ``number``; the view holds exactly its data."""

    def channel_extended_data(number: int, code: int, view: memoryview) -> None:
        """CHANNEL_EXTENDED_DATA of type ``code`` for our channel ``number``."""
