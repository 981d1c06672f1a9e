"""How is a number of bytes written in configuration and resources? As ``64KiB`` or ``1GiB``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from attrs import frozen

from tele.errors import quoted
from tele.model.scalars import whole

SIZE_UNITS: Final = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}

_SIZE: Final = re.compile(r"0|([0-9]{1,6})(KiB|MiB|GiB|TiB)", re.ASCII)
#: What :func:`read_size` reads, in JSON Schema.
SIZE_SCHEMA: Final[Mapping[str, Any]] = {
    "type": "string",
    "description": "a number of bytes such as 64KiB or 1MiB",
    "pattern": whole(_SIZE.pattern),
}


@frozen
class Size:
    """Bytes, as ``64KiB``, ``512MiB``, ``1GiB`` or ``2TiB``; ``0`` where that means none."""

    bytes: int

    def __str__(self) -> str:
        for unit, factor in reversed(SIZE_UNITS.items()):
            if self.bytes and self.bytes % factor == 0:
                return f"{self.bytes // factor}{unit}"
        return str(self.bytes)


def read_size(text: str) -> Size:
    """Read what :class:`Size` writes. Raises ValueError for anything else."""
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ValueError(f"{quoted(text)} is not a size such as 512MiB, 1GiB or 2TiB")
    return Size(int(match[1]) * SIZE_UNITS[match[2]] if match[1] else 0)
