"""Styles of characters: Select Graphic Rendition (ECMA-48, 8.3.117), as xterm has it.

A style is the text of the parameters of one SGR sequence, such as ``1;31``; the empty text is the
default. Equal styles have equal texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from attrs import evolve, frozen

#: Attributes that are on or off: the number that sets each, and the one that resets it.
_ON: Final = {1: "bold", 2: "faint", 3: "italic", 4: "underline", 5: "blink", 7: "inverse",
              8: "conceal", 9: "crossed", 21: "underline", 53: "overline"}  # fmt: skip
_OFF: Final = {22: ("bold", "faint"), 23: ("italic",), 24: ("underline",), 25: ("blink",),
               27: ("inverse",), 28: ("conceal",), 29: ("crossed",), 55: ("overline",)}  # fmt: skip
_NUMBER: Final = {name: number for number, name in _ON.items() if number != 21}


@frozen
class Style:
    """A style. Colours are parameters of SGR, or empty: ``31``, ``38;5;200``, ``48;2;1;2;3``."""

    attributes: frozenset[str] = frozenset()
    foreground: str = ""
    background: str = ""

    @property
    def sgr(self) -> str:
        """Return the parameters that set this style after a reset."""
        numbers = sorted(_NUMBER[name] for name in self.attributes)
        return ";".join([*map(str, numbers), *filter(None, (self.foreground, self.background))])

    def changed(self, parameters: Sequence[Sequence[int]]) -> Style:
        """Return this style after one SGR sequence.

        ``parameters`` are those between ``;``, each with its parts between ``:``.
        """
        style = self
        rest = list(parameters) or [[0]]
        while rest:
            number, *parts = rest.pop(0)
            if number in (38, 48, 58):  # 58, of the underline, is not shown
                colour = _colour(parts) if parts else _colour_of(rest)
                if colour and number == 38:
                    style = evolve(style, foreground=f"38;{colour}")
                elif colour:
                    style = evolve(style, background=f"48;{colour}")
            else:
                style = _set(style, number, parts)
        return style


def _set(style: Style, number: int, parts: Sequence[int]) -> Style:
    if number == 0:
        return Style()
    if number == 4 and parts[:1] == [0]:
        return evolve(style, attributes=style.attributes - {"underline"})
    if number in _ON:
        return evolve(style, attributes=style.attributes | {_ON[number]})
    if number in _OFF:
        return evolve(style, attributes=style.attributes - set(_OFF[number]))
    if 30 <= number <= 37 or 90 <= number <= 97:
        return evolve(style, foreground=str(number))
    if 40 <= number <= 47 or 100 <= number <= 107:
        return evolve(style, background=str(number))
    if number == 39:
        return evolve(style, foreground="")
    return evolve(style, background="") if number == 49 else style


def _colour_of(rest: list[Sequence[int]]) -> str:
    """Take a colour from the parameters that follow 38 or 48: ``5;N`` or ``2;R;G;B``."""
    if not rest:
        return ""
    count = {5: 2, 2: 4}.get(rest[0][0], 1)
    taken = [each[0] for each in rest[:count]]
    del rest[:count]
    return _colour(taken)


def _colour(parts: Sequence[int]) -> str:
    """Return ``5;N`` or ``2;R;G;B``; ISO 8613-6 puts a colour space before R."""
    if len(parts) >= 2 and parts[0] == 5:
        values = parts[1:2]
    elif len(parts) >= 4 and parts[0] == 2:
        values = parts[2:5] if len(parts) >= 5 else parts[1:4]
    else:
        return ""
    if any(not 0 <= value <= 255 for value in values):
        return ""
    return ";".join(map(str, (parts[0], *values)))
