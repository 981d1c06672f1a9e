"""How is a server of ours put together?

Invariants:

* Whether a stranger gets in at all is decided before anything is made for them.
* No service is given out twice, and none before its time.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

from attrs import frozen
from twisted.cred.portal import Portal
from twisted.internet.interfaces import IAddress, IReactorTime

from tele.admission.limits import Limits, RekeyPace, Startups
from tele.conch.connection.connection import SSHConnection
from tele.conch.server.connection_admission import TOO_MANY, ConnectionAdmission, Refused
from tele.conch.server.credentials import DeniedAttempt, Trust
from tele.conch.server.transport import USERAUTH, Server, SSHServerTransport
from tele.conch.server.userauth import CONNECTION, SSHUserAuthServer
from tele.conch.transport.exchange import HostKeys
from tele.conch.transport.refusal import Refusal
from tele.errors import InvalidInput, quoted
from tele.model.addresses import source_network
from tele.wire.agreement import METHODS
from tele.wire.ciphers import CIPHERS

_DICE = random.SystemRandom()


@frozen
class ServerAlgorithms:
    """What a server offers, of what there is in ``tele.wire``; the client chooses.

    None is what is usual. Raises :class:`InvalidInput`.
    """

    key_exchanges: Sequence[bytes] | None = None
    ciphers: Sequence[bytes] | None = None

    def __attrs_post_init__(self) -> None:
        for names, known in ((self.key_exchanges, METHODS), (self.ciphers, CIPHERS)):
            if names is None:
                continue
            unknown = [name for name in names if name not in known]
            if unknown or not names:
                raise InvalidInput(f"there are no such algorithms: {quoted(b','.join(unknown))}")


class SSHServerFactory(Server):
    """Makes the server's end for each visitor.

    ``host_keys`` and ``user_trust`` are asked anew whenever they are needed. ``connection``
    makes the connection service; ``on_denied`` hears of everybody who was not let in, and
    ``on_refused`` once a minute of those who did not get as far.
    Without ``match_login`` a certificate is good for any login name, and the realm has to look
    at it. ``shared`` says of which addresses many people come, such as a proxy's: nobody is
    shut out there for another. With ``host_trust`` members of the cluster may log in with
    their host certificates, under their host ids; the realm gets
    :class:`~tele.conch.server.credentials.MemberCredentials`.
    """

    protocol = SSHServerTransport
    noisy = False

    def __init__(
        self,
        *,
        portal: Portal,
        host_keys: Callable[[], HostKeys],
        user_trust: Callable[[], Trust],
        clock: IReactorTime,
        connection: Callable[[], Any] = SSHConnection,
        limits: Limits | None = None,
        algorithms: ServerAlgorithms | None = None,
        match_login: bool = True,
        host_trust: Callable[[], Trust] | None = None,
        on_denied: Callable[[DeniedAttempt], None] = lambda _: None,
        on_refused: Callable[[Refused], None] = lambda _: None,
        shared: Callable[[str], bool] = lambda _: False,
        draw: Callable[[], float] = _DICE.random,
    ) -> None:
        self.portal = portal
        self.host_keys = host_keys
        self.user_trust = user_trust
        self.clock = clock
        self.connection = connection
        self.limits = limits or Limits()
        self.algorithms = algorithms or ServerAlgorithms()
        self.match_login = match_login
        self.host_trust = host_trust
        self.on_denied = on_denied
        self.admission = ConnectionAdmission(clock, self.limits, draw, shared, on_refused)
        self.rekey_pace = RekeyPace()
        #: Takes what comes before a version line; returns its length, None if it needs more.
        self.preface: Callable[[SSHServerTransport, bytes], int | None] | None = None
        #: Everybody who is connected, logged in or not.
        self.present: set[SSHServerTransport] = set()
        #: Those who have a place at the door, the oldest first.
        self.unauthenticated: dict[SSHServerTransport, str] = {}
        #: The same of those whom a proxy brought.
        self.relayed: dict[SSHServerTransport, str] = {}
        self.admission.make_room = self._make_room

    def startFactory(self) -> None:
        """Nothing: keys are asked for when they are needed."""

    def stopFactory(self) -> None:
        """Report whom the door refused."""
        self.admission.close()

    def buildProtocol(self, addr: IAddress | None) -> Any:
        """Take a visitor in, let them wait, or close at once if the door says so."""
        host = getattr(addr, "host", "")
        if self.admission.must_wait(host):
            waiting = self._build(None)
            waiting.wait_for_place(self.admission.waiting, source_network(host))
            return waiting
        source = self.admission.enter(host)
        if source is None:
            return Refusal(self.admission.why(host)) if self.admission.may_notify() else None
        return self._build(source)

    def _make_room(self, startups: Startups) -> bool:
        """End the oldest connection that has not logged in, of a source that has most of them.

        So many sources with a connection each, as one network of IPv6 has them, keep nobody out
        who logs in at once.
        """
        most = startups.most
        holders = self.relayed if startups is self.admission.vouched else self.unauthenticated
        for transport, source in holders.items():
            if startups.held(source) == most:
                self.admission.refused(transport.remote_addr()[0], TOO_MANY)
                transport.yield_place()
                return True
        return False

    def build_vouched(self, addr: IAddress) -> Any:
        """Take in a visitor whom a proxy of the cluster knows already.

        Those who have not logged in yet are counted apart, and do not keep strangers out who
        come by themselves.
        """
        host = getattr(addr, "host", "")
        if self.admission.vouched_must_wait(host):
            waiting = self._build(None)
            waiting.wait_for_place(self.admission.vouched_waiting, source_network(host))
            return waiting
        source = self.admission.enter_vouched(host)
        if source is None:
            return None
        protocol = self._build(None)
        protocol.vouched_place = source
        return protocol

    def _build(self, source: str | None) -> Any:
        protocol = self._make(source)
        protocol.factory = self
        protocol.rekey_pace = self.rekey_pace
        methods = self.algorithms.key_exchanges or self.usual_key_exchanges()
        if methods is not None:
            protocol.supportedKeyExchanges = list(methods)
        if self.algorithms.ciphers is not None:
            protocol.supportedCiphers = list(self.algorithms.ciphers)
        return protocol

    def usual_key_exchanges(self) -> Sequence[bytes] | None:
        """Return what is offered unless the algorithms say it; None: what the protocol has.

        A server that has a key on a curve of NIST serves clients that may use no other curves,
        and they need one to exchange keys with, too.
        """
        host_key = self.host_keys().private.public.type
        return tuple(METHODS) if host_key.startswith(b"ecdsa-") else None

    def _make(self, source: str | None) -> Any:
        return self.protocol(self.clock, self.limits, source)

    def getService(
        self, transport: SSHServerTransport, service: bytes, admitted: bool = False
    ) -> Any:
        """Return what makes ``service`` for ``transport`` now, or None."""
        if transport.isAuthenticated:
            return None
        if service == USERAUTH and transport.service is None:
            return SSHUserAuthServer
        if service == CONNECTION and admitted:
            return self.connection
        return None
