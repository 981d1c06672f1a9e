"""How does the node get sockets that are made as the user?

Invariants:

* The node touches no path. A child of the spawner, which became the account for good, connects or
  listens, and passes the socket back.
* A child that is not needed any more and does not end is killed: the account may have stopped it.
"""

from __future__ import annotations

import socket as sockets
from collections.abc import Callable
from typing import Final

from attrs import frozen

from tele.errors import Unavailable
from tele.node.spawning import Launch, Spawning
from tele.spawner.spawn_messages import receive

#: Seconds that a child has to remove its path and end.
LINGER: Final = 10.0


@frozen
class UserListener:
    """A socket that listens at ``path``, which is removed when :meth:`close` is called."""

    path: bytes
    socket: sockets.socket
    #: Lets the child remove the path and end. The socket is closed by its owner.
    close: Callable[[], None]


@frozen
class UserSockets:
    """Makes UNIX sockets as ``login``; those of a ``user`` are bounded.

    ``rules`` are those of :mod:`tele.spawner.path_patterns` as JSON; without any, every path is
    allowed. What they do not allow fails with :class:`tele.errors.AccessDenied`.
    All of it fails as :meth:`tele.node.spawning.Spawning.start` does, with the system's reason.
    """

    _spawning: Spawning
    _login: str
    _user: str = ""

    async def connect(self, path: bytes, rules: bytes = b"") -> sockets.socket:
        """Return a socket that is connected to ``path``, if ``rules`` allow where it leads."""
        made = await self._ask("connect", path, *_given(rules))
        made.close()
        return made.socket

    async def listen(self, path: bytes, rules: bytes = b"") -> UserListener:
        """Listen at ``path``, where nothing may be, if ``rules`` allow where that is."""
        return await self._ask("listen", path, *_given(rules))

    async def listen_for_agent(self) -> UserListener:
        """Listen in a fresh private folder."""
        return await self._ask("agent")

    async def _ask(self, kind: str, *words: bytes) -> UserListener:
        """Return what a child of this kind makes."""
        try:
            ours, theirs = sockets.socketpair(sockets.AF_UNIX, sockets.SOCK_SEQPACKET)
        except OSError as error:
            raise Unavailable(f"the node cannot make a socket: {error.strerror}") from None
        ours.setblocking(False)
        try:
            variables = {"TELE_USER": self._user.encode()} if self._user else {}
            launch = Launch(kind, self._login, words, variables)
            running = await self._spawning.start(launch, (theirs.detach(),))
        except BaseException:
            ours.close()
            raise

        def close() -> None:
            ours.close()
            self._spawning.kill_later(running, LINGER)

        try:
            # It was sent before we were told that it started.
            path, descriptors, flags = receive(ours, 1)
            if not descriptors and flags & sockets.MSG_CTRUNC:
                raise Unavailable("the node has no file descriptors left for a socket")
            if not descriptors:
                raise Unavailable("the socket did not arrive")
        except BaseException:
            close()
            raise
        return UserListener(path, sockets.socket(fileno=descriptors[0]), close)


def _given(rules: bytes) -> tuple[bytes, ...]:
    return (rules,) if rules else ()
