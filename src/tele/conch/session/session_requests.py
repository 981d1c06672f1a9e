"""How are the data of a session's requests read (RFC 4254, sections 6.2, 6.10 and 8)?

Invariant: what is read has limits; malformed fields are a :class:`tele.errors.ProtocolError`.
"""

from __future__ import annotations

from typing import Final

from tele.conch.session.programs import PtyRequest
from tele.wire.fields import Reader

TERM_LIMIT: Final = 128
#: Rows and columns; of pixels the kernel takes 16 bits.
SIZE_LIMIT: Final = 10_000
PIXEL_LIMIT: Final = 65_535
#: Terminal modes; fewer opcodes have an argument of a known length.
MODES_LIMIT: Final = 160

#: Signals that RFC 4254, section 6.10, names.
_SIGNALS: Final = frozenset((
    "ABRT", "ALRM", "FPE", "HUP", "ILL", "INT", "KILL", "PIPE", "QUIT", "SEGV", "TERM",
    "USR1", "USR2",
))  # fmt: skip
_TTY_OP_END: Final = 0
#: RFC 4254, section 8: from here on opcodes have arguments of unknown length.
_TTY_OP_UNKNOWN: Final = 160


def read_modes(data: bytes) -> tuple[tuple[int, int], ...]:
    """Read encoded terminal modes up to their end or the first undefined opcode; at most
    MODES_LIMIT of them.
    """
    reader = Reader(data)
    modes: list[tuple[int, int]] = []
    while not reader.at_end() and len(modes) < MODES_LIMIT:
        opcode = reader.byte()
        if opcode == _TTY_OP_END or opcode >= _TTY_OP_UNKNOWN:
            break
        modes.append((opcode, reader.uint32()))
    return tuple(modes)


def read_size(reader: Reader) -> tuple[int, int, int, int]:
    """Read a terminal's columns, rows, width and height in pixels, cut to the limits."""
    columns, rows, width, height = (reader.uint32() for _ in range(4))
    characters = min(columns, SIZE_LIMIT), min(rows, SIZE_LIMIT)
    return (*characters, min(width, PIXEL_LIMIT), min(height, PIXEL_LIMIT))


def read_pty(reader: Reader) -> PtyRequest | None:
    """Read a ``pty-req``; None if its TERM cannot be used."""
    term = reader.string()
    size = read_size(reader)
    modes = read_modes(reader.string())
    if len(term) > TERM_LIMIT or not term.isascii() or not term.decode("ascii").isprintable():
        return None
    return PtyRequest(term.decode("ascii"), *size, modes)


def signal_name(name: str) -> str:
    """Return ``name`` as ``exit-signal`` has it: one that the RFC does not name is of a domain."""
    return name if name in _SIGNALS or "@" in name else f"{name}@tele"
