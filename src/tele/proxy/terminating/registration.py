"""How does auth learn of a session through this proxy, and what does the proxy log in with for it?

Auth checks what the user signed to log in here, registers the session for this proxy, and certifies
a key for one login of that user to that target. The certificate is valid for minutes.

Invariants:

* Keys are in memory, and used for one login each.
* Further certificates are asked for when the target has proved itself: a target that cannot
  be reached uses up none of those that a session may have.
* A certificate that was not used in time is replaced by a new one: a client may open its first
  session long after it has logged in.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Final

from attrs import define, field, frozen
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from tele.certs.certificate import parse_certificate
from tele.certs.check import FORCE_COMMAND
from tele.certs.keys import PrivateKey, parse_line
from tele.conch.client.transport import ClientIdentity
from tele.conch.server.credentials import CertificateCredentials
from tele.errors import Unavailable, Unreachable
from tele.loop import now

#: A certificate with less time left is not used for a login that begins.
LEAST_LEFT: Final = timedelta(seconds=45)


@frozen
class Minted:
    """A certificate for one login (a line), and its end. Without one the line is empty."""

    line: str
    expires: datetime


#: Given the public key (a line; empty: no certificate is wanted), registers the session again.
Mint = Callable[[str], Awaitable[Minted]]


@define(eq=False)
class RegisteredSession:
    """A session that auth has registered for this proxy. ``credentials`` are the user's."""

    session_id: str
    credentials: CertificateCredentials
    _clock: IReactorTime
    _mint: Mint
    _generate: Callable[[], PrivateKey]
    #: For the next login, if there is one that was not used.
    _ready: tuple[ClientIdentity, datetime] | None = field(default=None, init=False, repr=False)
    #: The command that the certificate of the last login forces.
    forced_command: str | None = field(default=None, init=False)

    async def register(self, certificate: bool) -> None:
        """Register the session; with ``certificate``, ask for one for its first login, too.

        Raises a TeleError.
        """
        if certificate:
            self._ready = await self._certified()
        else:
            await self._mint("")

    def sign_request(self, session_id: bytes, service: bytes) -> Deferred[bytes]:
        """Return a signed request to log in to the target (``LoginIdentity``).

        Fails with a TeleError.
        """
        return Deferred.fromCoroutine(self._sign_request(session_id, service))

    async def _sign_request(self, session_id: bytes, service: bytes) -> bytes:
        try:
            identity = await self.identity()
        except Unreachable as error:
            raise Unavailable(f"auth certifies no login now: {error}") from None
        forced = identity.certificate.critical.get(FORCE_COMMAND)
        self.forced_command = None if forced is None else forced.decode()
        return identity.sign_request(session_id, service)

    async def identity(self) -> ClientIdentity:
        """Return what logs in to the target, once. Raises a TeleError."""
        ready, self._ready = self._ready, None
        if ready is None or ready[1] - now(self._clock) < LEAST_LEFT:
            ready = await self._certified()
        return ready[0]

    async def _certified(self) -> tuple[ClientIdentity, datetime]:
        private = self._generate()
        minted = await self._mint(private.public.line)
        certificate = parse_certificate(parse_line(minted.line))
        if certificate.key.blob != private.public.blob:
            raise Unavailable("auth certified another key than ours")
        return ClientIdentity(private, certificate, self.credentials.login), minted.expires
