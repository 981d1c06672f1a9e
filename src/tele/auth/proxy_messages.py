"""How does auth learn the address of a client whose connection a proxy relays?

From the signed client address that a proxy of the cluster sends before TLS.

Invariants:

* One of a proxy that is locked, removed or unknown is ignored, as is one that was used before or is
  for another destination: the connection then counts as the proxy's.
* Lines of the log about ignored ones are rate limited.
"""

from __future__ import annotations

from typing import Final

from twisted.internet.interfaces import IReactorTime

from tele.admission.rate_limiter import RateLimiter
from tele.auth.local import Collaborators
from tele.certs.keys import parse_line
from tele.conch.client.transport import MemberVerifier
from tele.errors import ProtocolError
from tele.log import make_logger
from tele.loop import now, wall_seconds
from tele.model.authority import AuthorityKind
from tele.model.identity import HostIdentity, HostRole
from tele.tunnel.client_address import ClientAddressVerifier, preface_size
from tele.tunnel.messages import auth_as_destination

log = make_logger(__name__)

#: Lines of the log about ignored addresses: burst, and rate per second.
LINES_BURST: Final = 20.0
LINES_PER_SECOND: Final = 0.2


class ClientAddressReader:
    """Reads the signed client address at the start of a connection."""

    def __init__(self, parts: Collaborators, cluster: str, clock: IReactorTime) -> None:
        self._parts = parts
        self._cluster = cluster
        self._clock = clock
        self._lines = RateLimiter(LINES_BURST, LINES_PER_SECOND, most=1)
        self._verifier = ClientAddressVerifier(
            lambda: auth_as_destination(cluster), self._proxy_verifier
        )

    def read(self, data: bytes) -> tuple[int, tuple[str, int] | None] | None:
        """See :data:`tele.https.tls_server.Preface`."""
        size = preface_size(data)
        if size is None:
            return None
        if not size:
            return 0, None
        try:
            client, _ = self._verifier.verify(
                data[:size],
                wall_seconds(self._clock),
                self._clock.seconds(),  # the date before our clock was set, which hosts still use
                elapsed=self._clock.seconds(),
            )
        except ProtocolError as error:
            if self._lines.take("", self._clock.seconds()):
                log.warn("signed client address ignored", error=str(error))
            return size, None
        return size, client.remote_addr

    def _proxy_verifier(self) -> MemberVerifier:
        trusted = self._parts.authorities[AuthorityKind.HOST].trusted
        keys = {parse_line(key) for key in trusted.ssh_public_keys}
        return MemberVerifier(keys, self._cluster, (HostRole.PROXY,), self._refuses)

    def _refuses(self, proxy: HostIdentity) -> str:
        denied = self._parts.state.policy.refuses_host(proxy, now(self._clock))
        if denied is not None:
            return denied.message
        known = self._parts.hosts.known(HostRole.PROXY, proxy.host_id)
        return "" if known else f"proxy {proxy.host_id} is not known, or was removed"
