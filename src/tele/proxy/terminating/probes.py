"""Is a registered host online, and does it prove that it is that host?

Hosts that run OpenSSH's sshd do not announce themselves: the proxy connects to each of them from
time to time, as far as its proof of its key, and tells auth.

Invariants:

* Nothing is sent to a host but a key exchange; a probe does not log in.
* One periodic probe of a host runs or waits, and so many run at once, each for a limited time. They
  are spread over the period: a fleet costs a proxy a few connections a second.
* A host that was registered a moment ago, and that no proxy has reached yet, is probed at once.
* What is known is reported together; a report that fails is not repeated: the next one follows.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from attrs import frozen
from twisted.internet.defer import CancelledError, Deferred, DeferredSemaphore
from twisted.internet.interfaces import IReactorTime, IStreamClientEndpoint
from twisted.internet.protocol import Protocol
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from tele.certs.certificate import Certificate
from tele.certs.check import CheckedHost
from tele.conch.client.target import TargetHostTransport
from tele.conch.client.transport import One, Verifier
from tele.errors import BadCertificate, TeleError
from tele.log import make_logger
from tele.model.codec import format_time
from tele.model.presence import NEVER, Host
from tele.routing.direct import dial_server
from tele.sockets.tcp import connect_problem

#: Each host is probed once in so many seconds.
PERIOD_SECONDS: Final = 30.0
#: How often newly registered hosts are looked for.
NEW_HOSTS_SECONDS: Final = 2.0
#: Probes at once, and how long one may take.
AT_ONCE: Final = 128
PROBE_SECONDS: Final = 10.0
#: How long results are gathered, and how many are reported with one call.
GATHER_SECONDS: Final = 2.0
REPORT_LIMIT: Final = 500
#: Characters of a problem.
PROBLEM_LIMIT: Final = 256
#: The end of a certificate that does not expire, as a date.
LAST_SECOND: Final = int(datetime(9999, 12, 31, tzinfo=UTC).timestamp())

log = make_logger(__name__)


@frozen
class Probed:
    """What a probe found: ``problem`` is empty if the host is there, at ``address``."""

    host_id: str
    problem: str = ""
    address: str = ""


@frozen
class LastingVerifier:
    """Accepts what ``verifier`` accepts; why it does not is the same text in each probe.

    Auth stores the text when it changes: it does not say what time it is.
    """

    verifier: Verifier

    def verify(self, certificate: Certificate, at: datetime) -> CheckedHost:
        """Return the identity of the host. Raises :class:`BadCertificate`."""
        try:
            return self.verifier.verify(certificate, at)
        except BadCertificate as error:
            if error.reason != "validity":
                raise
            begin, end = _shown(certificate.valid_after), _shown(certificate.valid_before)
            raise BadCertificate(
                f"its certificate has expired, or is not valid yet: it is valid from {begin} to"
                f" {end}; sign its key again (tele ca sign-host), or set the clock",
                "validity",
            ) from None


def _shown(seconds: int) -> str:
    return format_time(datetime.fromtimestamp(min(seconds, LAST_SECOND), UTC))


class _ProbeTransport(TargetHostTransport):
    """Ends when the server has proved its host key."""

    def connectionSecure(self) -> None:
        """The server is the expected one."""
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.callback(None)
        self.loseConnection()


async def probe(
    clock: IReactorTime, endpoint: IStreamClientEndpoint, verifier: Verifier | None
) -> None:
    """Return if the server at ``endpoint`` proves that it is the expected one.

    Without ``verifier`` it is enough that it is an SSH server. Raises a :class:`TeleError`, or what
    the endpoint fails with.
    """
    if verifier is None:
        stream = await dial_server(endpoint, b"")
        stream.transport.abortConnection()
        return
    transport = _ProbeTransport(clock, LastingVerifier(verifier), Protocol, None)
    ready = transport.ready()
    try:
        await endpoint.connect(One(transport))
    except BaseException:
        ready.addErrback(lambda _: None)
        raise
    await ready


class Probes:
    """Probes the ``hosts()``, each with ``check(host)``, and calls ``report`` with what it found.

    ``dice()`` returns a random number in [0, 1).
    """

    def __init__(
        self,
        clock: IReactorTime,
        hosts: Callable[[], Iterable[Host]],
        check: Callable[[Host], Awaitable[None]],
        report: Callable[[Sequence[Probed]], Awaitable[None]],
        dice: Callable[[], float] = random.random,
    ) -> None:
        self._clock = clock
        self._hosts = hosts
        self._check = check
        self._report = report
        self._dice = dice
        self._places = DeferredSemaphore(AT_ONCE)
        self._found: list[Probed] = []
        #: Hosts whose probe runs, or waits to.
        self._waiting: set[str] = set()
        #: Hosts that were never reached, and had their first probe.
        self._tried: set[str] = set()
        self._running: set[Deferred[Any]] = set()

    def start(self) -> None:
        """Probe from now on."""
        self._run(self._rounds())
        self._run(self._first_probes())
        self._run(self._reports())

    def stop(self) -> None:
        """Probe no more."""
        for each in list(self._running):
            each.cancel()

    def _run(self, work: Any) -> None:
        running: Deferred[Any] = Deferred.fromCoroutine(work)
        self._running.add(running)

        def ended(result: Any) -> None:
            self._running.discard(running)
            if isinstance(result, Failure) and not result.check(CancelledError):
                log.failure("probes failed", failure=result)

        running.addBoth(ended)

    async def _rounds(self) -> None:
        """Begin a probe of each host at a moment of its own in each period."""
        while True:
            for host in self._hosts():
                if host.id not in self._waiting:
                    self._waiting.add(host.id)
                    self._run(self._later(host, self._dice() * PERIOD_SECONDS))
            await deferLater(self._clock, PERIOD_SECONDS)

    async def _first_probes(self) -> None:
        """Probe hosts once soon after they were registered, whatever the period is."""
        while True:
            new = {host.id: host for host in self._hosts() if host.last_seen == NEVER}
            for host_id in new.keys() - self._tried:
                self._run(self._probed(new[host_id]))
            self._tried = set(new)
            await deferLater(self._clock, NEW_HOSTS_SECONDS)

    async def _later(self, host: Host, seconds: float) -> None:
        try:
            await deferLater(self._clock, seconds)
            await self._probed(host)
        finally:
            self._waiting.discard(host.id)

    async def _probed(self, host: Host) -> None:
        await self._places.run(lambda: Deferred.fromCoroutine(self._one(host)))

    async def _one(self, host: Host) -> None:
        probing: Deferred[None] = Deferred.fromCoroutine(self._checked(host))
        late = f"it does not answer within {PROBE_SECONDS:.0f} s"
        timer = self._clock.callLater(PROBE_SECONDS, probing.cancel)
        problem = late
        try:
            await probing
            problem = ""
        except CancelledError:
            if timer.active():
                raise  # the proxy stops
        except TeleError as error:
            problem = str(error)
        except Exception as error:
            problem = connect_problem(error)
        finally:
            if timer.active():
                timer.cancel()
        address = host.addresses[0] if host.addresses else ""
        self._found.append(Probed(host.id, problem[:PROBLEM_LIMIT], address))

    async def _checked(self, host: Host) -> None:
        await self._check(host)

    async def _reports(self) -> None:
        while True:
            await deferLater(self._clock, GATHER_SECONDS)
            found, self._found = self._found, []
            for begin in range(0, len(found), REPORT_LIMIT):
                try:
                    await self._report(found[begin : begin + REPORT_LIMIT])
                except TeleError as error:
                    log.info("probes not reported", count=len(found) - begin, error=str(error))
                    break
