"""What of a terminal's output may reach the terminal of another user who watches it?

A program can ask a terminal for answers, which arrive as if its user had typed them, and can change
what is outside of its screen. A session's user must not have that power over those who watch, nor
put words into the mouth of a peer, whose keys reach the session.

Invariants:

* Nothing passes that a terminal answers: requests for its state, its attributes or its settings,
  and strings of control (DCS, APC, PM, SOS).
* Of commands to the operating system (OSC) none passes: no title, clipboard, colour, link or path;
  nor does any command about the window (CSI t).
* What is incomplete waits for its end, within a bound.
"""

from __future__ import annotations

import re
from typing import Final

#: The longest control sequence that waits for its end.
SEQUENCE_LIMIT: Final = 128

#: ENQ, ESC, and control characters of ISO 6429 as UTF-8 has them.
_SPECIAL: Final = re.compile(rb"[\x05\x1b]|\xc2[\x80-\x9f]")
#: A string of control begins: DCS, SOS, OSC, PM, APC.
_STRING: Final = re.compile(rb"\x1b[PX\]^_]")
#: It ends with BEL, ST, CAN or SUB.
_STRING_END: Final = re.compile(rb"[\x07\x18\x1a]|\x1b\\|\xc2\x9c")
_CSI: Final = re.compile(rb"\x1b\[([0-?]*)([ -/]*)([@-~])")
#: Another escape sequence, such as the choice of a character set.
_ESCAPE: Final = re.compile(rb"\x1b[ -/]*[0-Z\\`-~]")
_INCOMPLETE: Final = re.compile(rb"\x1b(?:\[[0-?]*[ -/]*|[ -/]*)")
#: Last bytes of control sequences that a terminal answers, or that concern its window.
_ANSWERED: Final = frozenset((b"c", b"n", b"t", b"x"))
#: Escape sequences that are answered: DECID.
_ANSWERED_ESCAPES: Final = frozenset((b"\x1bZ",))


def _is_answered(parameters: bytes, intermediates: bytes, final: bytes) -> bool:
    if final in _ANSWERED or b"$" in intermediates or b"*" in intermediates:
        return True
    # XTVERSION, and the state of keyboards; without a mark both are other things.
    return final in (b"q", b"u", b"m") and parameters[:1] in (b"?", b">", b"=", b"<")


class WatchedOutput:
    """Filters the output of one terminal, in pieces."""

    def __init__(self) -> None:
        self._rest = b""
        self._in_string = False

    def feed(self, data: bytes) -> bytes:
        """Return what passes of ``data``, and of what has waited before it."""
        data, self._rest = self._rest + data, b""
        passed = bytearray()
        at, end = 0, len(data)
        while at < end:
            if self._in_string:
                at = self._skip(data, at)
                continue
            found = _SPECIAL.search(data, at)
            if found is None:
                stop = end - 1 if data[-1] == 0xC2 else end
                passed += data[at:stop]
                self._rest = data[stop:]
                break
            passed += data[at : found.start()]
            at = found.start()
            at = found.end() if data[at] != 0x1B else self._escape(data, at, passed)
        return bytes(passed)

    def _skip(self, data: bytes, at: int) -> int:
        """Return where a string of control ends; what may be a part of its end waits."""
        end = _STRING_END.search(data, at)
        if end is None:
            self._rest = data[-1:] if data[-1] in (0x1B, 0xC2) else b""
            return len(data)
        self._in_string = False
        return end.end()

    def _escape(self, data: bytes, at: int, passed: bytearray) -> int:
        """Take the sequence that begins at ``at``; return where the next one begins."""
        if _STRING.match(data, at):
            self._in_string = True
            return at + 2
        found = _CSI.match(data, at)
        if found is not None:
            if not _is_answered(*found.groups()):
                passed += found[0]
            return found.end()
        found = _ESCAPE.match(data, at)
        if found is not None and not data.startswith(b"\x1b[", at):
            if found[0] not in _ANSWERED_ESCAPES:
                passed += found[0]
            return found.end()
        if _INCOMPLETE.fullmatch(data, at) and len(data) - at <= SEQUENCE_LIMIT:
            self._rest = data[at:]
            return len(data)
        return at + 1  # it is none: what follows is text
