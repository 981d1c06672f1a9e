"""How is a Conch program's server put together?

``SSHFactory`` as in Conch: ``publicKeys`` and ``privateKeys`` (or the methods that get
them), ``services``, ``protocol`` and a ``portal`` with checkers of the program's choice.

Invariants:

* Conch's own transport, authentication and connection are refused: only ours face the network.
* Only this module makes servers that accept clients without a certificate.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from typing import Any

from twisted.conch.error import ConchError
from twisted.conch.ssh import keys
from twisted.internet import reactor
from twisted.internet.interfaces import IReactorTime

from tele.admission.limits import Limits
from tele.certs.keys import PrivateKey
from tele.conch.compat.userauth import PortalUserAuthServer
from tele.conch.connection.connection import SSHConnection
from tele.conch.server.credentials import Trust
from tele.conch.server.factory import SSHServerFactory
from tele.conch.server.transport import USERAUTH, SSHServerTransport, host_key_algorithms
from tele.conch.transport.exchange import Exchange, HostKeys
from tele.errors import InvalidInput, ProtocolError
from tele.log import make_logger
from tele.wire import numbers as n

log = make_logger(__name__)

#: The modules of Conch whose classes must not face the network.
_REPLACED = frozenset(
    f"twisted.conch.ssh.{name}" for name in ("transport", "userauth", "connection")
)
#: Best first.
_KEY_ORDER = (b"ssh-ed25519", b"ecdsa-sha2-nistp256", b"ecdsa-sha2-nistp384")


def read_host_keys(found: Iterable[Any]) -> list[PrivateKey]:
    """Return Conch's private keys as ours, best first, without DSA keys.

    Raises :class:`InvalidInput` for anything but a private key.
    """
    read = []
    for key in found:
        if not isinstance(key, keys.Key) or key.isPublic():
            raise InvalidInput("privateKeys has a value that is not a private key of Conch's")
        if key.type() == "DSA":
            log.warn("DSA host key not used", reason="obsolete")
            continue
        read.append(PrivateKey.from_openssh(key.toString("openssh", subtype="v1")))
    order = {kind: at for at, kind in enumerate(_KEY_ORDER)}
    return sorted(read, key=lambda each: order.get(each.public.type, len(order)))


class ConchServerTransport(SSHServerTransport):
    """The server's end of one connection of a Conch program.

    Made without arguments, as Conch's; the factory calls :meth:`configure`.
    """

    factory: SSHFactory

    def __init__(self) -> None:
        super().__init__(reactor)

    def configure(self, clock: IReactorTime, limits: Limits, source: str | None) -> None:
        """Take the factory's clock and limits, and the client's address."""
        self.clock, self.limits, self._source = clock, limits, source

    def host_key_algorithms(self) -> tuple[bytes, ...]:
        """See :class:`tele.conch.transport.transport.Transport`."""
        return tuple(
            name for held in self.factory.all_host_keys for name in host_key_algorithms(held)
        )

    def kex_agreed(self, exchange: Exchange) -> None:
        """Use the host key that was negotiated."""
        if exchange.agreement is None:
            raise ProtocolError("a key exchange without negotiation")
        for held in self.factory.all_host_keys:
            if exchange.agreement.host_key in host_key_algorithms(held):
                exchange.host_keys = held
                return
        raise ProtocolError("the host key has changed", n.KEY_EXCHANGE_FAILED)

    def ssh_SERVICE_REQUEST(self, packet: bytes) -> None:
        """Accept one service request, whatever the program's factory would return."""
        if self.isAuthenticated or self.service is not None:
            raise ProtocolError("a second service request", n.SERVICE_NOT_AVAILABLE)
        super().ssh_SERVICE_REQUEST(packet)


class SSHFactory(SSHServerFactory):
    """Conch's factory: a subclass need not call ``__init__``.

    A program's class may have ``clock``, ``limits`` and ``on_denied``, and ``user_trust`` where
    the portal has a checker for :class:`~tele.conch.server.credentials.ICertificateCredentials`.
    """

    protocol: Any = ConchServerTransport
    services: dict[bytes, Any] = {
        b"ssh-userauth": PortalUserAuthServer,
        b"ssh-connection": SSHConnection,
    }
    publicKeys: Any
    privateKeys: Any
    primes: Any = None

    def __new__(cls, *args: Any, **named: Any) -> Any:  # noqa: ARG004  (for a program's own)
        """Initialize our factory; attributes of the program's class take precedence."""
        made = super().__new__(cls)
        no_portal: Any = None
        SSHServerFactory.__init__(
            made,
            portal=no_portal,
            host_keys=made.best_host_key,
            user_trust=lambda: Trust("", frozenset()),
            clock=getattr(cls, "clock", reactor),
            limits=getattr(cls, "limits", None),
        )
        for name in [name for name in vars(made) if hasattr(cls, name)]:
            delattr(made, name)
        return made

    def __init__(self) -> None:
        """Do nothing: a Conch program may not call it."""

    def usual_key_exchanges(self) -> None:
        """The program's protocol decides."""
        return

    def best_host_key(self) -> HostKeys:
        """Return the best host key."""
        return self.all_host_keys[0]

    @cached_property
    def all_host_keys(self) -> tuple[HostKeys, ...]:
        """The private keys, best first."""
        return tuple(HostKeys(key) for key in read_host_keys(self.privateKeys.values()))

    def startFactory(self) -> None:
        """Get the keys, and check that every class that faces the network is ours."""
        if not hasattr(self, "publicKeys"):
            self.publicKeys = self.getPublicKeys()
        if not hasattr(self, "privateKeys"):
            self.privateKeys = self.getPrivateKeys()
        if not self.publicKeys or not self.privateKeys or not self.all_host_keys:
            raise ConchError("no host keys, failing")
        for name, service in self.services.items():
            _check_class(name.decode("ascii"), service)
        _check_class("protocol", self.protocol)

    def _make(self, source: str | None) -> Any:
        protocol = self.protocol()
        protocol.configure(self.clock, self.limits, source)
        return protocol

    def getService(
        self, transport: SSHServerTransport, service: bytes, admitted: bool = False
    ) -> Any:
        """Return what makes ``service`` for ``transport`` now, or None."""
        if transport.isAuthenticated:
            return None
        if service == USERAUTH and transport.service is None:
            return self.services[service]
        if service != USERAUTH and hasattr(transport, "avatar"):
            return self.services.get(service)
        return None


def _check_class(name: str, made: Any) -> None:
    """Raise :class:`ConchError` for a class of Conch's own, which would face the network."""
    for each in getattr(made, "__mro__", (type(made),)):
        if each.__module__.startswith("tele."):
            return
        if each.__module__ in _REPLACED:
            raise ConchError(f"{name}: {made.__qualname__} is Conch's; import it from tele.embed")
