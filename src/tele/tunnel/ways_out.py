"""How does a connection leave a network that does not let everybody out?

Laws of this file:

* A name is resolved anew for each connection: whoever moved is found.
* What a proxy of the network answers is bounded, and a refusal of its is told in its words.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.interfaces import IStreamClientEndpoint

from tele.conch.sockets import DirectReactor
from tele.https.blocking import split_address


def dial(
    reactor: Any, address: str, seconds: float, default_port: int = 3080
) -> IStreamClientEndpoint:
    """Return an endpoint to ``host:port``, with sockets of ours; it waits for ``seconds``."""
    host, port = split_address(address, default_port)
    endpoint: IStreamClientEndpoint = HostnameEndpoint(
        DirectReactor(reactor), host, port, timeout=seconds
    )
    return endpoint
