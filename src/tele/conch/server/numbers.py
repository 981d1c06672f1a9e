"""Which numbers do the SSH servers of a part have?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from tele.conch.server.factory import SSHServerFactory
from tele.conch.server.transport import SSHServerTransport
from tele.measures import catalogue
from tele.measures.metric import Sample


def server_samples(
    factory: SSHServerFactory, others: Iterable[SSHServerTransport] = ()
) -> Iterator[Sample]:
    """Return the connections to the server of ``factory``, and the ``others`` of the part."""
    present = [*factory.present, *others]
    authenticated = sum(each.isAuthenticated for each in present)
    yield catalogue.CONNECTIONS.at(authenticated, "authenticated")
    yield catalogue.CONNECTIONS.at(len(present) - authenticated, "unauthenticated")
