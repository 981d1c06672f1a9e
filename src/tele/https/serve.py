"""How does auth answer its API over HTTPS?

Laws of this file:

* The table decides: what is not a row of it does not exist.
* Who calls is settled before the body is read; what a row's rules say beyond the
  kind of caller is for the handler.
* An error of ours is answered with its kind; any other is logged under a number that
  the answer names, and tells the peer nothing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any, Final, cast
from uuid import uuid4

from attrs import evolve, frozen
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IListeningPort, IProtocolFactory, IReactorTime
from twisted.python.failure import Failure
from zope.interface import Interface

from tele.errors import InvalidInput, NotFound, NotLoggedIn, TeleError, Unavailable, quoted
from tele.https.answers import encode_error, status_of
from tele.https.callers import admit
from tele.https.channel import ApiFactory, ApiRequest, Limits, LocalFactory, TlsFactory
from tele.https.encoding import JSON, decode_request, encode_response
from tele.https.identity import TlsIdentity
from tele.https.openapi import describe
from tele.https.routes import NoRoute, Route, Routes
from tele.https.stream import Lines, Stream
from tele.https.trust import ServerTls
from tele.loop import Ticker, make_logger, now
from tele.model.api.operation import Anyone, Operation
from tele.model.api.table import OPERATIONS
from tele.model.authority import TrustedAuthority
from tele.model.codec import encode
from tele.model.identity import Caller, Identity

_log: Final = make_logger(__name__)

#: The published description of all operations; open to anyone.
DESCRIPTION_PATH: Final = "/v1/openapi.json"


class IHandler(Interface):
    """Performs operations for callers. Who may call at all was checked."""

    def handle(operation: Operation[Any, Any], request: Any, caller: Caller) -> Awaitable[Any]:
        """Return the response; raises a :class:`tele.errors.TeleError`."""

    def follow(
        operation: Operation[Any, Any],
        request: Any,
        caller: Caller,
        receiver: Callable[[Any], None],
    ) -> Deferred[None]:
        """Tell ``receiver`` each value; the Deferred fires at the end and can be cancelled."""


@frozen
class _Refused:
    """Answer with this."""

    error: TeleError
    status: int
    allowed: tuple[str, ...] = ()


@frozen
class _Admitted:
    """Perform this."""

    route: Route
    caller: Caller
    query: bytes


@frozen
class _Document:
    """Send this."""

    body: bytes


class ApiServer:
    """Auth's HTTPS server.

    ``identity()`` and ``authorities()`` are asked for at each connection, and
    ``authorities()`` at each request. ``on_refused`` hears of every call that was
    refused for who the caller is (for the audit).
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
    ) -> None:
        limits = limits or Limits()
        self._reactor = reactor
        self._handler = handler
        self._authorities = authorities
        self._routes = Routes(table.values())
        self._limits = limits
        self._on_refused = on_refused
        self._lines = Lines()
        self._ticker = Ticker(reactor, limits.keepalive.total_seconds())
        self._api = ApiFactory(reactor, limits, self._on_head, self._on_request)
        self._tls = ServerTls(
            identity, lambda: [pem for a in authorities() for pem in a.tls_certificates]
        )
        self._ports: list[IListeningPort] = []
        self._description = encode(describe(table.values()))

    @property
    def factory(self) -> IProtocolFactory:
        """The factory of TLS connections, to listen with on any stream endpoint."""
        made: Any = TlsFactory(self._tls, False, self._api, clock=self._reactor)
        return cast(IProtocolFactory, made)

    def listen(self, host: str, port: int) -> int:
        """Listen on TCP and return the port (0 lets the kernel choose)."""
        listening = self._reactor.listenTCP(port, self.factory, interface=host, backlog=512)
        self._ports.append(listening)
        bound: int = listening.getHost().port
        return bound

    def listen_local(self, path: str, identify: Callable[[int], Identity | None]) -> None:
        """Listen on a Unix socket that only its owner may open.

        ``identify(uid)`` says who an account of this machine is to the API; None refuses.
        """
        factory = LocalFactory(self._api, identify)
        self._ports.append(self._reactor.listenUNIX(path, factory, mode=0o600, wantPID=True))

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
        return found.route.operation.timeout if isinstance(found, _Admitted) else None

    def _find(
        self, request: ApiRequest, method: bytes, target: bytes, length: int | None
    ) -> _Refused | _Admitted | _Document:
        path, _, query = target.partition(b"?")
        try:
            text = path.decode("ascii")
            if text == DESCRIPTION_PATH and method == b"GET":
                return _Document(self._description)
            route = self._routes.find(method.decode("ascii"), text)
        except (UnicodeDecodeError, InvalidInput):
            return _Refused(InvalidInput("the path cannot be read"), 400)
        if isinstance(route, NoRoute):
            return _not_found(method, text, route)
        operation = route.operation
        if length is None:
            return _Refused(InvalidInput("say the length of the body (content-length)"), 411)
        if length > operation.limit:
            return _Refused(
                InvalidInput(f"{operation.name}: a body may have {operation.limit} bytes"), 413
            )
        return self._admitted(request, route, query)

    def _admitted(self, request: ApiRequest, route: Route, query: bytes) -> _Refused | _Admitted:
        stranger = Caller(None, _address(request))
        caller = evolve(stranger, identity=request.channel.local_identity)
        try:
            if (peer := request.channel.peer) is not None:
                identity = peer.identify(self._authorities(), now(self._reactor))
                caller = evolve(stranger, identity=identity)
        except NotLoggedIn as error:
            # Whoever needs a new certificate asks with the old one, or none.
            if not any(isinstance(who, Anyone) for who in route.operation.who):
                return self._refused(route, stranger, error)
        try:
            admit(route.operation, caller)
        except TeleError as error:
            return self._refused(route, caller, error)
        return _Admitted(route, caller, query)

    def _refused(self, route: Route, caller: Caller, error: TeleError) -> _Refused:
        if self._on_refused is not None:
            self._on_refused(route.operation, caller, error)
        return _Refused(error, status_of(error))

    # -- the answer -------------------------------------------------------------------
    def _on_request(self, request: ApiRequest) -> None:
        request.setHeader(b"cache-control", b"no-store")
        request.setHeader(b"x-content-type-options", b"nosniff")
        found = request.found
        if isinstance(found, _Document):
            _respond(request, 200, found.body, JSON)
        elif isinstance(found, _Refused):
            if found.allowed:
                request.setHeader(b"allow", ", ".join(found.allowed).encode("ascii"))
            _respond(request, found.status, encode_error(found.error), JSON)
        else:
            self._perform(request, found)

    def _perform(self, request: ApiRequest, found: _Admitted) -> None:
        operation = found.route.operation
        try:
            value = decode_request(operation, found.route.path, found.query, request.content.read())
        except InvalidInput as error:
            _respond(request, 400, encode_error(error), JSON)
            return
        if operation.streams:
            self._stream(request, found, value)
            return
        answer = _Answer(request, operation, self._reactor)
        # Not cancelled when the time is over or the peer is gone: a handler that is
        # stopped between two steps would leave half of its work.
        done = Deferred.fromCoroutine(self._handled(operation, value, found.caller))
        done.addCallbacks(answer.succeeded, answer.failed)

    async def _handled(
        self, operation: Operation[Any, Any], value: Any, caller: Caller
    ) -> tuple[bytes, str]:
        response = await self._handler.handle(operation, value, caller)
        return encode_response(operation, response)

    def _stream(self, request: ApiRequest, found: _Admitted, value: Any) -> None:
        identity = found.caller.identity
        stream = Stream(
            request,
            self._reactor,
            self._ticker,
            self._limits.backlog,
            self._lines,
            identity.expires if identity is not None else None,
            lambda error: _respond(request, status_of(error), encode_error(error), JSON),
        )
        stream.connect(
            maybeDeferred(
                self._handler.follow,
                found.route.operation,
                value,
                found.caller,
                stream.send,
            )
        )


