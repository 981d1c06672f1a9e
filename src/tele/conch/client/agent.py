"""How does a server log in elsewhere with the agent that its client forwards?

Invariants:

* The agent is the client's: it is asked for its keys and for signatures of our logins, nothing
  else, one request at a time, each with a time limit.
* Only certificates of the cluster that are valid for the login are used, a few of them.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import Any, Final

from attrs import frozen
from twisted.internet.defer import Deferred, DeferredLock
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.interfaces import IReactorTime

from tele.certs.algorithms import RSA_SHA256, RSA_SHA512, USER_ALGORITHMS
from tele.certs.certificate import Certificate, CertKind, parse_certificate
from tele.conch.client.login_request import login_algorithm, login_request, signed_part
from tele.conch.connection.channel import Channel
from tele.conch.session.session_forwarding import AGENT_CHANNEL
from tele.errors import BadCertificate, ProtocolError, Unreachable
from tele.wire import agent as messages
from tele.wire.fields import Reader, string

#: Seconds that a client has to open the channel to its agent, and to list its keys.
ANSWER_SECONDS: Final = 15.0
#: Seconds to sign: a person may have to confirm it, or to touch a key.
SIGN_SECONDS: Final = 60.0
#: Certificates that are tried.
IDENTITIES_LIMIT: Final = 4

_FLAGS: Final = {RSA_SHA256: messages.RSA_SHA2_256, RSA_SHA512: messages.RSA_SHA2_512}


class AgentChannel(Channel):
    """A channel to the agent of the peer."""

    name = AGENT_CHANNEL

    def __init__(self) -> None:
        super().__init__()
        self.opened: Deferred[AgentChannel] = Deferred()
        self._received = bytearray()
        self._answer: Deferred[bytes] | None = None

    def channelOpen(self, specificData: bytes) -> None:
        """It is open."""
        if self.opened.called:  # the wait for it was given up
            self.loseConnection()
        else:
            self.opened.callback(self)

    def openFailed(self, reason: Any) -> None:
        """The client refused it, or its connection was lost."""
        self._fail(Unreachable(f"the client forwards no agent: {reason}"))

    def ask(self, message: bytes) -> Deferred[bytes]:
        """Send a request; fires with the answer."""
        answer: Deferred[bytes] = Deferred()
        if not self.is_open:
            answer.errback(Unreachable("the channel to the client's agent is closed"))
            return answer
        self._answer = answer
        self.write(message)
        return answer

    def data_view(self, view: memoryview) -> None:
        """The agent answers."""
        size = len(view)
        if self._answer is None:
            raise ProtocolError("an answer of an agent to no request")
        self._received += view
        self.consumed(size)
        message = messages.take_message(self._received)
        if message is not None:
            if len(self._received) != 4 + len(message):
                raise ProtocolError("more than one answer of an agent to a request")
            self._received.clear()
            answer, self._answer = self._answer, None
            answer.callback(message)

    def eofReceived(self) -> None:
        """The agent answers no more."""
        self.loseConnection()

    def closed(self) -> None:
        """It is closed."""
        super().closed()
        self._fail(Unreachable("the client closed the channel to its agent"))

    def _fail(self, error: Unreachable) -> None:
        answer, self._answer = self._answer, None
        for waiting in (self.opened, answer):
            if waiting is not None and not waiting.called:
                waiting.errback(error)


@frozen
class AgentIdentity:
    """A certificate of the client's agent, for a login."""

    certificate: Certificate
    login: str
    _agent: Agent

    def sign_request(self, session_id: bytes, service: bytes) -> Deferred[bytes]:
        """Return the payload of a signed USERAUTH_REQUEST."""
        return Deferred.fromCoroutine(self._sign_request(session_id, service))

    async def _sign_request(self, session_id: bytes, service: bytes) -> bytes:
        algorithm = login_algorithm(self.certificate)
        request = login_request(self.login, service, algorithm, self.certificate.blob)
        kind = USER_ALGORITHMS[algorithm].signature
        data = signed_part(session_id, request)
        signature = await self._agent.sign(self.certificate.blob, data, _FLAGS.get(kind, 0))
        if Reader(signature).string(64) != kind:
            raise ProtocolError("the agent signed with another algorithm than it was asked for")
        return request + string(signature)


class Agent:
    """The client's agent, on an open channel."""

    def __init__(self, clock: IReactorTime, channel: AgentChannel) -> None:
        self._clock = clock
        self._channel = channel
        self._lock = DeferredLock()

    async def _ask(self, message: bytes, seconds: float, what: str) -> bytes:
        await self._lock.acquire()
        try:
            answer = self._channel.ask(message)
            return await answer.addTimeout(seconds, self._clock)
        except DeferredTimeout:
            self.close()  # a late answer would be taken for that of the next request
            raise Unreachable(
                f"the client's agent did not {what} in {seconds:.0f} seconds"
            ) from None
        finally:
            self._lock.release()

    async def identities(
        self, login: str, trusted: Collection[bytes], now: datetime
    ) -> tuple[AgentIdentity, ...]:
        """Return its certificates of an authority in ``trusted`` (key blobs) for ``login`` that are
        valid ``now``, those that end last first. Raises a :class:`tele.errors.TeleError`.
        """
        answer = await self._ask(messages.LIST, ANSWER_SECONDS, "list its keys")
        seconds = now.timestamp()
        found = []
        for blob in messages.read_identities(answer):
            try:
                certificate = parse_certificate(blob)
            except BadCertificate:
                continue
            if (
                certificate.kind is CertKind.USER
                and certificate.authority_key in trusted
                and login in certificate.principals
                and certificate.valid_after <= seconds < certificate.valid_before
            ):
                found.append(certificate)
        found.sort(key=lambda certificate: -certificate.valid_before)
        return tuple(AgentIdentity(each, login, self) for each in found[:IDENTITIES_LIMIT])

    async def sign(self, blob: bytes, data: bytes, flags: int) -> bytes:
        """Return the signature of the key of ``blob``. Raises a :class:`tele.errors.TeleError`."""
        answer = await self._ask(messages.sign_request(blob, data, flags), SIGN_SECONDS, "sign")
        return messages.read_signature(answer)

    def close(self) -> None:
        """It is not needed any more."""
        self._channel.loseConnection()


async def open_agent(clock: IReactorTime, connection: Any) -> Agent:
    """Open the client's agent on ``connection``, our connection service.

    Raises :class:`Unreachable` if the client does not forward it, or does not answer.
    """
    channel = AgentChannel()
    connection.openChannel(channel)
    try:
        await channel.opened.addTimeout(ANSWER_SECONDS, clock)
    except DeferredTimeout:
        raise Unreachable(
            f"the client did not open its agent in {ANSWER_SECONDS:.0f} seconds"
        ) from None
    return Agent(clock, channel)
