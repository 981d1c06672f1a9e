"""Is what a program wrote without a terminal text, or data such as an archive or a file?

Invariant: it is decided by the bytes, never by the name of the program.
"""

from __future__ import annotations

from typing import Final

#: What a replay shows once in place of data; the size and the SHA-256 follow when the program ends.
BINARY_LINE: Final = "binary output"
#: Bytes that are looked at; fewer than ``SHORTEST`` characters are text.
_LOOKED_AT: Final = 4096
_SHORTEST: Final = 16
#: Of so many characters one that text has not makes it data.
_ONE_OF: Final = 4
#: Characters that text has not. NUL is not one of them: it separates names (``find -print0``).
_ODD: Final = frozenset("\ufffd\x7f") | {
    chr(code) for code in range(1, 0x20) if chr(code) not in "\a\b\t\n\v\f\r\x1b"
}


def is_binary(data: bytes) -> bool:
    """Whether ``data`` is no text: a quarter of it is no UTF-8, or control characters."""
    text = data[:_LOOKED_AT].decode("utf-8", "replace")
    return len(text) >= _SHORTEST and sum(map(_ODD.__contains__, text)) * _ONE_OF > len(text)
