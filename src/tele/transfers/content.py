"""What is the SHA-256 of a file whose content passes in pieces?

Invariant: the SHA-256 is that of the first ``count`` bytes, or it is not known, with a reason. It
is never that of something else.
"""

from __future__ import annotations

import hashlib


class Content:
    """The content of one file, as far as it has passed, in one direction."""

    __slots__ = ("_hash", "_position", "count", "unhashed")

    def __init__(self) -> None:
        #: Bytes that have passed.
        self.count = 0
        #: Why the SHA-256 is not known, if it is not.
        self.unhashed = ""
        # Most files pass in one direction only.
        self._hash: hashlib._Hash | None = None
        self._position = 0

    def at(self, offset: int, otherwise: str) -> None:
        """The next piece is at ``offset`` of the file; ``otherwise`` is the reason if that is not
        where the last one ended.
        """
        if offset != self._position:
            self.spoil(otherwise)

    def update(self, view: memoryview) -> None:
        """A piece passes."""
        self.count += len(view)
        if not self.unhashed:
            self._position += len(view)
            if self._hash is None:
                self._hash = hashlib.sha256(view)
            else:
                self._hash.update(view)

    def spoil(self, reason: str) -> None:
        """The SHA-256 is not known, for this reason or an earlier one."""
        self.unhashed = self.unhashed or reason

    @property
    def position(self) -> int:
        """Where the next piece has to be."""
        return self._position

    @property
    def sha256(self) -> str:
        """The SHA-256 in hex, or nothing."""
        return "" if self.unhashed else (self._hash or hashlib.sha256()).hexdigest()
