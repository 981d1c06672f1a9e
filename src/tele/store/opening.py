"""Which store does a ``kind:arguments`` string name?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tele.errors import InvalidInput, quoted
from tele.interfaces import IBackend
from tele.store.memory import MemoryBackend
from tele.store.sqlite import SqliteBackend


def open_backend(text: str, reactor: Any, folder: Path) -> IBackend:
    """Open ``memory``, ``sqlite`` (the file ``auth.sqlite`` in ``folder``) or ``sqlite:PATH``.

    A relative path counts from ``folder``. Raises :class:`InvalidInput` for other kinds
    and :class:`tele.errors.Unavailable` for a file that cannot be used.
    """
    kind, _, rest = text.partition(":")
    if kind == "memory" and not rest:
        return MemoryBackend(reactor)
    if kind == "sqlite":
        return SqliteBackend(folder / (rest or "auth.sqlite"), reactor)
    raise InvalidInput(f"{quoted(text)} is not a store: expected sqlite, sqlite:PATH or memory")
