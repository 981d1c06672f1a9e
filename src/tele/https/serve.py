"""How does auth answer its API over HTTPS?

Invariants:

* The table decides: what is not a row of it does not exist.
* Who calls is settled before the body is read, and all that the handler checks of them
  before a body is decoded; before one of more than :data:`UNCHECKED_BODY` bytes is let in.
* Each person, each machine and each network of strangers has a share of connections, streams,
  bodies, answers and work (:class:`tele.https.channel.Limits`). Who is over it is told to try
  again, before anything is looked at; members that ask too fast wait a few seconds first.
* An error of ours is answered with its kind; any other is logged under a number that
  the answer names, and tells the peer nothing.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any, Final, cast
from uuid import uuid4

from attrs import evolve
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IListeningPort, IProtocolFactory, IReactorTime
from twisted.python.failure import Failure
from zope.interface import Interface

from tele.admission.rate_limiter import RateLimiter
from tele.admission.shares import Shares
from tele.call_queue import CallQueue
from tele.errors import InvalidInput, NotLoggedIn, TeleError, Unavailable
from tele.https.api_errors import encode_error, status_of
from tele.https.callers import admit, counted_as
from tele.https.channel import ApiFactory, ApiRequest, Limits
from tele.https.decisions import Admitted, Document, Methods, Refused, busy, not_found
from tele.https.encoding import (
    JSON,
    LINES,
    decode_request,
    encode_response,
    shape_of,
    unreadable_body,
)
from tele.https.identity import TlsIdentity
from tele.https.local_server import LocalFactory
from tele.https.openapi import describe
from tele.https.ports import LocalPort, TcpPort
from tele.https.routes import NoRoute, Route, Routes, no_route
from tele.https.stream import Lines, Stream
from tele.https.tls_server import Preface, PrefacedTlsFactory, no_preface
from tele.https.trust import ServerTls
from tele.log import make_logger
from tele.loop import Ticker, now, steady_date
from tele.model.addresses import plain_host
from tele.model.api.operation import Anyone, Operation
from tele.model.api.table import OPERATIONS
from tele.model.authority import TrustedAuthority
from tele.model.codec import encode
from tele.model.identity import Caller, Identity

_log: Final = make_logger(__name__)

#: A body that is longer is let in only after the handler has checked its sender.
UNCHECKED_BODY: Final = 16 * 1024

#: A list with more items is written in a turn of the reactor of its own.
LONG: Final = 50

#: How many seconds a member's request waits for its share of work, before it is refused.
LONGEST_WAIT: Final = 5.0

#: The published description of all operations; open to anyone.
DESCRIPTION_PATH: Final = "/v1/openapi.json"

#: The description, and what does not exist, cost a caller this much.
_PAGE_COST: Final = 1
#: So many bytes to decode are one unit more.
_BYTES_OF_UNIT: Final = 64 * 1024


class IHandler(Interface):
    """Performs operations for callers. The kind of caller was checked."""

    def check(operation: Operation[Any, Any], caller: Caller) -> Awaitable[None]:
        """Return if ``caller`` may perform the operation now; raises a
        :class:`tele.errors.TeleError` if not, and keeps a record of that.
        """

    def perform(
        operation: Operation[Any, Any], read: Callable[[], Any], caller: Caller
    ) -> Awaitable[Any]:
        """Return the response; raises a :class:`tele.errors.TeleError`.

        ``read()`` decodes the request, and raises :class:`tele.errors.InvalidInput` when it is
        none; it is called after everything about the caller was checked as by :meth:`check`.
        """

    def follow(
        operation: Operation[Any, Any],
        request: Any,
        caller: Caller,
        receiver: Callable[[Any], None],
    ) -> Deferred[None]:
        """Tell ``receiver`` each value; the Deferred fires at the end and can be cancelled."""


class ApiServer:
    """Auth's HTTPS server.

    ``identity()`` and ``authorities()`` are asked for at each connection, and
    ``authorities()`` at each request. ``on_refused`` hears of every call that was
    refused for who the caller is (for the audit). ``preface`` reads the word of a proxy before
    TLS (:mod:`tele.https.tls_server`).
    """

    def __init__(
        self,
        reactor: Any,
        handler: IHandler,
        *,
        identity: Callable[[], TlsIdentity],
        authorities: Callable[[], Sequence[TrustedAuthority]],
        table: Mapping[str, Operation[Any, Any]] = OPERATIONS,
        limits: Limits | None = None,
        on_refused: Callable[[Operation[Any, Any], Caller, TeleError], None] | None = None,
        preface: Preface = no_preface,
    ) -> None:
        self._preface = preface
        limits = limits or Limits()
        self._reactor = reactor
        self._handler = handler
        self._authorities = authorities
        self._routes = Routes(table.values())
        self._long = CallQueue(reactor)
        self._limits = limits
        self._on_refused = on_refused
        self._lines = Lines()
        self._backlogs = Shares(limits.backlog, limits.backlogs)
        self._bodies = Shares(limits.bodies_per_caller, limits.bodies)
        self._streams: dict[str, dict[Stream, None]] = {}
        self._units = RateLimiter(limits.units_burst, limits.units_per_second)
        self._stranger_units = RateLimiter(
            limits.stranger_units_burst, limits.stranger_units_per_second
        )
        self._ticker = Ticker(reactor, limits.keepalive.total_seconds())
        self._api = ApiFactory(reactor, limits, self._on_head, self._on_request, self._on_body)
        self._tls = ServerTls(
            identity,
            lambda: [pem for a in authorities() for pem in a.tls_certificates],
            reactor,
        )
        self._ports: list[IListeningPort] = []
        self._description = encode(describe(table.values()))

    @property
    def factory(self) -> IProtocolFactory:
        """The factory of TLS connections, to listen with on any stream endpoint."""
        made: Any = PrefacedTlsFactory(self._tls, False, self._api, clock=self._reactor)
        made.preface = self._preface
        return cast(IProtocolFactory, made)

    def listen(self, host: str, port: int) -> int:
        """Listen on TCP and return the port (0 lets the kernel choose)."""
        listening = TcpPort(port, self.factory, 512, host, self._reactor)
        listening.startListening()
        self._ports.append(listening)
        bound: int = listening.getHost().port
        return bound

    def listen_local(self, path: str, identify: Callable[[int], Identity | None]) -> None:
        """Listen on a Unix socket that only its owner may open.

        ``identify(uid)`` says who an account of this machine is to the API; None refuses.
        """
        factory = LocalFactory(self._api, identify)
        listening = LocalPort(os.fsencode(path), factory, 50, 0o600, self._reactor, True)
        listening.startListening()
        self._ports.append(listening)

    async def close(self) -> None:
        """Stop listening, answer what was asked, for a few seconds, and end all connections."""
        ports, self._ports = self._ports, []
        for port in ports:
            await maybeDeferred(port.stopListening)
        await self._api.wind_down(self._limits.last_answers)
        self._ticker.stop()

    # -- before the body --------------------------------------------------------------
    def _on_head(
        self, request: ApiRequest, method: bytes, target: bytes, length: int | None
    ) -> timedelta | None:
        request.found = found = self._find(request, method, target, length)
        return found.route.operation.timeout if isinstance(found, Admitted) else None

    def _find(
        self, request: ApiRequest, method: bytes, target: bytes, length: int | None
    ) -> Refused | Admitted | Document | Methods:
        path, _, query = target.partition(b"?")
        caller, problem = self._caller(request)
        try:
            text = path.decode("ascii")
            described = text == DESCRIPTION_PATH
            route = (
                no_route(("GET",)) if described else self._routes.find(method.decode("ascii"), text)
            )
        except (UnicodeDecodeError, InvalidInput):
            route = None
        cost = _cost(route.operation, length or 0) if isinstance(route, Route) else _PAGE_COST
        wait = self._over_share(request, caller, cost)
        if isinstance(wait, Refused):
            return wait
        if route is None:
            return Refused(InvalidInput("the path cannot be read"), 400)
        if described and method in (b"GET", b"HEAD"):
            return Document(self._description)
        if isinstance(route, NoRoute):
            if method == b"OPTIONS" and route.allowed:
                return Methods(route.allowed)
            return not_found(method, text, route)
        operation = route.operation
        if length is None:
            return Refused(InvalidInput("say the length of the body (content-length)"), 411)
        if length > operation.limit:
            return Refused(
                InvalidInput(f"{operation.name}: a body may have {operation.limit} bytes"), 413
            )
        headers = request.requestHeaders.getRawHeaders
        if length and (wrong := unreadable_body(operation, headers)):
            return Refused(InvalidInput(f"{operation.name}: {wrong}"), 415)
        if problem is not None and not any(isinstance(who, Anyone) for who in operation.who):
            return self._refused(route, caller, problem)
        try:
            admit(operation, caller)
        except TeleError as error:
            return self._refused(route, caller, error)
        if not self._hold_body(request, caller, length):
            return busy("more is being sent to auth than it can hold")
        return Admitted(route, caller, query, wait)

    def _caller(self, request: ApiRequest) -> tuple[Caller, NotLoggedIn | None]:
        """Who calls; with a certificate that is worth nothing, a stranger, and why."""
        channel = request.channel
        stranger = Caller(None, _address(request.client), _address(channel.proxy))
        local = channel.local_identity
        if local is not None:
            return evolve(stranger, identity=local), None
        try:
            if (peer := channel.peer) is not None:
                identity = peer.identify(
                    self._authorities(), now(self._reactor), steady_date(self._reactor)
                )
                return evolve(stranger, identity=identity), None
        except NotLoggedIn as error:
            # Whoever needs a new certificate asks with the old one, or none.
            return stranger, error
        return stranger, None

    def _over_share(self, request: ApiRequest, caller: Caller, cost: int) -> Refused | float:
        """Count the request; returns how long it has to wait, or the refusal."""
        channel, moment = request.channel, self._reactor.seconds()
        if channel.local_identity is not None:
            return 0.0  # the owner of auth's machine
        if caller.identity is None:
            if self._stranger_units.take(channel.source, moment, cost):
                return 0.0
            return busy("too many requests come from your network")
        key = counted_as(caller.identity)
        if not self._api.belongs(channel, key):
            most = self._limits.connections_per_caller
            return busy(f"{key} has {most} connections to auth already", close=True)
        if self._api.unread.of(key) > self._limits.answers_per_caller:
            return busy(f"{key} does not read the answers that it asked for")
        wait = self._units.wait(key, moment, cost, LONGEST_WAIT)
        return busy(f"{key} sends too many requests") if wait is None else wait

    def _hold_body(self, request: ApiRequest, caller: Caller, length: int) -> bool:
        if length:
            source = f"network {request.channel.source}"
            key = source if caller.identity is None else counted_as(caller.identity)
            if not self._bodies.take(key, length):
                return False
            request.notifyFinish().addBoth(lambda _: self._bodies.give_back(key, length))
        return True

    def _refused(self, route: Route, caller: Caller, error: TeleError) -> Refused:
        if self._on_refused is not None:
            self._on_refused(route.operation, caller, error)
        return Refused(error, status_of(error))

    def _on_body(self, request: ApiRequest) -> Deferred[bool]:
        return Deferred.fromCoroutine(self._may_send(request, request.found))

    async def _may_send(self, request: ApiRequest, found: Admitted) -> bool:
        operation = found.route.operation
        if (request.channel.length or 0) <= UNCHECKED_BODY:
            return True  # the handler checks before it decodes
        try:
            await self._handler.check(operation, found.caller)
        except Exception as error:
            told = error if isinstance(error, TeleError) else _incident(operation, Failure())
            request.found = Refused(told, status_of(told))
            return False
        return True

    # -- the answer -------------------------------------------------------------------
    def _on_request(self, request: ApiRequest) -> None:
        request.setHeader(b"cache-control", b"no-store")
        request.setHeader(b"x-content-type-options", b"nosniff")
        found = request.found
        if isinstance(found, Document):
            _respond(request, 200, found.body, JSON)
        elif isinstance(found, Methods):
            request.setHeader(b"allow", _listed(found.allowed))
            request.setResponseCode(204)
            request.finish()
        elif isinstance(found, Refused):
            if found.close:
                request.setHeader(b"connection", b"close")
                request.channel.persistent = False
            if found.allowed:
                request.setHeader(b"allow", _listed(found.allowed))
            _respond(request, found.status, encode_error(found.error), JSON)
        elif found.wait:
            timer = self._reactor.callLater(found.wait, self._perform, request, found)
            request.notifyFinish().addBoth(lambda _: timer.active() and timer.cancel())
        else:
            self._perform(request, found)

    def _perform(self, request: ApiRequest, found: Admitted) -> None:
        operation, path, query = found.route.operation, found.route.path, found.query
        body = request.content.read()
        if operation.streams:
            try:
                value = decode_request(operation, path, query, body)
            except InvalidInput as error:
                _respond(request, 400, encode_error(error), JSON)
                return
            if request.method != b"HEAD":
                self._stream(request, found, value)
                return
        answer = _Answer(request, operation, self._reactor)
        caller = evolve(found.caller, present=answer.awaited)

        def read() -> Any:
            return decode_request(operation, path, query, body)

        # Not cancelled when the time is over or the peer is gone: a handler that is
        # stopped between two steps would leave half of its work.
        performed = self._headed if operation.streams else self._performed
        done = Deferred.fromCoroutine(performed(operation, read, caller))
        done.addCallbacks(answer.succeeded, answer.failed)

    async def _performed(
        self, operation: Operation[Any, Any], read: Callable[[], Any], caller: Caller
    ) -> tuple[bytes, str]:
        response = await self._handler.perform(operation, read, caller)
        if len(getattr(response, "items", ())) > LONG:
            await self._long.turn()
        return encode_response(operation, response)

    async def _headed(
        self, operation: Operation[Any, Any], _: Callable[[], Any], caller: Caller
    ) -> tuple[bytes, str]:
        """The HEAD of a stream, which nobody follows: whether it may be followed."""
        await self._handler.check(operation, caller)
        return b"", LINES

    def _stream(self, request: ApiRequest, found: Admitted, value: Any) -> None:
        identity = found.caller.identity
        stream = Stream(
            request,
            self._reactor,
            self._ticker,
            self._backlogs,
            self._lines,
            identity.expires if identity is not None else None,
            lambda error: _respond(request, status_of(error), encode_error(error), JSON),
        )
        if identity is not None and request.channel.local_identity is None:
            self._count_stream(request, counted_as(identity), stream)
        stream.connect(
            maybeDeferred(
                self._handler.follow,
                found.route.operation,
                value,
                found.caller,
                stream.send,
            )
        )

    def _count_stream(self, request: ApiRequest, key: str, stream: Stream) -> None:
        """Count a stream among its reader's; of too many, the oldest ends.

        After a network failed, the oldest are those that nobody reads any more.
        """
        streams = self._streams.setdefault(key, {})
        streams[stream] = None

        def ended(_: object) -> None:
            streams.pop(stream, None)
            if not streams and self._streams.get(key) is streams:
                del self._streams[key]

        request.notifyFinish().addBoth(ended)
        if len(streams) > self._limits.streams_per_caller:
            oldest = next(iter(streams))
            del streams[oldest]
            oldest.end(Unavailable(f"{key} opened too many streams: this is its oldest"))


class _Answer:
    """Answers once: with what the handler found, or that it takes too long."""

    def __init__(
        self, request: ApiRequest, operation: Operation[Any, Any], clock: IReactorTime
    ) -> None:
        self._request: ApiRequest | None = request
        self._operation = operation
        self._timer = clock.callLater(operation.timeout.total_seconds(), self._too_late)
        request.notifyFinish().addBoth(self._gone)

    def awaited(self) -> bool:
        """Whether somebody still waits for the answer."""
        return self._request is not None

    def _gone(self, _: object) -> None:
        # Answered, or there is nobody left to answer.
        self._request = None
        if self._timer.active():
            self._timer.cancel()

    def _send(self, status: int, body: bytes, content_type: str = JSON) -> None:
        if (request := self._request) is not None:
            _respond(request, status, body, content_type)

    def succeeded(self, response: tuple[bytes, str]) -> None:
        """The handler is done."""
        self._send(200, *response)

    def failed(self, failure: Failure) -> None:
        """The handler failed, or has a mistake."""
        error = failure.value
        if isinstance(error, TeleError):
            self._send(status_of(error), encode_error(error))
            return
        self._send(500, encode_error(_incident(self._operation, failure)))

    def _too_late(self) -> None:
        _log.warn("{name} takes too long", name=self._operation.name)
        self._send(503, encode_error(Unavailable("auth takes too long to answer; try again")))


def _incident(operation: Operation[Any, Any], failure: Failure) -> TeleError:
    """Log a mistake of ours; returns what the caller is told of it."""
    incident = uuid4().hex[:12]
    _log.failure(
        "{name} failed, incident {incident}",
        failure=failure,
        name=operation.name,
        incident=incident,
    )
    return TeleError(f"auth failed inside; its log has incident {incident}")


def _cost(operation: Operation[Any, Any], length: int) -> int:
    """Return what a call takes of its caller's share: more for much that has to be decoded."""
    read = 0 if shape_of(operation).octets else min(length, operation.limit)
    return operation.cost + read // _BYTES_OF_UNIT


def _respond(request: ApiRequest, status: int, body: bytes, content_type: str) -> None:
    request.setResponseCode(status)
    request.setHeader(b"content-type", content_type.encode("ascii"))
    if content_type != LINES:
        request.setHeader(b"content-length", b"%d" % len(body))
    request.write(body)  # to HEAD, Twisted sends what is before the body
    request.channel.answered(0 if request.method == b"HEAD" else len(body))
    request.finish()


def _listed(methods: tuple[str, ...]) -> bytes:
    return ", ".join(methods).encode("ascii")


def _address(peer: Any) -> str:
    host = plain_host(getattr(peer, "host", ""))
    return f"[{host}]:{peer.port}" if ":" in host else f"{host}:{peer.port}" if host else ""
