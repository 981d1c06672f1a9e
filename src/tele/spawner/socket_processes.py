"""How many processes make and hold sockets for users?

Each connection to a path, listener at a path and forwarded agent is a process of the account
(:mod:`tele.spawner.socket_child`), as long as the socket is made or listens.

Invariants:

* Standard library only: the spawner loads it.
* The account may stop such a process, and the node may be wrong about it: it counts until it
  has ended.
* Users who share a login have shares of their own.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

from tele.spawner.spawn_messages import SOCKET_KINDS, Start

#: Processes of one user, over all connections; and of all users.
PER_USER: Final = 256
TOTAL: Final = 4096


class SocketProcesses:
    """The processes that there are, by process id."""

    def __init__(self) -> None:
        self._users: dict[int, tuple[str, str]] = {}
        self._counts: Counter[tuple[str, str]] = Counter()

    def refusal(self, start: Start) -> str:
        """Return why ``start`` would be one process too many; nothing if it is not."""
        if start.kind not in SOCKET_KINDS:
            return ""
        user, login = _user_of(start)
        if self._counts[user, login] >= PER_USER:
            return (
                f"{user!r} has {PER_USER} processes for forwarded sockets and agents as {login!r}"
                " here: close some"
            )
        if len(self._users) >= TOTAL:
            return (
                f"all users have {TOTAL} processes for forwarded sockets and agents here: try"
                " again later"
            )
        return ""

    def add(self, pid: int, start: Start) -> None:
        """Count a process that was started."""
        if start.kind in SOCKET_KINDS:
            self._users[pid] = _user_of(start)
            self._counts[_user_of(start)] += 1

    def reaped(self, pid: int) -> None:
        """A process has ended; any."""
        user = self._users.pop(pid, None)
        if user is not None:
            self._counts[user] -= 1
            if not self._counts[user]:
                del self._counts[user]


def _user_of(start: Start) -> tuple[str, str]:
    user = start.environment.get("TELE_USER", b"").decode("utf-8", "replace")
    return user or start.login, start.login
