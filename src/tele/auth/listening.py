"""Where does auth serve its API: on which port, and on which socket of this machine?"""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path

from twisted.internet.error import CannotListenError

from tele.errors import Unavailable
from tele.https.serve import ApiServer
from tele.model.addresses import Address
from tele.model.identity import UserIdentity


def listen(
    server: ApiServer,
    where: tuple[str, int],
    local_socket: Path | None,
    local_identity: Callable[[int], UserIdentity | None],
) -> int:
    """Listen on ``where`` (host, port), and return the port; and on ``local_socket``, if any.

    ``local_identity(uid)`` is who calls on that socket. Raises :class:`Unavailable`.
    """
    host, port = where
    try:
        port = server.listen(host, port)
    except CannotListenError as error:
        cause = error.socketError
        taken = isinstance(cause, OSError) and cause.errno == errno.EADDRINUSE
        hint = ": is another auth running?" if taken else ""
        text = (cause.strerror if isinstance(cause, OSError) else None) or str(cause)
        raise Unavailable(f"auth cannot listen on {Address(host, port)}: {text}{hint}") from None
    if local_socket is not None:
        try:
            server.listen_local(str(local_socket), local_identity)
        except CannotListenError as error:
            raise Unavailable(
                f"auth cannot listen on {local_socket}: {error.socketError}: is another"
                " auth running with this data_dir?"
            ) from None
    return port
