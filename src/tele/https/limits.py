"""How much may the callers of the API use?"""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from attrs import frozen

#: A longer body is read only after the handler has checked its caller.
UNCHECKED_BODY: Final = 16 * 1024
#: Seconds that a member's request waits for its share of work, before it is refused.
LONGEST_WAIT: Final = 5.0


@frozen
class Limits:
    """Bounds of the server.

    ``backlog`` is how many bytes a stream may be ahead of its reader, ``backlogs`` the same for
    all streams together; ``silence`` how long a peer may leave what was sent to it
    unacknowledged, ``last_answers`` how long responses are waited for when the server closes, and
    how long a peer has to close a connection after the last response.

    What ends in ``per_caller`` is the share of one user or one host: connections, streams
    (with more, the oldest ends), bytes of bodies, and bytes of responses that were not read yet.
    ``units_burst`` and ``units_per_second`` are what they may ask for
    (:attr:`tele.model.api.operation.Operation.cost`). Clients without a certificate share
    ``unauthenticated_units_burst`` and ``unauthenticated_units_per_second`` with all others of
    their network. ``handshakes_burst`` and ``handshakes_per_second`` are those of a network that do
    not end in a member's certificate; a network from which a member connected, as a whole fleet may
    at once, has ``member_source_factor`` times that.
    """

    handshake: timedelta = timedelta(seconds=15)
    head: timedelta = timedelta(seconds=15)
    idle: timedelta = timedelta(seconds=75)
    keepalive: timedelta = timedelta(seconds=15)
    silence: timedelta = timedelta(seconds=45)
    last_answers: timedelta = timedelta(seconds=5)
    head_bytes: int = 16 * 1024
    headers: int = 64
    connections: int = 65536
    unauthenticated: int = 512
    backlog: int = 8 * 1024 * 1024
    backlogs: int = 512 * 1024 * 1024
    ahead: int = 16 * 1024
    connections_per_caller: int = 256
    streams_per_caller: int = 16
    bodies: int = 512 * 1024 * 1024
    bodies_per_caller: int = 32 * 1024 * 1024
    answers_per_caller: int = 32 * 1024 * 1024
    units_burst: int = 2000
    units_per_second: int = 200
    handshakes_burst: int = 2000
    handshakes_per_second: int = 100
    member_source_factor: int = 10
    unauthenticated_units_burst: int = 2000
    unauthenticated_units_per_second: int = 100
