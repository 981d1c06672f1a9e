"""Which commands did the user of a shell type? Those that the shell marks with OSC 133.

A shell that does so writes ``133;B`` where a command begins and ``133;C`` when it runs; the command
is what the terminal shows from one to the other, or ``cmdline_url`` of the latter if it has that.

Invariants:

* A terminal is fed with all bytes, in order; only an incomplete mark waits for the next bytes.
* Any program can write such marks: they say what was shown, not what was run.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import unquote

from tele.snapshots.terminals import Place, Terminal

_MARK = re.compile(rb"\x1b\]133;([A-D])([^\x07\x1b]{0,2048})(?:\x07|\x1b\\)")
#: The beginning of such a mark at the end of what is there.
_BEGUN = re.compile(rb"\x1b(?:\](?:1(?:3(?:3(?:;(?:[A-D][^\x07\x1b]{0,2048})?)?)?)?)?)?\x1b?\Z")
_LONGEST: Final = 2100


class PromptReader:
    """Feeds ``terminal``, and finds the commands in what it is fed with."""

    def __init__(self, terminal: Terminal) -> None:
        self._terminal = terminal
        self._kept = b""
        self._begin: Place | None = None

    @property
    def settled(self) -> bool:
        """Whether the terminal has everything, and no sequence is incomplete."""
        return not self._kept and self._terminal.settled()

    def feed(self, data: bytes) -> list[str]:
        """Feed the terminal; return the commands that began to run."""
        if self._kept:
            data, self._kept = self._kept + data, b""
        found = []
        at = 0
        if b"\x1b]133;" in data:
            for mark in _MARK.finditer(data):
                self._terminal.feed(data[at : mark.end()])
                at = mark.end()
                if command := self._mark(mark[1], mark[2]):
                    found.append(command)
        rest = data[at:] if at else data
        if rest.rfind(b"\x1b", -_LONGEST) >= 0 and (begun := _BEGUN.search(rest, -_LONGEST)):
            self._kept = rest[begun.start() :]
            rest = rest[: begun.start()]
        self._terminal.feed(rest)
        return found

    def flush(self) -> None:
        """Feed the terminal with what was kept: the session ended."""
        self._terminal.feed(self._kept)
        self._kept = b""

    def _mark(self, kind: bytes, options: bytes) -> str:
        if kind == b"B":
            self._begin = self._terminal.place()
        elif kind == b"C":
            begin, self._begin = self._begin, None
            for option in options.decode("utf-8", "replace").split(";"):
                name, _, value = option.partition("=")
                if name == "cmdline_url":
                    return unquote(value, errors="replace").strip()
            if begin is not None and not self._terminal.alternate():
                return self._terminal.text_from(begin).strip()
        return ""
