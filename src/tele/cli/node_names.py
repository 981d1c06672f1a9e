"""Which names does the shell complete where a node is meant?

Invariants:

* Names that were seen within a minute cost no question; older ones are asked for, for two
  seconds at most, and stand in when nobody answers.
* A completion never fails, and says nothing but names: the shell puts them on the command line
  as they are.
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

    from tele.cli.session import Where

#: How long names that were seen are good for, and how long a person waits for new ones.
FRESH_SECONDS = 60.0
PATIENCE = 2.0


def _file(home: Home, where: Where) -> Path | None:
    profile = home.chosen(where.cluster, where.proxy, where.user)
    # No user is called that: a name begins with a letter or a digit.
    return None if profile is None else home.files(profile).folder / ".nodes"


def remember(names: Iterable[str], where: Where) -> None:
    """Keep the names of all nodes for the next completion."""
    home = Home.find()
    path = _file(home, where)
    if path is not None:
        home.write(path, "".join(f"{name}\n" for name in names if is_name(name)))


def known_names(where: Where) -> list[str]:
    """Return the names of the nodes; what was kept if it is fresh, or nobody answers."""
    home = Home.find()
    try:
        path = _file(home, where)
        if path is None:
            return []
        known = path.read_text("utf-8").split() if path.exists() else []
        kept = [name for name in known if is_name(name)]
        # What was written in the future is of before the clock was set back.
        if kept and 0 <= time.time() - path.stat().st_mtime < FRESH_SECONDS:
            return kept
    except (TeleError, OSError, ValueError):
        return []
    try:
        with _patience(PATIENCE):
            from tele.cli.nodes import all_nodes

            names = [host.name for host in all_nodes(where) if is_name(host.name)]
        remember(names, where)
    except (TeleError, OSError):
        return kept
    return names


@contextmanager
def _patience(seconds: float) -> Iterator[None]:
    """End what is inside with :class:`TimeoutError` after so long."""

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
    from tele.cli.session import Where

    if home := ctx.find_root().params.get("home"):
        os.environ["TELE_HOME"] = home  # a completion calls no command, so not `tele` either
    where = Where(ctx.params.get("cluster"), ctx.params.get("proxy"), ctx.params.get("user"))
    login, at, begun = incomplete.rpartition("@")
    return [f"{login}{at}{name}" for name in known_names(where) if name.startswith(begun)]
