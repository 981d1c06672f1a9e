"""How does a part serve ``/healthz``, ``/readyz`` and ``/metrics``?

Invariants:

* It has a listener of its own, on a loopback address unless the configuration names another one,
  from before the part starts until after it has stopped.
* A part is not worse for its numbers: where the address is taken it serves users as usual, says so
  in the log, and tries again every :data:`AGAIN_SECONDS`.
* Numbers are read at most once in :data:`FRESH_SECONDS`, however many ask.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final, cast

from twisted.application.service import Service
from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IDelayedCall, IListeningPort

from tele._version import VERSION
from tele.capacity.accepting import PatientPort
from tele.log import make_logger
from tele.measures import catalogue
from tele.measures.metric import Measured, Sample
from tele.metrics.delay import LoopDelay
from tele.metrics.exposition import Exposition
from tele.metrics.http import CONNECTIONS_LIMIT, Answer, PageFactory
from tele.model.addresses import Address
from tele.reactor import Reactor
from tele.sockets.traffic import TRAFFIC
from tele.workers import in_thread_pool

#: Seconds between two attempts to listen.
AGAIN_SECONDS: Final = 30.0
#: For so many seconds the numbers that were read are answered again.
FRESH_SECONDS: Final = 1.0

_log: Final = make_logger(__name__)


class _Port(PatientPort):
    """The listener."""

    def shortage(self, why: str) -> None:
        """See :class:`PatientPort`."""
        _log.warn("no connection can be accepted", port=self._realPortNumber, error=why)

    def not_taken(self) -> None:
        """See :class:`PatientPort`."""
        _log.failure("connection not accepted")


class MetricsService(Service):
    """The page of ``part``.

    ``problem()`` says why the part does not serve, or nothing. ``measured()`` returns what has
    numbers now.
    """

    def __init__(
        self,
        reactor: Reactor,
        part: str,
        listen_at: tuple[str, int],
        problem: Callable[[], str],
        measured: Callable[[], Iterable[Measured]],
    ) -> None:
        self._reactor = reactor
        self._part = part
        self._address = listen_at
        self._problem = problem
        self._measured = measured
        self._delay = LoopDelay(reactor)
        self._exposition: Exposition | None = None
        self._loading: Deferred[Exposition] | None = None
        self._pages: dict[str, tuple[float, Answer]] = {}
        self._scrapes = 0
        self._port: IListeningPort | None = None
        self._again: IDelayedCall | None = None
        self._is_taken = False
        self._factory = PageFactory(reactor, self._page, loopback=_is_loopback(listen_at[0]))

    @property
    def port(self) -> int:
        """The port that is listened on, 0 for none."""
        if self._port is None:
            return 0
        host: Any = self._port.getHost()
        return int(host.port)

    def startService(self) -> None:
        """Listen, or try again later."""
        super().startService()
        self._delay.start()
        self._listen()

    def _listen(self) -> None:
        self._again = None
        host, port = self._address
        try:
            listening = _Port(port, self._factory, CONNECTIONS_LIMIT, host, self._reactor)
            listening.startListening()
        except CannotListenError as error:
            self._again = self._reactor.callLater(AGAIN_SECONDS, self._listen)
            if not self._is_taken:
                self._is_taken = True
                reason = getattr(error.socketError, "strerror", None) or error.socketError
                _log.warn(
                    "metrics are not served, the address cannot be listened on",
                    part=self._part, address=str(Address(host, port)), error=str(reason),
                    advice=f"set metrics of {self._part} to another address, or to off",
                )  # fmt: skip
            return
        self._port = cast(IListeningPort, listening)
        self._is_taken = False
        address = Address(host, self.port)
        _log.info("metrics are served", part=self._part, address=str(address))

    def stopService(self) -> Deferred[None]:
        """Close the listener and all connections."""
        super().stopService()
        self._delay.stop()
        if self._again is not None:
            self._again.cancel()
            self._again = None
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        port, self._port = self._port, None
        if port is not None:
            await maybeDeferred(port.stopListening)
        self._factory.close_all()

    # -- pages ------------------------------------------------------------------------
    def _page(self, path: str, accept: str) -> Deferred[Answer] | None:
        if path == "/healthz":
            return succeed(Answer(200, b"ok\n"))
        if path == "/readyz":
            problem = self._problem()
            if problem:
                return succeed(Answer(503, f"{problem}\n".encode("utf-8", "replace")))
            return succeed(Answer(200, b"ready\n"))
        return Deferred.fromCoroutine(self._numbers(accept)) if path == "/metrics" else None

    async def _numbers(self, accept: str) -> Answer:
        self._scrapes += 1
        moment = self._reactor.seconds()
        # Of what clients accept only this makes a difference.
        form = "application/openmetrics-text" if "openmetrics" in accept else ""
        kept = self._pages.get(form)
        if kept is not None and 0 <= moment - kept[0] < FRESH_SECONDS:
            return kept[1]
        exposition = self._exposition or await self._load()
        body, content_type = exposition.render(self.samples(), form)
        answer = Answer(200, body, content_type)
        self._pages[form] = (self._reactor.seconds(), answer)
        return answer

    async def _load(self) -> Exposition:
        """Import what renders, once, in a thread."""
        if self._loading is None:
            self._loading = in_thread_pool(self._reactor, Exposition)
        waiting: Deferred[Exposition] = Deferred()

        def loaded(result: Any) -> Any:
            waiting.callback(result)
            return result

        self._loading.addBoth(loaded)
        self._exposition = await waiting
        return self._exposition

    def samples(self) -> Iterator[Sample]:
        """Return all numbers of the part."""
        yield catalogue.BUILD.at(1, VERSION, self._part)
        yield catalogue.READY.at(not self._problem())
        yield catalogue.SCRAPES.at(self._scrapes)
        yield from self._delay.samples()
        sent, received = TRAFFIC.total
        yield catalogue.NETWORK.at(sent, "sent")
        yield catalogue.NETWORK.at(received, "received")
        for each in self._measured():
            yield from each.samples()


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def measured_of(*candidates: object) -> Sequence[Measured]:
    """Return those that have numbers: a plugin need not have any."""
    return [each for each in candidates if isinstance(each, Measured)]
