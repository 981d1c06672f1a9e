"""Which fakes does a program use to test what it builds on tele? None needs a network.

The clock of :class:`World` is advanced by the test, which also carries bytes between the ends.
Certificates, keys, packets and protocols are real.

Invariant: names only; no service of tele imports this package.
"""

from __future__ import annotations

from tele.store.memory import MemoryBackend
from tele.testing.authority import FakeAuthority
from tele.testing.clocks import SettableClock
from tele.testing.links import LinkEnd, ManualReactor
from tele.testing.recorder import MemoryRecorder, MemoryRecording
from tele.testing.ssh import Address, Avatar, Ends, Realm, RecordingConnection, World

__all__ = [
    "Address",
    "Avatar",
    "Ends",
    "FakeAuthority",
    "LinkEnd",
    "ManualReactor",
    "MemoryBackend",
    "MemoryRecorder",
    "MemoryRecording",
    "Realm",
    "RecordingConnection",
    "SettableClock",
    "World",
]
