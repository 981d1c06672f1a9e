"""What does a reader of a file protocol have, and which one reads a program's streams?

Invariants:

* A reader only observes: whatever passes, it never raises and delays nothing.
* Its memory is bounded. What it cannot read ends it, and is reported once if the protocol was
  recognized before; other programs are none of its business.
* Which protocol a command speaks is told by its bytes, both ways, never by its name. Only rsync,
  whose protocol is not read, is known by its command line.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

from tele.model.transfer import Transfer

#: Bytes of a path, or of another text of a peer, that are kept.
TEXT_LIMIT: Final = 4096

#: Called for each operation on a file, when its result is known.
Report = Callable[[Transfer], None]
#: Called once, with the reason, when what passes cannot be read any more.
Broken = Callable[[str], None]


class Unreadable(Exception):
    """What passes is not the protocol, or more than is kept of it."""


class Observer(Protocol):
    """Reads what passes between a client and a program. Views are valid during the call."""

    def input(self, view: memoryview) -> None:
        """The client sent this."""

    def output(self, *views: memoryview) -> None:
        """The program sent this, in order."""

    def ended(self, how: str) -> None:
        """The program ended, ``ok`` or with an error: report what was not finished."""


class Reader(Protocol):
    """Reads one protocol; raises :class:`Unreadable`."""

    #: Whether both sides have shown that they speak it.
    recognized: bool

    def input(self, view: memoryview) -> None:
        """The client sent this."""

    def output(self, view: memoryview) -> None:
        """The program sent this."""

    def ended(self, how: str) -> None:
        """Report what was not finished; never raises."""


class Guarded:
    """The :class:`Observer` of several readers, until all but one have given up.

    ``certain``: what the program speaks is known before it does.
    """

    def __init__(self, readers: list[Reader], broken: Broken, *, certain: bool = False) -> None:
        self._readers = readers
        self._broken = broken
        self._certain = certain

    def _feed(self, of_client: bool, *views: memoryview) -> None:
        for reader in tuple(self._readers):
            feed = reader.input if of_client else reader.output
            try:
                for view in views:
                    feed(view)
            except Unreadable as error:
                self._give_up(reader, error)
            else:
                if reader.recognized and len(self._readers) > 1:
                    self._readers[:] = [reader]
                    return

    def _give_up(self, reader: Reader, error: Unreadable) -> None:
        self._readers.remove(reader)
        if reader.recognized or self._certain:
            reader.ended("what follows cannot be read")
            self._broken(str(error))

    def input(self, view: memoryview) -> None:
        """See :class:`Observer`."""
        readers = self._readers
        if len(readers) == 1:  # as it is soon
            try:
                readers[0].input(view)
            except Unreadable as error:
                self._give_up(readers[0], error)
        elif readers:
            self._feed(True, view)

    def output(self, *views: memoryview) -> None:
        """See :class:`Observer`."""
        readers = self._readers
        if len(readers) == 1:
            try:
                for view in views:
                    readers[0].output(view)
            except Unreadable as error:
                self._give_up(readers[0], error)
        elif readers:
            self._feed(False, *views)

    def ended(self, how: str) -> None:
        """See :class:`Observer`."""
        for reader in self._readers:
            if reader.recognized:
                reader.ended(how)
        self._readers.clear()


def text(data: bytes) -> str:
    """Return a text of a peer as it is recorded; bytes that are not UTF-8 are escaped."""
    shown = data[:TEXT_LIMIT].decode("utf-8", "backslashreplace")
    return shown if len(data) <= TEXT_LIMIT else f"{shown}... ({len(data)} bytes)"
