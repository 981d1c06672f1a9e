"""How does untrusted text reach a terminal, or a log? Through these functions only.

Nodes, users, clients, files and API responses choose names, labels, messages and commands. They
may hold control sequences, and characters that reorder text.

Invariants:

* The result moves no cursor, ends no line and reorders no text.
* Nothing is removed: a character that is not shown as it is, is shown as an escape.
"""

from __future__ import annotations

import json
import unicodedata
from typing import Final

#: Marks (accents) on one letter. No language needs more; a flood of them covers other lines.
MARKS_LIMIT: Final = 8
#: Characters that Python calls printable and that show nothing: fillers and joiners, variation
#: selectors but the two of emoji. Text that hides in them would be copied unseen.
_INVISIBLE: Final = frozenset(
    map(
        chr,
        (
            *(0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x2800, 0x3164, 0xFFA0),
            *range(0x180B, 0x1810),
            *range(0xFE00, 0xFE0E),
            *range(0xE0100, 0xE01F0),
        ),
    )
)


def printable(text: object) -> str:
    r"""Return ``text`` as one line without control sequences.

    Control and format characters (bidirectional ones too), line ends, surrogates and unassigned
    characters are shown as ``\x1b``, ``\u202e`` or ``\U000e0001``, as are more than
    :data:`MARKS_LIMIT` accents on one letter; other spaces become spaces.
    """
    line = str(text)
    if line.isascii() and line.isprintable():
        return line
    shown: list[str] = []
    marks = 0
    for character in line:
        mark = unicodedata.category(character) in ("Mn", "Me")
        marks = marks + 1 if mark else 0
        if marks > MARKS_LIMIT or character in _INVISIBLE:
            shown.append(_escape(character))
        elif character.isprintable():
            shown.append(character)
        else:
            shown.append(" " if unicodedata.category(character) == "Zs" else _escape(character))
    return "".join(shown)


def printable_lines(text: object) -> str:
    """Return ``text`` with each of its lines :func:`printable`; they end with LF or CR LF."""
    return "\n".join(map(printable, str(text).replace("\r\n", "\n").split("\n")))


def printable_json(value: object, indent: int | None = None) -> str:
    """Return JSON that is safe on a terminal: ASCII, and no DEL."""
    return json.dumps(value, indent=indent).replace("\x7f", "\\u007f")


def duration(seconds: float) -> str:
    """Return a length of time in its two largest units: ``3 h 2 min``, ``40 s``."""
    left = round(seconds)
    step = 1 if left < 3600 else 60 if left < 86400 else 3600
    left = round(left / step) * step
    parts = []
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        count, left = divmod(left, size)
        if count:
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2]) or "0 s"


def difference(ahead: float) -> str:
    """Return how far a clock is ahead of or behind another: ``3 h behind``."""
    return f"{duration(abs(ahead))} {'ahead of' if ahead > 0 else 'behind'}"


def _escape(character: str) -> str:
    code = ord(character)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
