"""What is forwarded between a client and its target: ports, sockets, an agent, displays?

Invariants:

* Each kind and each destination needs a permission of the grant, as on a node; without it the
  target learns of nothing. Each is recorded, and an event, as on a node.
* What listens on the target for the client ends with either connection.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from twisted.conch.error import ConchError
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.interfaces import IReactorTime
from zope.interface import Interface, implementer

from tele.admission.slots import Slots
from tele.conch.connection.refusals import ADMINISTRATIVELY_PROHIBITED
from tele.conch.connection.splice import SplicedChannel, open_splice
from tele.conch.forwarding.listening import LISTENING_LIMIT
from tele.conch.forwarding.local import (
    LOCAL_CHANNEL,
    ForwardRequest,
    LocalRequest,
    read_path_target,
    read_port_target,
)
from tele.conch.forwarding.remote import (
    IListener,
    PathRequest,
    PortRequest,
)
from tele.conch.session.session_forwarding import (
    DisplayRequest,
    IDisplay,
    ISessionForwards,
)
from tele.errors import AccessDenied, ProtocolError, TeleError, Unavailable, Unreachable
from tele.membership.audit_reporter import cut
from tele.model.addresses import Address
from tele.sessions.context import ConnectionContext
from tele.sessions.forward_permission import (
    AGENT,
    OF_AN_SSHD,
    ForwardPermission,
    ForwardSlots,
    Sight,
)
from tele.sessions.forward_record import ForwardRecords, for_audit
from tele.sessions.remote_target import RemoteTarget
from tele.sessions.target_channels import (
    RemoteDisplay,
    Request,
    Requested,
    TargetChannels,
    shown_path,
)
from tele.wire.fields import Reader, string, uint32

PORT_TARGET: Final = b"direct-tcpip"
#: Seconds that a target has to connect to what a client forwards to.
CONNECT_SECONDS: Final = 60.0
#: Seconds that it has to listen.
LISTEN_SECONDS: Final = 30.0


class IRemoteForwards(Interface):
    """Forwards connections of a client by way of a target. Avatars adapt to it."""

    def connect(
        request: ForwardRequest | LocalRequest, remoteWindow: int, remoteMaxPacket: int
    ) -> Deferred[SplicedChannel]:
        """Open a channel on the target for one that the client asks for; fires with the client's.

        Fails with a :class:`tele.errors.TeleError` or a ``ConchError``, whose text the client
        shows.
        """


@implementer(IListener, ISessionForwards, IRemoteForwards)
class RemoteForwards:
    """The forwards of one client's connection.

    :param check: raises when nothing new may begin.
    :param connection: the client's connection.
    :param slots: who may have one more connection forwarded, by the name of the user.
    :param sight: what of a destination is seen here.
    """

    def __init__(
        self,
        reactor: IReactorTime,
        context: ConnectionContext,
        target: RemoteTarget,
        records: ForwardRecords,
        check: Callable[[], None],
        connection: Callable[[], Any],
        slots: Slots,
        sight: Sight = OF_AN_SSHD,
    ) -> None:
        self._reactor = reactor
        self._context = context
        self._target = target
        self._records = records
        self._connection = connection
        self._allowed = ForwardPermission(context, check, sight)
        self._slots = ForwardSlots(
            slots, context.grant.identity.user, lambda: context.grant.max_forwards
        )
        self._requested = Requested(target.name)
        self._channels = TargetChannels(
            reactor, records, self._requested, connection, self._allowed.listens
        )
        self._displays_made = 0
        self._closed = False
        #: The client has asked for its agent to be forwarded, whether that is permitted or not.
        self.agent_requested = False
        #: The agent is used to log in to the target: asking for it is no error then.
        self.agent_for_login = False
        target.on_connected(self._connected)

    @property
    def agent_forwarded(self) -> bool:
        """Whether the client's agent is forwarded to sessions that begin now."""
        return self._requested.agent is not None

    def _connected(self, service: Any) -> None:
        service.acceptor = self._channels
        service.when_lost(self._target_lost)

    def close(self) -> None:
        """The client's connection is gone."""
        self._closed = True
        self._slots.close()
        self._forget(list(self._requested.listening))
        self._end_agent()

    def _target_lost(self) -> None:
        """What listened on the target does so no more: the client's connection ends, too."""
        lost = list(self._requested.listening)
        self._forget(lost)
        if lost and not self._closed:
            error = f"the connection to {self._target.name} was lost, which listened for you"
            self._connection().transport.evict(error)

    def _forget(self, requests: list[Request]) -> None:
        for request in requests:
            fields = self._requested.listening.pop(request)
            self._records.stopped_listening("forward", **fields)

    def restrict(self) -> None:
        """The grant has changed: end listeners and connections that it does not permit, and apply
        its limit of forwarded connections.
        """
        self._slots.check()
        connection = self._connection()
        self._records.restrict({} if connection is None else connection.channels)
        for request in list(self._requested.listening):
            if not self._allowed.listens(request):
                self.cancel(request)
        if not self._allowed.listens(AGENT):
            self._end_agent()

    # -- direct-tcpip, direct-streamlocal ---------------------------------------------
    def connect(
        self, request: ForwardRequest | LocalRequest, remoteWindow: int, remoteMaxPacket: int
    ) -> Deferred[SplicedChannel]:
        """See :class:`IRemoteForwards`."""
        return Deferred.fromCoroutine(self._connect(request, remoteWindow, remoteMaxPacket))

    async def _connect(
        self, request: ForwardRequest | LocalRequest, window: int, max_packet: int
    ) -> SplicedChannel:
        if isinstance(request, LocalRequest):
            path, rules = request.path, self._allowed.path_rules
            record = self._records.begin(
                "direct-streamlocal",
                lambda: self._allowed.keeps_path(path, rules),
                target=shown_path(path),
            )
            kind, extra = LOCAL_CHANNEL, string(request.path) + string(b"") + uint32(0)
        else:
            host, port = request.host, request.port
            record = self._records.begin(
                "direct-tcpip",
                lambda: self._allowed.keeps(host, port),
                target=str(Address(request.host, request.port)),
                originator=str(Address(*request.originator)),
            )
            kind, extra = PORT_TARGET, _port_extra(request)
        try:
            self._check_target(request)
            await self._slots.take(record)
            self._check_target(request)
            await self._records.ready()
            service = await self._target.connection()
            self._check_target(request)  # that may have taken a while
            opening = open_splice(
                service,
                kind,
                extra,
                remoteWindow=window,
                remoteMaxPacket=max_packet,
                observer=record,
            )
            opened: SplicedChannel = await self._in_time(
                opening, CONNECT_SECONDS, "has not connected"
            )
        except Exception as error:
            record.refused(error)
            raise
        return opened

    def _check_target(self, request: ForwardRequest | LocalRequest) -> None:
        if isinstance(request, LocalRequest):
            self._allowed.path()
        else:
            self._allowed.connect(request.host, request.port)

    def _check_listener(self, request: Request) -> None:
        if isinstance(request, PathRequest):
            self._allowed.path()
        else:
            self._allowed.listen(request.host, request.port)

    async def _in_time(self, opening: Deferred[Any], seconds: float, what: str) -> Any:
        try:
            return await opening.addTimeout(seconds, self._reactor)
        except (DeferredTimeout, CancelledError):
            name = self._target.name
            raise Unreachable(f"{name} {what} in {seconds:.0f} seconds") from None

    # -- tcpip-forward, streamlocal-forward -------------------------------------------
    def listen(self, request: Request) -> Deferred[int]:
        """See :class:`tele.conch.forwarding.remote.IListener`."""
        return Deferred.fromCoroutine(self._listen(request))

    async def _listen(self, request: Request) -> int:
        if isinstance(request, PathRequest):
            fields = {"kind": "streamlocal-forward", "bound": shown_path(request.path)}
        else:
            fields = {"kind": "tcpip-forward", "asked": str(Address(request.host, request.port))}
        try:
            self._check_listener(request)
            if len(self._requested.listening) >= LISTENING_LIMIT:
                raise AccessDenied(f"no more than {LISTENING_LIMIT} forwards listen at once")
            await self._records.ready()
            service = await self._target.connection()
            answer = service.sendGlobalRequest(*_listen_request(request), wantReply=True)
            try:
                data = await self._in_time(answer, LISTEN_SECONDS, "has not begun to listen")
            except ConchError:
                raise AccessDenied(f"{self._target.name} refuses to listen") from None
            real = request
            if isinstance(request, PortRequest):
                real = PortRequest(request.host, _bound_port(request, data))
                fields["bound"] = str(Address(real.host, real.port))
        except Exception as error:
            self._records.listening("forward", error=cut(for_audit(error)), **fields)
            raise
        # The target took a while: what counts is now.
        if self._closed or service.is_lost or not self._allowed.listens(real):
            self._cancel_on(service, real)
            raise Unavailable("it is not allowed any more, or the connection is lost")
        if real not in self._requested.listening:
            self._requested.listening[real] = fields
            self._records.listening("forward", **fields)
        return real.port if isinstance(real, PortRequest) else 0

    def cancel(self, request: Request) -> Any:
        """See :class:`tele.conch.forwarding.remote.IListener`."""
        if request not in self._requested.listening:
            return False
        self._forget([request])
        service = self._target.current
        if service is None:
            return False
        return self._cancel_on(service, request)

    def _cancel_on(self, service: Any, request: Request) -> Deferred[bool]:
        """Ask the target to listen no more; return whether it did."""
        name, data = _listen_request(request)
        answer: Deferred[Any] = service.sendGlobalRequest(b"cancel-" + name, data, wantReply=True)
        answer.addTimeout(LISTEN_SECONDS, self._reactor)
        return answer.addCallbacks(lambda _: True, lambda _: False)

    # -- auth-agent, x11 --------------------------------------------------------------
    def agent(self) -> Deferred[None]:
        """See :class:`tele.conch.session.session_forwarding.ISessionForwards`."""
        return Deferred.fromCoroutine(self._forward_agent())

    async def _forward_agent(self) -> None:
        self.agent_requested = True
        requested = self._requested
        if requested.agent is not None:
            return  # it is the connection's: sessions share it
        if self.agent_for_login and not self._allowed.listens(AGENT):
            return
        fields: dict[str, Any] = {"kind": AGENT, "bound": self._target.name}
        await self._permitted(self._allowed.agent, "agent", fields)
        if requested.agent is None:
            requested.agent = fields
            self._records.listening("agent", **fields)

    def _end_agent(self) -> None:
        agent, self._requested.agent = self._requested.agent, None
        if agent is not None:
            self._records.stopped_listening("agent", **agent)

    def display(self, request: DisplayRequest) -> Deferred[IDisplay]:
        """See :class:`tele.conch.session.session_forwarding.ISessionForwards`."""
        return Deferred.fromCoroutine(self._forward_display(request))

    async def _forward_display(self, request: DisplayRequest) -> RemoteDisplay:
        self._displays_made += 1
        bound = f"{self._target.name}, display {self._displays_made}"
        fields: dict[str, Any] = {"kind": "x11", "bound": bound}
        await self._permitted(self._allowed.display, "forward", fields)
        if len(self._requested.displays) >= LISTENING_LIMIT:
            raise AccessDenied(f"no more than {LISTENING_LIMIT} displays at once")

        def close() -> None:
            if display in self._requested.displays:
                self._requested.displays.discard(display)
                self._records.stopped_listening("forward", **fields)

        display = RemoteDisplay(request, close)
        self._requested.displays.add(display)
        self._records.listening("forward", **fields)
        return display

    async def _permitted(
        self, allowed: Callable[[], None], event: str, fields: dict[str, Any]
    ) -> None:
        """Return if it may be forwarded; that it may not is recorded."""
        try:
            allowed()
            await self._records.ready()
            allowed()
        except TeleError as error:
            self._records.listening(event, error=cut(str(error)), **fields)
            raise


