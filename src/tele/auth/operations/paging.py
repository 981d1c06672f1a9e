"""How long may a page of a list be?"""

from __future__ import annotations

from typing import Final

from tele.errors import InvalidInput

PAGE_LIMIT: Final = 1000


def page_limit(wanted: int) -> int:
    """Return ``wanted``; raises :class:`InvalidInput` if no page is that long."""
    if not 0 < wanted <= PAGE_LIMIT:
        raise InvalidInput(f"limit has to be from 1 to {PAGE_LIMIT}")
    return wanted
