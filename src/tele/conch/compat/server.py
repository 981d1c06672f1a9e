"""How is a Conch program's server put together?

``SSHFactory`` as in Conch: ``publicKeys`` and ``privateKeys`` (or the methods that get
them), ``services``, ``protocol`` and a ``portal`` with checkers of the program's choice.

Invariants:

* Conch's own services never run here, whatever the program names: what meets the network is
  ours.
* Only this file makes servers that let anybody in without a certificate.
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

#: Conch has imported it already.
_REACTOR: Any = reactor
#: Where Conch has what must not meet the network.
_REPLACED = frozenset(
    f"twisted.conch.ssh.{name}" for name in ("transport", "userauth", "connection")
)
#: Best first.
_KEY_ORDER = (b"ssh-ed25519", b"ecdsa-sha2-nistp256", b"ecdsa-sha2-nistp384")


def read_host_keys(found: Iterable[Any]) -> list[PrivateKey]:
    """Return Conch's private keys as ours, best first; kinds that are too old are left out.

    Raises :class:`InvalidInput` for what is no private key.
    """
    read = []
    for key in found:
        if not isinstance(key, keys.Key) or key.isPublic():
            raise InvalidInput("privateKeys has something that is no private key of Conch's")
        if key.type() == "DSA":
            log.warn("a DSA host key is left out: clients do not take it any more")
            continue
        read.append(PrivateKey.from_openssh(key.toString("openssh", subtype="v1")))
    order = {kind: at for at, kind in enumerate(_KEY_ORDER)}
    return sorted(read, key=lambda each: order.get(each.public.type, len(order)))


class ConchServerTransport(SSHServerTransport):
    """The server's end of one connection of a Conch program.

    Made without arguments, as Conch's; the factory gives it what it needs.
    """

    factory: SSHFactory

    def __init__(self) -> None:
        super().__init__(_REACTOR)

    def take_place(self, clock: IReactorTime, limits: Limits, source: str | None) -> None:
        """The factory takes it in."""
        self.clock, self.limits, self._source = clock, limits, source

    def host_key_algorithms(self) -> tuple[bytes, ...]:
        """See :class:`tele.conch.transport.transport.Transport`."""
        return tuple(
            name for held in self.factory.all_host_keys for name in host_key_algorithms(held)
        )

    def kex_agreed(self, exchange: Exchange) -> None:
        """Take the host key that was agreed on."""
        if exchange.agreement is None:
            raise ProtocolError("a key exchange without an agreement")
        for held in self.factory.all_host_keys:
            if exchange.agreement.host_key in host_key_algorithms(held):
                exchange.host_keys = held
                return
        raise ProtocolError("the host key has just changed", n.KEY_EXCHANGE_FAILED)

    def ssh_SERVICE_REQUEST(self, packet: bytes) -> None:
        """Answered once, whatever the program's factory would say."""
        if self.isAuthenticated or self.service is not None:
            raise ProtocolError("a service was asked for twice", n.SERVICE_NOT_AVAILABLE)
        super().ssh_SERVICE_REQUEST(packet)


class SSHFactory(SSHServerFactory):
    """Conch's factory. It needs no call of ``__init__``, as Conch's does not.

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

    def __new__(cls, *words: Any, **named: Any) -> Any:  # noqa: ARG004  (for a program's own)
        """Make it as ours is made; what the program's class says itself stands."""
        made = super().__new__(cls)
        nobody: Any = None
        SSHServerFactory.__init__(
            made,
            portal=nobody,
            host_keys=made.best_host_key,
            user_trust=lambda: Trust("", frozenset()),
            clock=getattr(cls, "clock", _REACTOR),
            limits=getattr(cls, "limits", None),
        )
        for name in [name for name in vars(made) if hasattr(cls, name)]:
            delattr(made, name)
        return made

    def __init__(self) -> None:
        """Nothing: a Conch program may not call it."""

    def usual_key_exchanges(self) -> None:
        """What the program's protocol says."""
        return

    def best_host_key(self) -> HostKeys:
        """Return the best host key."""
        return self.all_host_keys[0]

    @cached_property
    def all_host_keys(self) -> tuple[HostKeys, ...]:
        """The private keys, best first."""
        return tuple(HostKeys(key) for key in read_host_keys(self.privateKeys.values()))

    def startFactory(self) -> None:
        """Get the keys, and look whether all that will meet the network is ours."""
        if not hasattr(self, "publicKeys"):
            self.publicKeys = self.getPublicKeys()
        if not hasattr(self, "privateKeys"):
            self.privateKeys = self.getPrivateKeys()
        if not self.publicKeys or not self.privateKeys or not self.all_host_keys:
            raise ConchError("no host keys, failing")
        for name, service in self.services.items():
            _refuse_conchs(name.decode("ascii"), service)
        _refuse_conchs("protocol", self.protocol)

    def _make(self, source: str | None) -> Any:
        protocol = self.protocol()
        protocol.take_place(self.clock, self.limits, source)
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


def _refuse_conchs(name: str, made: Any) -> None:
    """Refuse a class of Conch's own: it would meet the network with Conch's mistakes."""
    for its in getattr(made, "__mro__", (type(made),)):
        if its.__module__.startswith("tele."):
            return
        if its.__module__ in _REPLACED:
            raise ConchError(f"{name}: {made.__qualname__} is Conch's; import it from tele.embed")
