"""What does a program use to test what it builds on tele? Fakes, none of which needs a network.

A clock of :class:`World` moves when a test says so, and bytes when a test carries them.
Certificates, keys, packets and protocols are the real ones.

Invariant: names only; nothing here is imported by what runs.
"""

from __future__ import annotations

from tele.store.memory import MemoryBackend
from tele.testing.authority import PretendedAuth
from tele.testing.clocks import SettableClock
from tele.testing.links import HandReactor, LinkEnd
from tele.testing.recorder import MemoryRecorder, MemoryRecording
from tele.testing.ssh import Address, Avatar, Ends, Realm, RecordingConnection, World

__all__ = [
    "Address",
    "Avatar",
    "Ends",
    "HandReactor",
    "LinkEnd",
    "MemoryBackend",
    "MemoryRecorder",
    "MemoryRecording",
    "PretendedAuth",
    "Realm",
    "RecordingConnection",
    "SettableClock",
    "World",
]