def _port_extra(request: ForwardRequest) -> bytes:
    host, port = request.originator
    return (
        string(request.host.encode()) + uint32(request.port) + string(host.encode()) + uint32(port)
    )


def _listen_request(request: Request) -> tuple[bytes, bytes]:
    """Return name and data of the global request."""
    if isinstance(request, PathRequest):
        return b"streamlocal-forward@openssh.com", string(request.path)
    return b"tcpip-forward", string(request.host.encode()) + uint32(request.port)


def _bound_port(request: PortRequest, data: bytes) -> int:
    """Return the port that the target listens on; it says so only for any port."""
    if request.port:
        return request.port
    reader = Reader(data)
    port = reader.uint32()
    reader.end()
    if not 0 < port < 65536:
        raise ProtocolError("the target listens on a port that cannot be")
    return port


def _forwards_of(avatar: Any) -> Any:
    forwards = IRemoteForwards(avatar, None)
    if forwards is None:
        raise ConchError(ADMINISTRATIVELY_PROHIBITED, "port forwarding is not allowed")
    return forwards


def open_remote_tcpip(
    remoteWindow: int, remoteMaxPacket: int, data: bytes, avatar: Any
) -> Deferred[SplicedChannel]:
    """Open a channel of type ``direct-tcpip`` on the target: for an avatar's ``channelLookup``."""
    opened: Deferred[SplicedChannel] = _forwards_of(avatar).connect(
        read_port_target(data), remoteWindow, remoteMaxPacket
    )
    return opened


def open_remote_streamlocal(
    remoteWindow: int, remoteMaxPacket: int, data: bytes, avatar: Any
) -> Deferred[SplicedChannel]:
    """Open a channel of type ``direct-streamlocal@openssh.com``, likewise."""
    opened: Deferred[SplicedChannel] = _forwards_of(avatar).connect(
        read_path_target(data), remoteWindow, remoteMaxPacket
    )
    return opened
