"""How does a part of tele that runs on the reactor call auth?

Invariants:

* An address is tried by calling it; the one that answered last is called first.
* What is tried again, and for how long: :mod:`tele.https.call_rules`.
* A renewed identity or a rotated CA applies to the next call.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from twisted.internet import defer
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from zope.interface import implementer

from tele.errors import AccessDenied, InvalidInput, TeleError, Unreachable, WrongClock
from tele.https.api_errors import decode_error, read_line
from tele.https.call_rules import (
    STREAM_TIMEOUT,
    NotSent,
    check_size,
    cut_off,
    is_error,
    may_repeat,
    read_response,
    timeout_of,
)
from tele.https.connection import Answered, ApiConnection
from tele.https.encoding import Encoded, encode_request
from tele.https.identity import TlsIdentity
from tele.https.pinning import pinned, server_name, unverified
from tele.https.pool import Endpoint, Pool
from tele.interfaces import IAuthority
from tele.model.addresses import Address
from tele.model.api.members import CLUSTER, ClusterInfo
from tele.model.api.operation import Nothing, Operation

#: Errors after which the next address is tried.
_PASSING: Final = (Unreachable, AccessDenied, WrongClock, defer.TimeoutError)


@implementer(IAuthority)
class RemoteAuthority:
    """Auth at one of ``addresses`` (``host:port``).

    ``identity()`` None calls only what is open to anyone; ``trust()`` are the host
    authority's certificates (PEM), None verifies nothing and is for the first
    contact only. ``server_name`` is ``auth.<cluster>``.
    """

    def __init__(
        self,
        reactor: IReactorTime,
        addresses: Sequence[str],
        identity: Callable[[], TlsIdentity | None],
        trust: Callable[[], Sequence[str]] | None,
        server_name: str,
        *,
        endpoint: Endpoint | None = None,
    ) -> None:
        if not addresses:
            raise InvalidInput("no address of auth is known")
        for address in addresses:
            Address.parse(address)
        self._reactor = reactor
        self._addresses = list(addresses)
        self._pool = Pool(reactor, server_name, identity, trust, endpoint)

    def perform(self, operation: Operation[Any, Any], request: Any) -> Deferred[Any]:
        """See :class:`tele.interfaces.IAuthority`."""
        return Deferred.fromCoroutine(self._perform(operation, request))

    def follow(
        self, operation: Operation[Any, Any], request: Any, receiver: Callable[[Any], None]
    ) -> Deferred[None]:
        """See :class:`tele.interfaces.IAuthority`.

        Fails with :class:`Unreachable` when the connection breaks or the server sends
        nothing for 45 seconds. Following again is up to the caller, which knows what
        may have been missed.
        """
        return Deferred.fromCoroutine(self._follow(operation, request, receiver))

    def close(self) -> None:
        """Close all connections; calls that run fail."""
        self._pool.close()

    # -- one response -----------------------------------------------------------------
    async def _perform(self, operation: Operation[Any, Any], request: Any) -> Any:
        encoded = encode_request(operation, request)
        body = _Body()
        problem: TeleError = Unreachable("auth did not answer")
        for address, idle in self._attempts():
            try:
                connection = self._pool.take(address) if idle else await self._pool.connect(address)
                if connection is None:
                    continue
                answered = await self._exchange(connection, operation, encoded, body)
            except _PASSING as error:
                problem = _as_tele_error(address, error)
                sent = not isinstance(error, NotSent | AccessDenied | WrongClock)
                if sent and not may_repeat(operation):
                    raise problem from None
            else:
                self._answered(address)
                self._pool.keep(connection, address)
                return read_response(operation, answered.status, body.joined())
        raise problem

    def _attempts(self) -> list[tuple[str, bool]]:
        # An idle connection may be dead, which is no sign that its address is: the address
        # gets a second try with a new connection.
        return [(address, idle) for address in self._addresses for idle in (True, False)]

    async def _exchange(
        self,
        connection: ApiConnection,
        operation: Operation[Any, Any],
        encoded: Encoded,
        body: _Body,
    ) -> Answered:
        body.clear()
        done = connection.exchange(operation.method, encoded, body.receive)
        done.addTimeout(timeout_of(operation), self._reactor)
        return await done

    def _answered(self, address: str) -> None:
        if self._addresses[0] != address:
            self._addresses.remove(address)
            self._addresses.insert(0, address)

    # -- many values ------------------------------------------------------------------
    async def _follow(
        self,
        operation: Operation[Any, Any],
        request: Any,
        receiver: Callable[[Any], None],
    ) -> None:
        encoded = encode_request(operation, request)
        problem: TeleError = Unreachable("auth did not answer")
        for address in list(self._addresses):
            lines = _Lines(operation, receiver)
            try:
                connection = await self._pool.connect(address)
                try:
                    await self._listen(connection, operation, encoded, lines)
                finally:
                    connection.abort()
            except _PASSING as error:
                problem = _as_tele_error(address, error)
                if lines.started:
                    raise problem from None
            else:
                self._answered(address)
                return lines.end()
        raise problem

    async def _listen(
        self,
        connection: ApiConnection,
        operation: Operation[Any, Any],
        encoded: Encoded,
        lines: _Lines,
    ) -> None:
        silent = False

        def receive(status: int, data: bytes) -> None:
            watchdog.reset(STREAM_TIMEOUT)
            lines.receive(status, data)

        def give_up() -> None:
            nonlocal silent
            silent = True
            done.cancel()

        done = connection.exchange(operation.method, encoded, receive)
        # The head is due as any response is; afterwards at least a keepalive.
        watchdog = self._reactor.callLater(timeout_of(operation), give_up)
        try:
            await done
        except CancelledError:
            if silent:
                raise defer.TimeoutError from None
            raise
        finally:
            if watchdog.active():
                watchdog.cancel()


class _Body:
    """Collects a body, up to a limit."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._size = 0

    def clear(self) -> None:
        self._pieces.clear()
        self._size = 0

    def receive(self, _status: int, data: bytes) -> None:
        self._size += len(data)
        check_size("auth", self._size)
        self._pieces.append(data)

    def joined(self) -> bytes:
        return b"".join(self._pieces)


