"""What may the API's callers cost its server?"""

from __future__ import annotations

from datetime import timedelta

from attrs import frozen


@frozen
class Limits:
    """Bounds of the server. A stranger is a connection without a client certificate.

    ``backlog`` is how many bytes a stream may be ahead of its reader, ``backlogs`` the same for
    all streams together; ``silence`` how long a peer may leave what was sent to it
    unacknowledged, ``last_answers`` how long answers are waited for when the server closes, and
    how long a peer has to leave that was told to.

    What ends in ``per_caller`` is one person's or one machine's share: connections, streams
    (with more, the oldest ends), bytes of bodies, and bytes of answers that were not read yet.
    ``units_burst`` and ``units_per_second`` are what they may ask for
    (:attr:`tele.model.api.operation.Operation.cost`); of strangers, all from one network have
    ``stranger_units_burst`` and ``stranger_units_per_second``. ``handshakes_burst`` and
    ``handshakes_per_second`` are those of a network that do not end in a member's certificate; a
    network from which a member came, as a whole fleet may at once, has ``home_factor`` times that.
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
    strangers: int = 512
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
    home_factor: int = 10
    stranger_units_burst: int = 2000
    stranger_units_per_second: int = 100
