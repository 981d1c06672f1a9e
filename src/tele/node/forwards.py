"""What is forwarded for one connection: ports, sockets, an agent, displays?

Invariants:

* Each kind and each destination needs a permission of the grant; without it nothing is made or
  listened on. It is decided where a name has become addresses and a path has led to a socket.
* Paths are the user's business, in a process that is the user; ports below 1024 are root's.
* What listens ends with the connection, and nothing is made for one that is gone. What a changed
  grant does not give ends: what listens, and what is open.
* So many connections of a user are forwarded at once, over all their connections; more wait.
* Every socket counts for the user before it is made, and until it is closed.
"""

from __future__ import annotations

import os
import socket as sockets
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

from attrs import define, field, frozen
from twisted.internet.address import UNIXAddress
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IProtocolFactory
from zope.interface import implementer

from tele.admission.slots import Slots
from tele.capacity.descriptors import Account, Lease
from tele.conch.forwarding.listening import LISTENING_LIMIT, ChannelType, Listeners, Peer
from tele.conch.forwarding.local import ForwardRequest, IForwarder, LocalRequest
from tele.conch.forwarding.remote import (
    PATH_CHANNEL,
    PORT_CHANNEL,
    IListener,
    PathRequest,
    PortRequest,
    path_channel,
    port_channel,
)
from tele.conch.session.session_forwarding import (
    AGENT_CHANNEL,
    DISPLAY_CHANNEL,
    DisplayRequest,
    IDisplay,
    ISessionForwards,
)
from tele.errors import AccessDenied, Unavailable
from tele.membership.audit_reporter import cut
from tele.model.access import GatewayPorts
from tele.model.addresses import Address
from tele.node.ports import addresses_for, listen_for_display, listen_on
from tele.node.user_sockets import UserListener, UserSockets
from tele.outbound.name_lookup import NameResolver
from tele.reactor import Reactor
from tele.sessions.context import ConnectionContext
from tele.sessions.forward_permission import AGENT, ForwardPermission, ForwardSlots, Sight
from tele.sessions.forward_record import ForwardRecords, for_audit
from tele.sockets.direct import adopt
from tele.spawner.display_child import find_xauth
from tele.wire.fields import string, uint32

CONNECT_TIMEOUT: Final = 30.0
#: Descriptors while a socket is asked for, and of one that listens, on two addresses or with
#: the child that holds its path.
ASKING: Final = 3
LISTENING: Final = 2
#: How much of the descriptors that a user may hold forwarded connections may.
FORWARDS_PART: Final = 0.75
#: Connections of one user that wait to be forwarded.
WAITING_LIMIT: Final = 4096

Made = TypeVar("Made")


@implementer(IDisplay)
@define(eq=False)
class Display:
    """A forwarded display of one session."""

    number: int
    request: DisplayRequest
    _close: Callable[[], object] = field(repr=False)

    def close(self) -> None:
        """See :class:`tele.conch.session.session_forwarding.IDisplay`."""
        self._close()


@frozen
class ForwardingResources:
    """What forwards of one connection are made with.

    :param sockets: makes UNIX sockets as the login.
    :param names: looks names up, with a share for each user.
    :param account: the descriptors of the user.
    :param slots: who may have one more connection forwarded, by the name of the user.
    """

    sockets: UserSockets
    names: NameResolver
    account: Account
    slots: Slots
    gateway_ports: GatewayPorts = GatewayPorts.NO


