"""What is known of one key of the configuration: its meaning, its default, and what it may be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from attrs import field


def key(
    meaning: str,
    default: Any = ...,
    *,
    port: int = 0,
    check: Callable[[Any], str] | None = None,
    single: bool = False,
) -> Any:
    """Define one key. ``port`` is the default port of an address.

    ``check`` returns what is wrong with a value of the right type, or nothing. ``single``: one
    value may be given in place of a list.
    """
    metadata = {"meaning": meaning, "port": port, "check": check, "single": single}
    if default is ...:
        return field(metadata=metadata)
    return field(default=default, metadata=metadata)
