"""How does the node get sockets that are made as the user?

Invariant: the node touches no path. A child of the spawner, which became the account for good,
connects or listens, and passes the socket back.
"""

from __future__ import annotations

import socket as sockets

from attrs import frozen

from tele.errors import Unavailable
from tele.node.spawning import Launch, Spawning
from tele.spawner.spawn_messages import receive


@frozen
class UserListener:
    """A socket that listens at ``path``, which is removed when :meth:`close` is called."""

    path: bytes
    socket: sockets.socket
    _holder: sockets.socket

    def close(self) -> None:
        """Let the child remove the path. The socket is closed by its owner."""
        self._holder.close()


@frozen
class UserSockets:
    """Makes UNIX sockets as ``login``.

    All of it fails as :meth:`tele.node.spawning.Spawning.start` does, with the system's reason.
    """

    _spawning: Spawning
    _login: str

    async def connect(self, path: bytes) -> sockets.socket:
        """Return a socket that is connected to ``path``."""
        control, made, _ = await self._ask("connect", path)
        control.close()
        return made

    async def listen(self, path: bytes) -> UserListener:
        """Listen at ``path``, where nothing may be."""
        control, made, _ = await self._ask("listen", path)
        return UserListener(path, made, control)

    async def listen_for_agent(self) -> UserListener:
        """Listen in a fresh private folder."""
        control, made, path = await self._ask("agent")
        return UserListener(path, made, control)

    async def _ask(self, kind: str, *words: bytes) -> tuple[sockets.socket, sockets.socket, bytes]:
        """Return the child's other end, the socket and its path."""
        try:
            ours, theirs = sockets.socketpair(sockets.AF_UNIX, sockets.SOCK_SEQPACKET)
        except OSError as error:
            raise Unavailable(f"the node cannot make a socket: {error.strerror}") from None
        ours.setblocking(False)
        try:
            launch = Launch(kind, self._login, words)
            await self._spawning.start(launch, (theirs.detach(),))
            # It was sent before we were told that it started.
            path, descriptors, flags = receive(ours, 1)
            if not descriptors and flags & sockets.MSG_CTRUNC:
                raise Unavailable("the node has no file descriptors left for a socket")
            if not descriptors:
                raise Unavailable("the socket did not arrive")
        except BaseException:
            ours.close()
            raise
        return ours, sockets.socket(fileno=descriptors[0]), path
