"""Which operation does a request ask for, who calls, and may they, before a body is read?

Invariants:

* The table decides: what is not a row of it does not exist.
* Each user, each host and each network of unauthenticated clients has a share of connections,
  bodies, responses and work (:class:`tele.https.limits.Limits`). A caller over it is refused for
  now, before anything else is checked; members that ask too fast wait a few seconds first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from attrs import evolve
from twisted.internet.interfaces import IReactorTime

from tele.admission.rate_limiter import RateLimiter
from tele.admission.shares import Shares
from tele.errors import InvalidInput, NotLoggedIn, TeleError
from tele.https.api_errors import status_of
from tele.https.callers import admit, counted_as
from tele.https.channel import ApiChannel, ApiRequest, address_text
from tele.https.connections import ApiFactory
from tele.https.decisions import Admitted, Document, Methods, Refused, busy, not_found
from tele.https.encoding import shape_of, unreadable_body
from tele.https.limits import LONGEST_WAIT, Limits
from tele.https.openapi import describe
from tele.https.routes import NoRoute, Route, Routes, no_route
from tele.loop import now, steady_date
from tele.model.api.operation import Anyone, Operation
from tele.model.authority import TrustedAuthority
from tele.model.codec import encode
from tele.model.identity import Caller, Identity

#: The published description of all operations; open to anyone.
DESCRIPTION_PATH: Final = "/v1/openapi.json"

#: What the description, and a path that does not exist, cost a caller.
_PAGE_COST: Final = 1
#: So many bytes to decode are one unit more.
_BYTES_OF_UNIT: Final = 64 * 1024


class RequestAdmission:
    """Decides about requests by their heads.

    ``authorities()`` are asked for at each request. ``on_refused`` is called with every call that
    was refused for its caller (for the audit).
    """

    def __init__(
        self,
        clock: IReactorTime,
        operations: Iterable[Operation[Any, Any]],
        limits: Limits,
        authorities: Callable[[], Sequence[TrustedAuthority]],
        on_refused: Callable[[Operation[Any, Any], Caller, TeleError], None],
    ) -> None:
        operations = tuple(operations)
        self._clock = clock
        self._limits = limits
        self._authorities = authorities
        self._on_refused = on_refused
        self._routes = Routes(operations)
        self._description = encode(describe(operations))
        self._bodies = Shares(limits.bodies_per_caller, limits.bodies)
        self._units = RateLimiter(limits.units_burst, limits.units_per_second)
        self._unauthenticated_units = RateLimiter(
            limits.unauthenticated_units_burst, limits.unauthenticated_units_per_second
        )

    def decide(
        self,
        connections: ApiFactory,
        request: ApiRequest,
        method: bytes,
        target: bytes,
        length: int | None,
    ) -> Refused | Admitted | Document | Methods:
        """Return how ``request`` is to be answered; ``length`` is None for a chunked body."""
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
        wait = self._over_share(connections, request, caller, cost)
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
        """Return the caller, unauthenticated with the reason if its certificate is refused."""
        channel = request.channel
        anonymous = Caller(None, address_text(request.client), address_text(channel.proxy))
        local = channel.local_identity
        if local is not None:
            return evolve(anonymous, identity=local), None
        try:
            if (identity := self.identify(channel)) is not None:
                return evolve(anonymous, identity=identity), None
        except NotLoggedIn as error:
            # A caller that needs a new certificate asks with the old one, or none.
            return anonymous, error
        return anonymous, None

    def identify(self, channel: ApiChannel) -> Identity | None:
        """Return the identity of a connection by its certificate, None without one.

        Raises :class:`NotLoggedIn` for a certificate that is not accepted now.
        """
        if (peer := channel.peer) is None:
            return None
        return peer.identify(self._authorities(), now(self._clock), steady_date(self._clock))

    def _over_share(
        self, connections: ApiFactory, request: ApiRequest, caller: Caller, cost: int
    ) -> Refused | float:
        """Count the request; return how long it has to wait, or the refusal."""
        channel, moment = request.channel, self._clock.seconds()
        if channel.local_identity is not None:
            return 0.0  # the owner of auth's machine
        if caller.identity is None:
            if self._unauthenticated_units.take(channel.source, moment, cost):
                return 0.0
            return busy("too many requests come from your network")
        key = counted_as(caller.identity)
        if not connections.belongs(channel, key):
            most = self._limits.connections_per_caller
            return busy(f"{key} has {most} connections to auth already", close=True)
        if connections.unread.of(key) > self._limits.answers_per_caller:
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
        self._on_refused(route.operation, caller, error)
        return Refused(error, status_of(error))


def _cost(operation: Operation[Any, Any], length: int) -> int:
    """Return what a call takes of its caller's share: more if it has much to decode."""
    read = 0 if shape_of(operation).octets else min(length, operation.limit)
    return operation.cost + read // _BYTES_OF_UNIT
