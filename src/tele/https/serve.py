"""How does auth answer its API over HTTPS?

Invariants:

* The caller is known before a body is read, and the handler has checked it
  before a body is decoded; before one of more than :data:`UNCHECKED_BODY` bytes is read.
* What a request may cost is decided by its head: :mod:`tele.https.request_admission`.
* A large body is decoded, and a large response encoded, in a thread
  (:mod:`tele.https.large_json`).
* Each user and each host has a share of streams; with one more, the oldest ends.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from functools import partial
from typing import Any, Final, cast

from attrs import evolve
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import (
    IDelayedCall,
    IListeningPort,
    IProtocolFactory,
    IReactorTime,
)
from twisted.python.failure import Failure

from tele.admission.shares import Shares
from tele.call_queue import CallQueue
from tele.errors import InvalidInput, NotLoggedIn, TeleError, Unavailable
from tele.https.api_errors import status_of
from tele.https.callers import counted_as
from tele.https.channel import ApiChannel, ApiRequest
from tele.https.connections import ApiFactory
from tele.https.decisions import Admitted, Document, Methods, Refused
from tele.https.encoding import (
    LINES,
    decode_request,
    encode_large_response,
    encode_response,
    gives_octets,
    takes_octets,
)
from tele.https.handler import IHandler
from tele.https.identity import TlsIdentity
from tele.https.large_json import ITEM, LARGE, LargeJson
from tele.https.limits import UNCHECKED_BODY, Limits
from tele.https.local_server import LocalFactory
from tele.https.ports import LocalPort, TcpPort
from tele.https.ranges import PartHead, part_head, with_range
from tele.https.request_admission import RequestAdmission
from tele.https.responses import PendingResponse, refuse, respond, shown_error
from tele.https.stream import Lines, Stream
from tele.https.tls_server import Preface, PrefacedTlsFactory, no_preface
from tele.https.trust import ServerTls
from tele.log import make_logger
from tele.loop import Ticker
from tele.measures import catalogue
from tele.measures.metric import Histogram, Sample, Tally
from tele.model.api.operation import Operation
from tele.model.api.table import OPERATIONS
from tele.model.authority import TrustedAuthority
from tele.model.identity import Caller, Identity

#: A list with more items is encoded in a turn of the reactor of its own.
LONG: Final = 50
#: The one who drops an authority by a certificate of it gets the answer first.
RECHECK_SECONDS: Final = 1.0

_log: Final = make_logger(__name__)


class ApiServer:
    """Auth's HTTPS server.

    ``identity()`` and ``authorities()`` are asked for at each connection, and
    ``authorities()`` at each request. ``on_refused`` is called with every call that was
    refused for its caller (for the audit). ``preface`` reads what a proxy sends before
    TLS (:mod:`tele.https.tls_server`).
    """

    def __init__(
        self,
        reactor: IReactorTime,
        handler: IHandler,
        *,
        identity: Callable[[], TlsIdentity],
        authorities: Callable[[], Sequence[TrustedAuthority]],
        table: Mapping[str, Operation[Any, Any]] = OPERATIONS,
        limits: Limits | None = None,
        on_refused: Callable[[Operation[Any, Any], Caller, TeleError], None] = lambda *_: None,
        preface: Preface = no_preface,
    ) -> None:
        self._preface = preface
        limits = limits or Limits()
        self._reactor = reactor
        self._handler = handler
        self._long = CallQueue(reactor)
        self._large = LargeJson(reactor)
        self._limits = limits
        self._lines = Lines()
        self._backlogs = Shares(limits.backlog, limits.backlogs)
        self._streams: dict[str, dict[Stream, None]] = {}
        self._ticker = Ticker(reactor, limits.keepalive.total_seconds())
        self._admission = RequestAdmission(reactor, table.values(), limits, authorities, on_refused)
        self._api = ApiFactory(reactor, limits, self._on_head, self._on_request, self._on_body)
        self._tls = ServerTls(
            identity,
            lambda: [pem for a in authorities() for pem in a.tls_certificates],
            reactor,
        )
        self._ports: list[IListeningPort] = []
        self._recheck: IDelayedCall | None = None
        self._results, self._times = Tally(), Histogram()

    def samples(self) -> Iterator[Sample]:
        """See :class:`tele.measures.metric.Measured`."""
        yield from self._results.samples(catalogue.REQUESTS)
        yield catalogue.REQUEST_SECONDS.at(self._times)
        yield catalogue.API_CONNECTIONS.at(len(self._api.open_channels))

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

        ``identify(uid)`` returns the caller that an account of this machine is; None refuses.
        """
        factory = LocalFactory(self._api, identify)
        listening = LocalPort(os.fsencode(path), factory, 50, 0o600, self._reactor, True)
        listening.startListening()
        self._ports.append(listening)

    def authorities_changed(self) -> None:
        """Soon end connections by certificates that no present authority has signed.

        Streams and idle connections would stay; a request is refused anyhow.
        """
        if self._recheck is None:
            self._recheck = self._reactor.callLater(RECHECK_SECONDS, self._check_all_again)

    def _check_all_again(self) -> None:
        self._recheck = None
        for channel in self._api.open_channels:  # one in a turn
            self._long.add(partial(self._check_again, channel))

    def _check_again(self, channel: ApiChannel) -> None:
        if channel.peer is None or channel not in self._api.open_channels:
            return
        try:
            self._admission.identify(channel)
        except NotLoggedIn as error:
            _log.debug("connection closed", peer=channel.source, error=str(error))
            channel.transport.abortConnection()

    async def close(self) -> None:
        """Stop listening, answer pending requests for a few seconds, and end all connections."""
        if self._recheck is not None:
            self._recheck.cancel()
            self._recheck = None
        ports, self._ports = self._ports, []
        for port in ports:
            await maybeDeferred(port.stopListening)
        await self._api.wind_down(self._limits.last_answers)
        self._large.close()
        self._ticker.stop()

    # -- before the body --------------------------------------------------------------
    def _on_head(
        self, request: ApiRequest, method: bytes, target: bytes, length: int | None
    ) -> timedelta | None:
        request.decision = decision = self._admission.decide(
            self._api, request, method, target, length
        )
        return decision.route.operation.timeout if isinstance(decision, Admitted) else None

    def _on_body(self, request: ApiRequest) -> Deferred[bool]:
        return Deferred.fromCoroutine(self._may_send(request, request.decision))

    async def _may_send(self, request: ApiRequest, admitted: Admitted) -> bool:
        operation = admitted.route.operation
        if (request.channel.length or 0) <= UNCHECKED_BODY:
            return True  # the handler checks before it decodes
        try:
            await self._handler.check(operation, admitted.caller)
        except Exception:
            error = shown_error(operation, Failure())
            request.decision = Refused(error, status_of(error))
            return False
        return True

    # -- responses --------------------------------------------------------------------
    def _on_request(self, request: ApiRequest) -> None:
        request.setHeader(b"cache-control", b"no-store")
        request.setHeader(b"x-content-type-options", b"nosniff")
        decision = request.decision
        if isinstance(decision, Document):
            respond(request, 200, decision.body)
        elif isinstance(decision, Methods):
            request.setHeader(b"allow", _listed(decision.allowed))
            request.setResponseCode(204)
            request.finish()
        elif isinstance(decision, Refused):
            if decision.close:
                request.setHeader(b"connection", b"close")
                request.channel.persistent = False
            if decision.allowed:
                request.setHeader(b"allow", _listed(decision.allowed))
            refuse(request, decision.error, decision.status)
        elif decision.wait:
            timer = self._reactor.callLater(decision.wait, self._perform, request, decision)
            request.notifyFinish().addBoth(lambda _: timer.cancel() if timer.active() else None)
        else:
            self._perform(request, decision)

    def _perform(self, request: ApiRequest, admitted: Admitted) -> None:
        operation, path, query = admitted.route.operation, admitted.route.path, admitted.query
        body = request.content.read()
        if operation.streams:
            try:
                value = decode_request(operation, path, query, body)
            except InvalidInput as error:
                refuse(request, error)
                return
            if request.method != b"HEAD":
                self._stream(request, admitted, value)
                return
        pending = PendingResponse(request, operation, self._reactor)
        caller = evolve(admitted.caller, present=pending.awaited)

        def read() -> Any:
            value = decode_request(operation, path, query, body)
            if operation.ranges:
                value = with_range(value, *map(request.getHeader, ("range", "if-range")))
            return value

        # Not cancelled when it takes too long or the connection is lost: a handler that
        # stopped between two steps would leave half of its work.
        done = Deferred.fromCoroutine(self._answered(operation, read, caller, len(body)))
        done.addBoth(self._measure, self._reactor.seconds())
        done.addCallbacks(pending.succeeded, pending.failed)

    def _measure(self, result: Any, begun: float) -> Any:
        self._times.observe(self._reactor.seconds() - begun)
        if not isinstance(result, Failure):
            self._results.add("ok")
        else:
            error = result.value
            self._results.add(error.kind if isinstance(error, TeleError) else "internal")
        return result

    async def _answered(
        self, operation: Operation[Any, Any], read: Callable[[], Any], caller: Caller, size: int
    ) -> tuple[bytes, str, PartHead | None]:
        if operation.streams:
            return await self._checked(operation, read, caller)
        key = "" if caller.identity is None else counted_as(caller.identity)
        if size > LARGE and not takes_octets(operation):
            # Before the body was read the handler has checked that the caller may send it.
            value = await self._large.call(key, size, read)
            read = partial(_given, value)
        response = await self._handler.perform(operation, read, caller)
        items = len(getattr(response, "items", ()))
        part = part_head(response) if operation.ranges else None
        if items * ITEM > LARGE and not gives_octets(operation):
            size = items * ITEM
            return (*await self._large.call(key, size, encode_large_response, response), part)
        if items > LONG:
            await self._long.turn()
        return (*encode_response(operation, response), part)

    async def _checked(
        self, operation: Operation[Any, Any], _: Callable[[], Any], caller: Caller
    ) -> tuple[bytes, str, PartHead | None]:
        """The HEAD of a stream: whether it may be followed."""
        await self._handler.check(operation, caller)
        return b"", LINES, None

    def _stream(self, request: ApiRequest, admitted: Admitted, value: Any) -> None:
        identity = admitted.caller.identity
        stream = Stream(
            request,
            self._reactor,
            self._ticker,
            self._backlogs,
            self._lines,
            identity.expires if identity is not None else None,
            lambda error: refuse(request, error),
        )
        if identity is not None and request.channel.local_identity is None:
            self._count_stream(request, counted_as(identity), stream)
        stream.connect(
            maybeDeferred(
                self._handler.follow,
                admitted.route.operation,
                value,
                admitted.caller,
                stream.send,
            )
        )

    def _count_stream(self, request: ApiRequest, key: str, stream: Stream) -> None:
        """Count a stream among its reader's; of too many, the oldest ends.

        After a network failure the oldest are those that no client reads.
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


def _given(value: Any) -> Any:
    return value


def _listed(methods: tuple[str, ...]) -> bytes:
    return ", ".join(methods).encode("ascii")