@implementer(IForwarder, IListener, ISessionForwards)
class Forwards:
    """Forwards for one connection.

    ``check()`` raises when nothing new may begin; ``connection()`` is the SSH connection.
    """

    def __init__(
        self,
        reactor: Reactor,
        context: ConnectionContext,
        resources: ForwardingResources,
        records: ForwardRecords,
        check: Callable[[], None],
        connection: Callable[[], Any],
    ) -> None:
        self._reactor = reactor
        self._account = resources.account
        self._names = resources.names
        self._sockets = resources.sockets
        self._gateway_ports = resources.gateway_ports
        self._user = context.grant.identity.user
        self._slots = ForwardSlots(resources.slots, self._user, self._most)
        self._login = context.grant.login
        self._records = records
        self._allowed = ForwardPermission(
            context, check, Sight(lambda host: addresses_for(host, resources.gateway_ports))
        )
        #: The rules of paths that listeners were made with.
        self._rules: dict[object, bytes] = {}
        self._listeners = Listeners(reactor, connection, self._account.take)
        self._connection = connection
        self._agent_path: bytes | None = None
        self._agent_asked = False
        self._closed = False

    @property
    def agent_path(self) -> bytes | None:
        """Where programs find the agent, if it is forwarded."""
        return self._agent_path

    def close(self) -> None:
        """The connection is gone."""
        self._closed = True
        self._slots.close()
        self._listeners.close()

    def restrict(self) -> None:
        """The grant has changed: end listeners and connections that it does not permit, and apply
        its limit of forwarded connections.
        """
        self._slots.check()
        self._records.restrict(self._channels())
        for key in self._listeners.all:
            if not self._allowed.listens(key, self._rules.get(key, b"")):
                self._listeners.remove(key)
                if key == AGENT:
                    self._agent_path, self._agent_asked = None, False

    def _channels(self) -> Mapping[int, Any]:
        connection = self._connection()
        return {} if connection is None else connection.channels

    # -- direct-tcpip, direct-streamlocal ---------------------------------------------
    def connect(
        self, request: ForwardRequest | LocalRequest, factory: IProtocolFactory
    ) -> Deferred[Any]:
        """See :class:`tele.conch.forwarding.local.IForwarder`."""
        return Deferred.fromCoroutine(self._connect(request, factory))

    async def _connect(
        self, request: ForwardRequest | LocalRequest, factory: IProtocolFactory
    ) -> Any:
        if isinstance(request, LocalRequest):
            path, rules = request.path, self._allowed.path_rules
            record = self._records.begin(
                "direct-streamlocal",
                lambda: self._allowed.keeps_path(path, rules),
                target=_shown(path),
            )
        else:
            host, port = request.host, request.port
            record = self._records.begin(
                "direct-tcpip",
                lambda: self._allowed.keeps(host, port),
                target=str(Address(request.host, request.port)),
                originator=str(Address(*request.originator)),
            )
        try:
            self._check(request)
            await self._slots.take(record)
            self._check(request)
            await self._records.ready()
            if isinstance(request, LocalRequest):
                protocol = await self._connect_local(request, factory)
            else:
                protocol = await self._connect_port(request, factory)
                address = protocol.transport.getPeer().host
                record.permitted = lambda: self._allowed.keeps(host, port, address)
        except Exception as error:
            record.refused(error)
            raise
        protocol.observer = record
        return protocol

    def _check(self, request: ForwardRequest | LocalRequest) -> None:
        if isinstance(request, LocalRequest):
            self._allowed.path()
        else:
            self._allowed.connect(request.host, request.port)

    def _most(self) -> int:
        """Connections that are forwarded at once. Some descriptors are left for sessions."""
        share = self._account.budget.shares.per_user * FORWARDS_PART
        return max(1, min(self._allowed.context.grant.max_forwards, int(share)))

    async def _connect_port(self, request: ForwardRequest, factory: IProtocolFactory) -> Any:
        host, port = request.host, request.port
        usable = self._allowed.usable(host, port)
        endpoint = self._names.endpoint(
            self._user, host, port, CONNECT_TIMEOUT, self._account.take, usable
        )
        return await endpoint.connect(factory)

    async def _connect_local(self, request: LocalRequest, factory: IProtocolFactory) -> Any:
        lease = self._account.take(ASKING)
        try:
            made = await self._sockets.connect(request.path, self._allowed.path())
        except BaseException:
            lease.release()
            raise
        lease.keep(1)
        protocol: Any = factory.buildProtocol(UNIXAddress(request.path))
        adopt(self._reactor, made, protocol, lease=lease)
        return protocol

    # -- tcpip-forward, streamlocal-forward -------------------------------------------
    def listen(self, request: PortRequest | PathRequest) -> Deferred[int]:
        """See :class:`tele.conch.forwarding.remote.IListener`."""
        if isinstance(request, PathRequest):
            return Deferred.fromCoroutine(self._listen_local(request))
        return Deferred.fromCoroutine(self._listen_port(request))

    def cancel(self, request: PortRequest | PathRequest) -> bool:
        """See :class:`tele.conch.forwarding.remote.IListener`."""
        return self._listeners.remove(request)

    async def _listen_port(self, request: PortRequest) -> int:
        fields = {"kind": "tcpip-forward", "asked": str(Address(request.host, request.port))}

        async def make() -> tuple[str, int, list[sockets.socket]]:
            addresses = addresses_for(request.host, self._gateway_ports)
            made = listen_on(addresses, request.port, self._login)
            bound = [each.getsockname() for each in made]
            return ", ".join(str(Address(*each[:2])) for each in bound), bound[0][1], made

        port: int

        def allowed() -> None:
            self._allowed.listen(request.host, request.port)

        (bound, port, made), lease = await self._begin("forward", allowed, fields, make)
        fields["bound"] = bound
        real = PortRequest(request.host, port)

        def watch(peer: Peer) -> Any:
            return self._records.begin(
                "forwarded-tcpip",
                lambda: self._allowed.listens(real),
                accepted=True,
                bound=bound,
                originator=str(Address(*peer)),
            )

        kind = ChannelType(PORT_CHANNEL, lambda peer: port_channel(real, peer), watch)
        self._add(real, made, kind, "forward", fields, lease)
        return port

    async def _listen_local(self, request: PathRequest) -> int:
        path = _shown(request.path)
        fields = {"kind": "streamlocal-forward", "bound": path}

        used: list[bytes] = []

        async def make() -> UserListener:
            used.append(self._allowed.path())
            return await self._sockets.listen(request.path, used[-1])

        made, lease = await self._begin("forward", self._allowed.path, fields, make)
        self._rules[request] = used[-1]

        def watch(_: Peer) -> Any:
            return self._records.begin(
                "forwarded-streamlocal",
                lambda: self._allowed.keeps_path(request.path, used[-1]),
                accepted=True,
                bound=path,
            )

        kind = ChannelType(PATH_CHANNEL, lambda _: path_channel(request), watch)
        self._add(request, [made.socket], kind, "forward", fields, lease, made.close)
        return 0

    # -- auth-agent, x11 --------------------------------------------------------------
    def agent(self) -> Deferred[None]:
        """See :class:`tele.conch.session.session_forwarding.ISessionForwards`."""
        return Deferred.fromCoroutine(self._forward_agent())

    async def _forward_agent(self) -> None:
        if self._agent_asked:
            if self._agent_path is None:
                raise Unavailable("the agent is not forwarded")
            return  # it is the connection's: sessions share it
        self._agent_asked = True
        fields: dict[str, Any] = {"kind": AGENT}
        try:
            made, lease = await self._begin(
                "agent", self._allowed.agent, fields, self._sockets.listen_for_agent
            )
        except BaseException:
            self._agent_asked = False
            raise
        fields["bound"] = _shown(made.path)

        def watch(_: Peer) -> Any:
            return self._records.begin(
                AGENT,
                lambda: self._allowed.listens(AGENT),
                accepted=True,
                bound=fields["bound"],
            )

        kind = ChannelType(AGENT_CHANNEL, lambda _: b"", watch)
        self._add(AGENT, [made.socket], kind, "agent", fields, lease, made.close)
        self._agent_path = made.path

    def display(self, request: DisplayRequest) -> Deferred[IDisplay]:
        """See :class:`tele.conch.session.session_forwarding.ISessionForwards`."""
        return Deferred.fromCoroutine(self._forward_display(request))

    async def _forward_display(self, request: DisplayRequest) -> Display:
        fields: dict[str, Any] = {"kind": "x11"}

        async def make() -> tuple[int, list[sockets.socket]]:
            if find_xauth() is None:
                raise Unavailable("xauth is not installed on this node")
            return listen_for_display()

        (number, made), lease = await self._begin("forward", self._allowed.display, fields, make)
        bound = fields["bound"] = f"localhost:{number}"

        def watch(peer: Peer) -> Any:
            return self._records.begin(
                "x11",
                lambda: self._allowed.listens(bound),
                accepted=True,
                bound=bound,
                originator=str(Address(*peer)),
            )

        def describe(peer: Peer) -> bytes:
            return string(peer[0].encode()) + uint32(peer[1])

        kind = ChannelType(DISPLAY_CHANNEL, describe, watch, once=request.single)
        self._add(bound, made, kind, "forward", fields, lease)
        return Display(number, request, lambda: self._listeners.remove(bound))

    # -- listeners --------------------------------------------------------------------
    async def _begin(
        self,
        event: str,
        allowed: Callable[[], object],
        fields: dict[str, Any],
        make: Callable[[], Any],
    ) -> tuple[Any, Lease]:
        """Return what ``make`` makes, if it may be; that it may not, or cannot, is recorded."""
        lease: Lease | None = None
        try:
            allowed()
            if not self._listeners.can_add:
                raise AccessDenied(f"no more than {LISTENING_LIMIT} forwards listen at once")
            await self._records.ready()
            lease = self._account.take(ASKING)
            made = await make()
        except Exception as error:
            if lease is not None:
                lease.release()
            self._records.listening(event, error=cut(for_audit(error)), **fields)
            raise
        lease.keep(LISTENING)
        return made, lease

    def _add(
        self,
        key: object,
        made: list[sockets.socket],
        kind: ChannelType,
        event: str,
        fields: dict[str, Any],
        lease: Lease,
        closed: Callable[[], object] = lambda: None,
    ) -> None:
        """Accept from now on, if the client is still there."""

        def on_close() -> None:
            closed()
            lease.release()
            self._rules.pop(key, None)
            self._records.stopped_listening(event, **fields)

        # Making it took a while, and the client may have made it long: what counts is now.
        allowed = not self._closed and self._allowed.listens(key, self._rules.get(key, b""))
        if not allowed or key in self._listeners or not self._listeners.can_add:
            for each in made:
                each.close()
            closed()
            lease.release()
            text = "it is forwarded already, there are too many, or it is not allowed any more"
            self._records.listening(event, error=text, **fields)
            raise Unavailable(text)
        self._records.listening(event, **fields)
        self._listeners.add(key, made, kind, on_close)


def _shown(path: bytes) -> str:
    return os.fsdecode(path).encode("utf-8", "backslashreplace").decode()
