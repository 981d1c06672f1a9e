"""Which keys were pressed? Bytes from a terminal become names of keys.

An earlier program may have left the terminal in any mode: cursor keys as ``CSI`` or ``SS3``, a
keypad that sends sequences, the keyboard protocols of kitty and xterm, mouse and focus reports,
bracketed paste. All of them are parsed; reports are skipped. What is pasted counts as if it were
typed, but for its control characters.

Invariant: any bytes are accepted, in pieces of any length.
"""

from __future__ import annotations

import re
from typing import Final

_FINALS: Final = {"A": "up", "B": "down", "C": "right", "D": "left", "F": "end", "H": "home"}
_NUMBERED: Final = {"1": "home", "7": "home", "4": "end", "8": "end"}
#: What a keypad sends in application mode: ``SS3`` and one of these.
_KEYPAD: Final = {
    **{chr(0x70 + n): str(n) for n in range(10)},
    "k": "+",
    "m": "-",
    "n": ".",
    "o": "/",
    "M": "\r",
}
#: Keys without a printable character, by their code in the protocols of kitty and xterm.
_CONTROLS: Final = {9: "\t", 13: "\r", 27: "\x1b", 127: "\x7f"}
_SEQUENCE: Final = re.compile(r"\x1b\[([<-?]?[0-9:;]*[ -/]*)([@-~])", re.DOTALL)
_BEGUN: Final = re.compile(r"\x1b(\[[<-?]?[0-9:;]*[ -/]*|O)?")
#: Code, modifiers and event (3: released) of the keyboard protocol of kitty.
_KITTY: Final = re.compile(r"([0-9]{1,7})(?::[0-9:]*)?(?:;([0-9]{0,3})(?::([0-9]))?(?:;[0-9:]*)?)?")
#: Longer sequences are not valid.
_LIMIT: Final = 64
_PASTE_END: Final = "\x1b[201~"


class KeyReader:
    """Parses terminal input into keys: characters, and names such as ``left``."""

    def __init__(self) -> None:
        self._rest = ""
        self._pasting = False

    def feed(self, data: bytes) -> list[str]:
        """Return the keys that are complete; a lone ``ESC`` waits for what follows it."""
        self._rest += data.decode("latin-1")
        keys: list[str] = []
        while self._rest:
            before = self._rest
            key = self._next()
            if key:
                keys.append(key)
            if self._rest == before:
                break
        return keys

    def _next(self) -> str:
        """Remove one key or report from the front."""
        text = self._rest
        if self._pasting:
            return self._pasted(text)
        if text[0] != "\x1b":
            self._rest = text[1:]
            return text[0]
        if text.startswith("\x1b[M"):  # the oldest report of the mouse: three bytes follow
            self._rest = text if len(text) < 6 else text[6:]
            return ""
        if found := _SEQUENCE.match(text):
            self._rest = text[found.end() :]
            return self._sequence(*found.groups())
        if text[1:2] == "O" and len(text) > 2:
            self._rest = text[3:]
            return _FINALS.get(text[2]) or _KEYPAD.get(text[2], "")
        if len(text) > _LIMIT or not _BEGUN.fullmatch(text):
            self._rest = text[1:]  # ESC by itself, or Alt and a key
        return ""

    def _pasted(self, text: str) -> str:
        """Remove one character of what is pasted, or the end of it."""
        if text.startswith(_PASTE_END):
            self._pasting, self._rest = False, text[len(_PASTE_END) :]
            return ""
        if text[0] == "\x1b" and _PASTE_END.startswith(text):
            return ""  # the end may follow
        self._rest = text[1:]
        return text[0] if " " <= text[0] != "\x7f" else ""

    def _sequence(self, parameters: str, final: str) -> str:
        first, *others = parameters.split(";")
        if final == "~" and first == "200":
            self._pasting = True
        elif final == "~" and first == "27" and len(others) == 2:  # xterm's modifyOtherKeys
            return _kitty(f"{others[1]};{others[0]}")
        elif final == "~":
            return _NUMBERED.get(first, "")
        elif final == "u":
            return _kitty(parameters)
        elif parameters[:1] not in {"<", "=", ">", "?"} and not _released(others):
            return _FINALS.get(final, "")
        return ""


def _released(others: list[str]) -> bool:
    """Whether kitty's protocol reports the release of a key (event 3)."""
    return bool(others) and others[0].partition(":")[2] == "3"


def _kitty(parameters: str) -> str:
    """Return the key of ``CSI code;modifiers u``; with Ctrl the control character."""
    found = _KITTY.fullmatch(parameters)
    if found is None:
        return ""
    code, control = int(found[1]), bool((int(found[2] or 1) - 1) & 4)
    if found[3] == "3":
        return ""
    if not 0x20 <= code < 0x7F:
        return _CONTROLS.get(code, "")
    return chr(code & 0x1F) if control else chr(code)