class _Lines:
    """Cuts a streaming response into values. Once ``started``, no other address is tried."""

    def __init__(self, operation: Operation[Any, Any], receiver: Callable[[Any], None]) -> None:
        self._operation = operation
        self._receiver = receiver
        self._rest = _Body()
        self._status = 0

    @property
    def started(self) -> bool:
        return self._status != 0

    def receive(self, status: int, data: bytes) -> None:
        self._status = status
        if is_error(status):
            self._rest.receive(status, data)
            return
        *whole, rest = data.split(b"\n")
        for line in whole:
            self._rest.receive(status, line)
            text = self._rest.joined()
            self._rest.clear()
            if text:
                self._receiver(read_line(self._operation, text))
        self._rest.receive(status, rest)

    def end(self) -> None:
        """The response is complete; raises the error that it means, if any."""
        rest = self._rest.joined()
        if is_error(self._status):
            raise decode_error(self._status, rest)
        if rest:
            raise cut_off("auth")


def _as_tele_error(address: str, error: Exception) -> TeleError:
    if isinstance(error, TeleError):
        return error
    return Unreachable(f"{address} did not answer in time")


async def _fetch(
    reactor: IReactorTime, address: str, pins: Sequence[str], endpoint: Endpoint | None
) -> ClusterInfo:
    anonymous = RemoteAuthority(
        reactor, [address], lambda: None, None, "auth.invalid", endpoint=endpoint
    )
    try:
        info: ClusterInfo = await anonymous.perform(CLUSTER, Nothing())
    finally:
        anonymous.close()
    if not pins:
        return unverified(info)
    trust = pinned(address, info, pins)
    known = RemoteAuthority(
        reactor,
        [address],
        lambda: None,
        lambda: trust,
        server_name(info.cluster),
        endpoint=endpoint,
    )
    try:
        verified: ClusterInfo = await known.perform(CLUSTER, Nothing())
    finally:
        known.close()
    return verified


def fetch_cluster(
    reactor: IReactorTime, address: str, pins: Sequence[str], endpoint: Endpoint | None = None
) -> Deferred[ClusterInfo]:
    """Ask an unverified server for its cluster, and check the answer against ``pins``.

    With pins, all of the answer is verified: see :mod:`tele.https.pinning`.
    Without, it is an :class:`~tele.https.pinning.UnverifiedCluster`. ``endpoint(host,
    port)`` replaces plain TCP.
    """
    return Deferred.fromCoroutine(_fetch(reactor, address, pins, endpoint))
