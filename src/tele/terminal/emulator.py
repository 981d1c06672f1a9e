"""How are bytes that a program wrote applied to a screen? As xterm does.

The syntax is that of ECMA-48 with DEC's additions, in UTF-8. Sequences that request a reply, or
affect more than the screen (titles, clipboard, keyboard, mouse, printers, window), are parsed and
have no effect.

Invariants:

* Any bytes are accepted, in pieces of any length, with the same result.
* Of a sequence only its numbers are stored, and a bounded count of them.
"""

from __future__ import annotations

import codecs
import re
import unicodedata
from collections.abc import Callable
from typing import Final

from tele.terminal.screen import Screen

#: Numbers of one sequence that are used, and the largest value of each.
_PARAMETERS_LIMIT: Final = 32
_NUMBER_LIMIT: Final = 9999
#: Length limits of a sequence and of a control string; what follows is text again.
_SEQUENCE_LIMIT: Final = 256
_STRING_LIMIT: Final = 1024 * 1024
_TEXT: Final = re.compile(r"[^\x00-\x1f\x7f-\x9f]+")
_NOT_SHOWN: Final = frozenset(("Cf", "Zl", "Zp", "Cs"))


class Emulator:
    """Applies output to ``screen``."""

    def __init__(self, screen: Screen) -> None:
        self.screen = screen
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._state: Callable[[str], None] | None = None
        self._sequence = ""
        self._length = 0

    def copy(self) -> Emulator:
        """Return a copy in the same state."""
        made = Emulator(self.screen.copy())
        made._decoder.setstate(self._decoder.getstate())
        # A bound method of this one becomes the same method of the other.
        made._state = None if self._state is None else getattr(made, self._state.__name__)
        made._sequence, made._length = self._sequence, self._length
        return made

    @property
    def settled(self) -> bool:
        """Whether no sequence and no character is incomplete."""
        return self._state is None and not self._decoder.getstate()[0]

    def feed(self, data: bytes) -> None:
        """Apply bytes that a program wrote."""
        text = self._decoder.decode(data)
        position = 0
        while position < len(text):
            if self._state is None and (found := _TEXT.match(text, position)):
                self._print(found[0])
                position = found.end()
                continue
            if self._state is None:
                self._control(text[position])
            else:
                self._state(text[position])
            position += 1

    def _print(self, text: str) -> None:
        if not text.isascii():
            text = "".join(map(_shown, text))
        if text:
            self.screen.print(text)

    # -- control characters ---------------------------------------------------------------
    def _control(self, character: str) -> None:
        screen = self.screen
        if character == "\x1b":
            self._begin(self._escape)
        elif character in "\n\x0b\x0c":
            screen.line_feed()
        elif character == "\r":
            screen.to_column(0)
        elif character == "\b":
            screen.to_column(screen.column - 1)
        elif character == "\t":
            screen.tab(1)
        elif character in "\x0e\x0f":
            screen.shift = 1 if character == "\x0e" else 0
        elif character >= "\x80":  # C1: ESC and a letter in one
            self._escape_final(chr(ord(character) - 0x40))

    def _begin(self, state: Callable[[str], None]) -> None:
        self._state, self._sequence, self._length = state, "", 0

    def _interrupts(self, character: str) -> bool:
        """Whether a character within a sequence is not part of it; then it was executed."""
        self._length += 1
        if character in "\x18\x1a" or self._length > _SEQUENCE_LIMIT:
            self._state = None
            return True
        if character == "\x1b":
            self._begin(self._escape)
            return True
        if character < " ":
            self._control(character)
            return True
        return character == "\x7f"

    # -- escape sequences -----------------------------------------------------------------
    def _escape(self, character: str) -> None:
        if self._interrupts(character):
            return
        if " " <= character <= "/":
            self._sequence += character
            return
        self._state = None
        if not self._sequence:
            self._escape_final(character)
        elif self._sequence in "()":
            self.screen.graphics["()".index(self._sequence)] = character == "0"
        elif self._sequence == "#" and character == "8":
            self.screen.align()

    def _escape_final(self, character: str) -> None:
        screen = self.screen
        if character == "[":
            self._begin(self._csi)
        elif character in "]PX^_k":  # OSC, DCS, SOS, PM, APC, and screen's title
            self._begin(self._string)
        elif character == "7":
            screen.save_cursor()
        elif character == "8":
            screen.restore_cursor()
        elif character == "D":
            screen.line_feed()
        elif character == "E":
            screen.line_feed(returns=True)
        elif character == "H":
            screen.tabs.add(screen.column)
        elif character == "M":
            screen.reverse_line_feed()
        elif character == "c":
            screen.reset()

    def _string(self, character: str) -> None:
        """Skip a control string; none has an effect on the screen."""
        self._length += 1
        if character == "\x1b":
            self._begin(self._escape)  # ESC \ is the end, and does nothing
        elif character in "\x07\x18\x1a\x9c" or self._length > _STRING_LIMIT:
            self._state = None

    # -- control sequences ----------------------------------------------------------------
    def _csi(self, character: str) -> None:
        if self._interrupts(character):
            return
        if " " <= character <= "?":
            self._sequence += character
            return
        self._state = None
        found = re.fullmatch(r"([<-?]*)([0-9:;]*)([ -/]*)", self._sequence)
        if found is None:
            return
        private, numbers, intermediate = found.groups()
        parameters = [
            [min(int(part[:8] or 0), _NUMBER_LIMIT) for part in each.split(":")]
            for each in numbers.split(";")[:_PARAMETERS_LIMIT]
        ]
        if (private, intermediate) == ("", ""):
            self._csi_final(character, parameters)
        elif (private, intermediate) == ("?", "") and character in "hl":
            for each in parameters:
                self._private_mode(each[0], character == "h")
        elif (private, intermediate) == ("?", "") and character in "JK":
            self._csi_final(character, parameters)
        elif (private, intermediate, character) == ("", "!", "p"):
            self.screen.soft_reset()

    def _csi_final(self, final: str, parameters: list[list[int]]) -> None:
        screen = self.screen
        first = parameters[0][0]
        count = first or 1
        second = parameters[1][0] if len(parameters) > 1 else 0
        if final == "m":
            screen.set_style(screen.style.changed(parameters))
        elif final in "Hf":
            screen.to(count - 1, (second or 1) - 1)
        elif final in "AkBeCaDj":
            rows = {"A": -count, "k": -count, "B": count, "e": count}.get(final, 0)
            columns = {"C": count, "a": count, "D": -count, "j": -count}.get(final, 0)
            screen.move(rows, columns)
        elif final in "EF":
            screen.move(count if final == "E" else -count)
            screen.to_column(0)
        elif final in "G`":
            screen.to_column(count - 1)
        elif final == "d":
            screen.to_row(count - 1)
        elif final == "J":
            screen.erase_in_display(first)
        elif final == "K":
            screen.erase_in_line(first)
        elif final == "r":
            screen.margins(count - 1, (second or screen.rows) - 1)
        elif final == "b":
            screen.repeat(count)
        elif final in "IZ":
            screen.tab(count if final == "I" else -count)
        elif final == "g":
            screen.tabs = screen.tabs - {screen.column} if first == 0 else set()
        elif final in "hl":
            self._mode(parameters, final == "h")
        elif final == "s":
            screen.save_cursor()
        elif final == "u":
            screen.restore_cursor()
        elif final in _COUNTED:
            _COUNTED[final](screen, count)

    def _mode(self, parameters: list[list[int]], on: bool) -> None:
        for number, *_ in parameters:
            if number == 4:
                self.screen.insert = on
            elif number == 20:
                self.screen.newline = on

    def _private_mode(self, number: int, on: bool) -> None:
        screen = self.screen
        if number == 6:
            screen.origin = on
            screen.to(0, 0)
        elif number == 7:
            screen.wraps = on
        elif number == 25:
            screen.visible = on
        elif number in (47, 1047):
            screen.switch(on)
        elif number == 1048 or (number == 1049 and on):
            (screen.save_cursor if on else screen.restore_cursor)()
        if number == 1049:
            screen.switch(on, clear=True)
            if not on:
                screen.restore_cursor()


_COUNTED: Final[dict[str, Callable[[Screen, int], None]]] = {
    "@": Screen.insert_blanks,
    "L": Screen.insert_lines,
    "M": Screen.delete_lines,
    "P": Screen.delete_characters,
    "S": Screen.scroll_up,
    "T": Screen.scroll_down,
    "X": Screen.erase_characters,
}


def _shown(character: str) -> str:
    """Return a character as it may be shown; nothing if it reorders text or is invisible."""
    category = unicodedata.category(character)
    if category in _NOT_SHOWN:
        return ""
    return {"Cn": "\ufffd", "Zs": " "}.get(category, character)
