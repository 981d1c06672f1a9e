"""Completion of node names in the shell.

Invariants:

* Names that are less than a minute old come from a file; otherwise auth is asked, for two seconds
  at most, and the file is used if there is no answer.
* A completion never fails, and prints nothing but valid names: the shell puts them on the command
  line unquoted.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tele.cli.home import Home, is_name
from tele.errors import TeleError

if TYPE_CHECKING:
    import click

    from tele.cli.auth_client import Where

#: How long names in the file are used, and how long to wait for auth.
FRESH_SECONDS = 60.0
PATIENCE = 2.0


def _file(home: Home, where: Where) -> Path | None:
    profile = home.chosen(where.cluster, where.proxy, where.user)
    # No user has that name: names begin with a letter or a digit.
    return None if profile is None else home.files(profile).folder / ".nodes"


def remember(names: Iterable[str], where: Where) -> None:
    """Write the names of all nodes for the next completion."""
    home = Home.find()
    path = _file(home, where)
    if path is not None:
        home.write(path, "".join(f"{name}\n" for name in names if is_name(name)))


def known_names(where: Where) -> list[str]:
    """Return the names of the nodes: from the file if it is fresh, or if auth does not answer."""
    home = Home.find()
    try:
        path = _file(home, where)
        if path is None:
            return []
        known = path.read_text("utf-8").split() if path.exists() else []
        names = [name for name in known if is_name(name)]
        # A time in the future is from before the clock was set back.
        if names and 0 <= time.time() - path.stat().st_mtime < FRESH_SECONDS:
            return names
    except (TeleError, OSError, ValueError):
        return []
    try:
        with _patience(PATIENCE):
            from tele.cli.node_lists import all_nodes

            names = [host.name for host in all_nodes(where) if is_name(host.name)]
        remember(names, where)
    except (TeleError, OSError):
        return names
    return names


@contextmanager
def _patience(seconds: float) -> Iterator[None]:
    """Raise :class:`TimeoutError` inside of the block after ``seconds``."""

    def late(*_: Any) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def complete_node(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    """Complete ``NODE`` or ``LOGIN@NODE``; for click's ``shell_complete``."""
    from tele.cli.auth_client import Where

    if home := ctx.find_root().params.get("home"):
        os.environ["TELE_HOME"] = home  # completion does not run `tele`, which sets it otherwise
    where = Where(ctx.params.get("cluster"), ctx.params.get("proxy"), ctx.params.get("user"))
    login, at, prefix = incomplete.rpartition("@")
    return [f"{login}{at}{name}" for name in known_names(where) if name.startswith(prefix)]
