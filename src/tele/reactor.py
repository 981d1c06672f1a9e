"""Which type does a reactor have that is a clock and polls descriptors?

What needs only one of these takes that interface of Twisted's alone. What needs threads adapts the
reactor to ``IReactorFromThreads`` or ``IReactorThreads`` when it uses them, so that a fake clock
does for all else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from twisted.internet.interfaces import (
    IDelayedCall,
    IReactorFDSet,
    IReactorTime,
    IReadDescriptor,
    IWriteDescriptor,
)
from zope.interface import implementer


@implementer(IReactorTime, IReactorFDSet)
class Reactor(Protocol):
    """``IReactorTime`` and ``IReactorFDSet`` in one: Twisted has no name for both together."""

    def seconds(self) -> float:
        """See ``IReactorTime``."""

    def callLater(
        self,
        delay: float,
        callable: Callable[..., object],  # noqa: A002 (the name in IReactorTime)
        *args: object,
        **kwargs: object,
    ) -> IDelayedCall:
        """See ``IReactorTime``."""

    def getDelayedCalls(self) -> Sequence[IDelayedCall]:
        """See ``IReactorTime``."""

    def addReader(self, reader: IReadDescriptor) -> None:
        """See ``IReactorFDSet``."""

    def addWriter(self, writer: IWriteDescriptor) -> None:
        """See ``IReactorFDSet``."""

    def removeReader(self, reader: IReadDescriptor) -> None:
        """See ``IReactorFDSet``."""

    def removeWriter(self, writer: IWriteDescriptor) -> None:
        """See ``IReactorFDSet``."""

    def removeAll(self) -> list[IReadDescriptor | IWriteDescriptor]:
        """See ``IReactorFDSet``."""

    def getReaders(self) -> list[IReadDescriptor]:
        """See ``IReactorFDSet``."""

    def getWriters(self) -> list[IWriteDescriptor]:
        """See ``IReactorFDSet``."""
