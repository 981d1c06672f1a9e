"""Where does a connection through a proxy come from? From where the proxy's signed message says.

Invariants:

* A message of a proxy that is locked, removed or not announced is ignored, as is a message that was
  used before or is for another receiver: the connection counts as the proxy's own.
* Ignored messages are logged at a rate.
"""

from __future__ import annotations

from typing import Final

from twisted.internet.interfaces import IReactorTime

from tele.admission.rate_limiter import RateLimiter
from tele.auth.authorities import Authorities
from tele.auth.presence import Hosts
from tele.auth.state import State
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

#: Lines of the log about ignored messages: the burst, and the rate.
LINES_BURST: Final = 20.0
LINES_PER_SECOND: Final = 0.2


class ProxyMessages:
    """Reads the messages that proxies send before the connections that they relay."""

    def __init__(
        self,
        authorities: Authorities,
        state: State,
        hosts: Hosts,
        cluster: str,
        clock: IReactorTime,
    ) -> None:
        self._authorities = authorities
        self._state = state
        self._hosts = hosts
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
                log.warn("client address of a proxy ignored", error=str(error))
            return size, None
        return size, client.remote_addr

    def _proxy_verifier(self) -> MemberVerifier:
        trusted = self._authorities[AuthorityKind.HOST].trusted
        keys = {parse_line(key) for key in trusted.ssh_public_keys}
        return MemberVerifier(keys, self._cluster, (HostRole.PROXY,), self._refuses)

    def _refuses(self, proxy: HostIdentity) -> str:
        denied = self._state.policy.refuses_host(proxy, now(self._clock))
        if denied is not None:
            return denied.message
        known = self._hosts.known(HostRole.PROXY, proxy.host_id)
        return "" if known else f"proxy {proxy.host_id} is unknown, or was removed"
