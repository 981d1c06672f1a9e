"""What is a terminal as SSH asks for it, in terms of this machine (RFC 4254, 6.2 and 8)?

Invariants:

* Whatever a client asks for, the worst is a terminal with default modes and a size that
  fits into 16 bits.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import termios
from collections.abc import Iterable
from typing import Any, Final

from tele.conch.session.programs import PtyRequest

_CHARACTERS: Final = {
    1: "VINTR", 2: "VQUIT", 3: "VERASE", 4: "VKILL", 5: "VEOF", 6: "VEOL", 7: "VEOL2",
    8: "VSTART", 9: "VSTOP", 10: "VSUSP", 12: "VREPRINT", 13: "VWERASE", 14: "VLNEXT",
    16: "VSWTC", 18: "VDISCARD",
}  # fmt: skip
#: Opcode to (index of the word in termios.tcgetattr, name of the flag).
_FLAGS: Final = {
    30: (0, "IGNPAR"), 31: (0, "PARMRK"), 32: (0, "INPCK"), 33: (0, "ISTRIP"), 34: (0, "INLCR"),
    35: (0, "IGNCR"), 36: (0, "ICRNL"), 37: (0, "IUCLC"), 38: (0, "IXON"), 39: (0, "IXANY"),
    40: (0, "IXOFF"), 41: (0, "IMAXBEL"), 42: (0, "IUTF8"),
    50: (3, "ISIG"), 51: (3, "ICANON"), 52: (3, "XCASE"), 53: (3, "ECHO"), 54: (3, "ECHOE"),
    55: (3, "ECHOK"), 56: (3, "ECHONL"), 57: (3, "NOFLSH"), 58: (3, "TOSTOP"), 59: (3, "IEXTEN"),
    60: (3, "ECHOCTL"), 61: (3, "ECHOKE"), 62: (3, "PENDIN"),
    70: (1, "OPOST"), 71: (1, "OLCUC"), 72: (1, "ONLCR"), 73: (1, "OCRNL"), 74: (1, "ONOCR"),
    75: (1, "ONLRET"), 92: (2, "PARENB"), 93: (2, "PARODD"),
}  # fmt: skip
_SIZES: Final = {90: termios.CS7, 91: termios.CS8}
_SPEEDS: Final = {128: 4, 129: 5}
#: Flags of Linux that older versions of the module do not name.
_UNNAMED: Final = {"IUTF8": 0o40000, "ECHOCTL": 0o1000, "ECHOKE": 0o4000, "PENDIN": 0o40000}
_NO_CHARACTER: Final = 255


def open_terminal(request: PtyRequest) -> tuple[int, int]:
    """Return master (non-blocking) and slave of a new terminal. Raises OSError."""
    master, slave = os.openpty()
    try:
        os.set_blocking(master, False)
        set_size(master, request.columns, request.rows, request.width, request.height)
        set_modes(slave, request.modes)
    except BaseException:
        os.close(master)
        os.close(slave)
        raise
    return master, slave


def set_size(terminal: int, columns: int, rows: int, width: int, height: int) -> None:
    """Set the size of a terminal in characters and pixels; the foreground gets SIGWINCH."""
    sizes = (min(max(size, 0), 0xFFFF) for size in (rows, columns, width, height))
    with contextlib.suppress(OSError):  # no process has it open
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", *sizes))


def get_size(terminal: int) -> tuple[int, int]:
    """Return columns and rows of a terminal."""
    size = os.get_terminal_size(terminal)
    return size.columns, size.lines


def set_modes(terminal: int, modes: Iterable[tuple[int, int]]) -> None:
    """Apply the modes that this machine knows; the others are not an error."""
    attributes: list[Any] = termios.tcgetattr(terminal)
    for opcode, argument in modes:
        if opcode in _FLAGS:
            word, name = _FLAGS[opcode]
            flag = getattr(termios, name, _UNNAMED.get(name, 0))
            attributes[word] = attributes[word] & ~flag | (flag if argument else 0)
        elif opcode in _CHARACTERS:
            index = getattr(termios, _CHARACTERS[opcode], None)
            if index is not None and argument <= _NO_CHARACTER:
                off = argument == _NO_CHARACTER
                attributes[6][index] = b"\0" if off else bytes((argument,))
        elif opcode in _SIZES and argument:
            attributes[2] = attributes[2] & ~termios.CSIZE | _SIZES[opcode]
        elif opcode in _SPEEDS:
            speed = getattr(termios, f"B{argument}", None)
            if speed:
                attributes[_SPEEDS[opcode]] = speed
    # In canonical mode the numbers behind VMIN and VTIME are characters; they stay ours.
    with contextlib.suppress(termios.error):
        termios.tcsetattr(terminal, termios.TCSANOW, attributes)
