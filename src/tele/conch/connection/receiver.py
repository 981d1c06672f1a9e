"""What does a connection call when a message for a channel arrives?

Invariant: a connection asks no channel of which class it is; what is not ours is adapted when it
is opened.
"""

from __future__ import annotations

from typing import Protocol


class Receiver(Protocol):
    """Receives the messages of one open channel."""

    def receive(self, view: memoryview, code: int | None = None) -> None:
        """CHANNEL_DATA, or CHANNEL_EXTENDED_DATA of type ``code``. The view is valid during the
        call. Raises :class:`tele.errors.ProtocolError` if it exceeds the window.
        """

    def receive_eof(self) -> None:
        """CHANNEL_EOF: the peer sends no more data."""

    def receive_request(self, name: bytes, data: bytes, want_reply: bool) -> None:
        """CHANNEL_REQUEST; ``data`` is what is specific to ``name``."""
