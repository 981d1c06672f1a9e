"""How is an SSH server put together?

Invariants:

* Whether a connection is accepted is decided before anything is made for it.
* No service is started twice, and none before its turn.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
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
from tele.wire.ciphers import CIPHERS, MACS
from tele.wire.key_agreement import METHODS

_DICE = random.SystemRandom()


@frozen
class ServerAlgorithms:
    """What a server offers of the algorithms in ``tele.wire``; the client chooses.

    None is the default. Raises :class:`InvalidInput`.
    """

    key_exchanges: Sequence[bytes] | None = None
    ciphers: Sequence[bytes] | None = None
    macs: Sequence[bytes] | None = None

    def __attrs_post_init__(self) -> None:
        for names, known in (
            (self.key_exchanges, METHODS),
            (self.ciphers, CIPHERS),
            (self.macs, MACS),
        ):
            if names is None:
                continue
            unknown = [name for name in names if name not in known]
            if unknown or not names:
                raise InvalidInput(f"unknown algorithms: {quoted(b','.join(unknown))}")


def _both(
    own: Sequence[bytes] | None, allowed: Sequence[bytes] | None, known: Iterable[bytes]
) -> list[bytes] | None:
    """Return which algorithms a server may offer by its ``own`` list, and by what is ``allowed``.

    None: it has its defaults. An empty list: there is none that both name, and no client connects.
    """
    if allowed is None:
        return None if own is None else list(own)
    return [name for name in own or known if name in allowed]


class SSHServerFactory(Server):
    """Makes the server's end of each connection.

    ``host_keys`` and ``user_trust`` are called whenever they are needed. ``connection`` makes
    the connection service. ``on_denied`` is called for each refused login, ``on_refused`` once a
    minute for refused connections.
    Without ``match_login`` a certificate is valid for any login name, and the realm has to check
    it. ``shared`` returns whether many users connect from an address, such as a proxy's; such an
    address gets no penalties. With ``host_trust`` members of the cluster may log in with their
    host certificates, under their host ids; the realm gets
    :class:`~tele.conch.server.credentials.MemberCredentials`. With ``passes_proofs`` the realm gets
    what others need to check what a client has signed. ``banner`` returns what a client is shown
    before it logs in, or nothing; ``allowed`` the only algorithms that connections may have which
    begin now, whatever ``algorithms`` has. ``part`` names the server in lines of
    the log, where a process has several.
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
        passes_proofs: bool = False,
        on_denied: Callable[[DeniedAttempt], None] = lambda _: None,
        on_refused: Callable[[Refused], None] = lambda _: None,
        shared: Callable[[str], bool] = lambda _: False,
        draw: Callable[[], float] = _DICE.random,
        banner: Callable[[SSHServerTransport], str] = lambda _: "",
        allowed: Callable[[], ServerAlgorithms] = ServerAlgorithms,
        part: str = "",
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
        self.passes_proofs = passes_proofs
        self.banner = banner
        self._allowed = allowed
        self.on_denied = on_denied
        self.admission = ConnectionAdmission(clock, self.limits, draw, shared, on_refused, part)
        self.rekey_pace = RekeyPace()
        #: Reads what precedes a version line; returns its length, None if it needs more.
        self.preface: Callable[[SSHServerTransport, bytes], int | None] | None = None
        #: All connections, authenticated or not.
        self.present: set[SSHServerTransport] = set()
        #: Those that hold a start-up place, the oldest first.
        self.unauthenticated: dict[SSHServerTransport, str] = {}
        #: The same of those that a proxy relays.
        self.relayed: dict[SSHServerTransport, str] = {}
        self.admission.close_one = self._close_one

    def startFactory(self) -> None:
        """Do nothing: keys are looked up when they are needed."""

    def stopFactory(self) -> None:
        """Report refused connections."""
        self.admission.close()

    def buildProtocol(self, addr: IAddress | None) -> Any:
        """Accept a connection, let it wait, or refuse it, as the admission decides."""
        host = getattr(addr, "host", "")
        if self.admission.must_wait(host):
            waiting = self._build(None)
            waiting.wait_for_place(self.admission.waiting, source_network(host))
            return waiting
        source = self.admission.enter(host)
        if source is None:
            return Refusal(self.admission.why(host)) if self.admission.may_notify() else None
        return self._build(source)

    def _close_one(self, startups: Startups) -> bool:
        """Close the oldest unauthenticated connection of a source that has most of them.

        Many sources with a connection each, as in one network of IPv6, then shut out no client
        that logs in at once.
        """
        most = startups.most
        holders = self.relayed if startups is self.admission.vouched else self.unauthenticated
        for transport, source in holders.items():
            if startups.held(source) == most:
                self.admission.refused(transport.remote_addr()[0], TOO_MANY)
                transport.yield_place()
                return True
        return False

    def build_vouched(self, addr: IAddress) -> SSHServerTransport | None:
        """Accept a connection that a proxy of the cluster relays.

        Unauthenticated ones are counted apart from those that connect directly.
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

    def _build(self, source: str | None) -> SSHServerTransport:
        protocol = self._make(source)
        protocol.factory = self
        protocol.rekey_pace = self.rekey_pace
        own, allowed = self.algorithms, self._allowed()
        named = _both(own.key_exchanges, allowed.key_exchanges, METHODS)
        methods = self.usual_key_exchanges() if named is None else named
        ciphers = _both(own.ciphers, allowed.ciphers, CIPHERS)
        macs = _both(own.macs, allowed.macs, MACS)
        if methods is not None:
            protocol.supportedKeyExchanges = list(methods)
        if ciphers is not None:
            protocol.supportedCiphers = ciphers
        if macs is not None:
            protocol.supportedMACs = macs
        return protocol

    def usual_key_exchanges(self) -> Sequence[bytes] | None:
        """Return the methods to offer by default; None: those of the protocol class.

        A server with a host key on a NIST curve serves clients that may use no other curves: they
        need one for the key exchange, too.
        """
        host_key = self.host_keys().private.public.type
        return tuple(METHODS) if host_key.startswith(b"ecdsa-") else None

    def _make(self, source: str | None) -> SSHServerTransport:
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
