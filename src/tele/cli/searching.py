"""Where in a replay does a text appear? Each time it appears on the screen that was not there.

Invariant: what is searched is what the terminal showed, not the bytes that made it.
"""

from __future__ import annotations

from typing import Final

from attrs import define, field

from tele.terminal.screen import Screen

#: Characters of a pattern.
PATTERN_LIMIT: Final = 200


def count_in(screen: Screen, pattern: str) -> int:
    """Return how often ``pattern`` is on the screen; upper and lower case differ if it has both."""
    folds = pattern == pattern.lower()
    found = 0
    line = ""
    for each in screen.lines:
        line += "".join(each.texts)
        if each.wrapped:
            continue  # the next one continues it
        found += (line.lower() if folds else line).count(pattern)
        line = ""
    return found + (line.lower() if folds else line).count(pattern)


@define
class Search:
    """A search on its way from ``origin``, a time in seconds.

    Forwards it ends when the text appears first. Backwards (``before``) it begins at the start and
    ends at the origin; ``found`` is the last time before that.
    """

    pattern: str
    origin: float
    before: bool = False
    found: float | None = None
    _count: int | None = field(default=None, init=False)

    def take(self, screen: Screen, at: float) -> bool:
        """Look at the screen ``at`` a time; returns whether the search is over."""
        count = count_in(screen, self.pattern)
        appeared = count > (self._count or 0) and (self._count is not None or self.before)
        self._count = count
        if self.before and at >= self.origin:
            return True
        if appeared:
            self.found = at
        return appeared and not self.before


@define
class Prompt:
    """What is typed after ``/``, byte by byte as keys are read."""

    typed: str = ""

    def press(self, key: str) -> str | None:
        """Take a key; returns the pattern when it is complete, empty if it was given up."""
        if key in ("\r", "\n"):
            return self.text
        if key in ("\x03", "\x07", "\x1b"):
            return ""
        if key in ("\x7f", "\b"):
            self.typed = self.text[:-1].encode("utf-8", "replace").decode("latin-1")
        elif key == "\x15":
            self.typed = ""
        elif len(key) == 1 and key >= " " and len(self.typed) < PATTERN_LIMIT:
            self.typed += key
        return None

    @property
    def text(self) -> str:
        """The pattern so far."""
        return self.typed.encode("latin-1", "replace").decode("utf-8", "replace")