class _Answer:
    """Answers once: with what the handler found, or that it takes too long."""

    def __init__(
        self, request: ApiRequest, operation: Operation[Any, Any], clock: IReactorTime
    ) -> None:
        self._request: ApiRequest | None = request
        self._operation = operation
        self._timer = clock.callLater(operation.timeout.total_seconds(), self._too_late)
        request.notifyFinish().addBoth(self._gone)

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
        incident = uuid4().hex[:12]
        _log.failure(
            "{name} failed, incident {incident}",
            failure=failure,
            name=self._operation.name,
            incident=incident,
        )
        self._send(
            500, encode_error(TeleError(f"auth failed inside; its log has incident {incident}"))
        )

    def _too_late(self) -> None:
        _log.warn("{name} takes too long", name=self._operation.name)
        self._send(503, encode_error(Unavailable("auth takes too long to answer; try again")))


def _respond(request: ApiRequest, status: int, body: bytes, content_type: str) -> None:
    request.setResponseCode(status)
    request.setHeader(b"content-type", content_type.encode("ascii"))
    request.setHeader(b"content-length", b"%d" % len(body))
    request.write(body)
    request.finish()


def _not_found(method: bytes, path: str, route: NoRoute) -> _Refused:
    if route.allowed:
        text = f"{path[:256]!r} has {', '.join(route.allowed)}, not {quoted(method)}"
        return _Refused(InvalidInput(text), 405, route.allowed)
    return _Refused(NotFound(f"the API has no {path[:256]!r}"), 404)


def _address(request: ApiRequest) -> str:
    peer = request.client
    host = getattr(peer, "host", "")
    return f"[{host}]:{peer.port}" if ":" in host else f"{host}:{peer.port}" if host else ""
