"""With which host key does a proxy answer for a target?

Auth certifies a key of the proxy with the names of the target, and nothing else of it: the
certificate proves no membership.

Invariants:

* Keys and certificates are in memory only. Where clients may accept plain host keys auth makes the
  keys, one for each target, and the proxy makes them elsewhere.
* A certificate is renewed before it expires, while the present one is used. Without auth it is used
  until it expires.
* A key that auth has replaced is used for no new connection.
* Many clients of a target at once wait for one certificate.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Final

from attrs import define, field, frozen
from twisted.internet.interfaces import IReactorTime

from tele.certs.certificate import Certificate, parse_certificate
from tele.certs.keys import PrivateKey, parse_line
from tele.conch.transport.exchange import HostKeys
from tele.errors import TeleError, Unavailable
from tele.log import make_logger
from tele.loop import now
from tele.single_flight import SingleFlight

#: Targets whose certificates are kept.
TARGETS_LIMIT: Final = 10_000
#: The part of its time after which a certificate is renewed.
RENEW_AT: Final = 2 / 3
#: Seconds until a renewal that failed is tried again.
AGAIN_SECONDS: Final = 30.0

log = make_logger(__name__)


@frozen
class IssuedCertificate:
    """The line of a host certificate, its end, and its key if auth has made that."""

    line: str
    expires: datetime
    private: PrivateKey | None = None


#: Given the id of a target and a public key (a line), returns a certificate of that key for the
#: target; with an empty line of a key that auth makes. Raises a TeleError.
Issue = Callable[[str, str], Awaitable[IssuedCertificate]]


@define(eq=False)
class TargetKey:
    """The key for one target, and the certificate that it has now."""

    #: None: auth makes it.
    private: PrivateKey | None
    #: What ``plain()`` returned when it was first used.
    plain: int | None = None
    keys: HostKeys | None = None
    expires: datetime | None = None
    renew: datetime | None = None
    #: When the last attempt to renew it failed, by the monotonic clock.
    failed: float | None = None
    issuing: SingleFlight[TargetKey] = field(init=False)

    def host_keys(self) -> HostKeys:
        """Return key and certificate. A connection keeps the key, also when it was forgotten."""
        if self.keys is None:
            raise Unavailable("there is no certificate of this target")
        return self.keys


class TargetCertificates:
    """The host keys of targets.

    ``generate()`` makes a private key of the type that the cluster's keys have; ``plain()`` is None
    unless auth makes the keys now: then a number that changes when one of them was replaced.
    ``authorities()`` are the keys (blobs) of the host CA: first the one that signs, then others
    that are trusted.
    """

    def __init__(
        self,
        clock: IReactorTime,
        issue: Issue,
        generate: Callable[[], PrivateKey],
        plain: Callable[[], int | None] = lambda: None,
        authorities: Callable[[], Sequence[bytes]] = lambda: (),
    ) -> None:
        self._plain = plain
        self._authorities = authorities
        self._clock = clock
        self._issue = issue
        self._generate = generate
        self._kept: dict[str, TargetKey] = {}

    def __len__(self) -> int:
        return len(self._kept)

    async def get(self, host_id: str) -> TargetKey:
        """Return the key for a target, with a valid certificate.

        Raises :class:`Unavailable` if there is none, and auth makes none now.
        """
        key = self._find(host_id)
        if key.expires is None or now(self._clock) >= key.expires or self._is_dropped(key):
            return await key.issuing.call()
        if self._is_due(key):
            key.issuing.call().addErrback(lambda _: None)  # logged; this one is still valid
        return key

    def forget(self, host_id: str) -> None:
        """The host is gone."""
        self._kept.pop(host_id, None)

    def clear(self) -> None:
        """Forget all of them."""
        self._kept.clear()

    def _find(self, host_id: str) -> TargetKey:
        """Return the key for a target, which is the one used last now."""
        key, plain = self._kept.pop(host_id, None), self._plain()
        if key is None or key.plain != plain:
            while len(self._kept) >= TARGETS_LIMIT:
                del self._kept[next(iter(self._kept))]
            made = key = TargetKey(self._generate() if plain is None else None, plain)
            key.issuing = SingleFlight(lambda: self._renew(host_id, made))
        self._kept[host_id] = key
        return key

    def _is_dropped(self, key: TargetKey) -> bool:
        """Whether a key has signed it that the cluster does not trust any more."""
        trusted = self._authorities()
        return bool(trusted and key.keys) and _signer(key) not in trusted

    def _is_due(self, key: TargetKey) -> bool:
        if key.failed is not None and self._clock.seconds() - key.failed < AGAIN_SECONDS:
            return False
        signing = self._authorities()[:1]
        if signing and key.keys is not None and _signer(key) not in signing:
            return True  # a rotation: another key signs now
        return key.renew is not None and now(self._clock) >= key.renew

    async def _renew(self, host_id: str, key: TargetKey) -> TargetKey:
        try:
            line = "" if key.private is None else key.private.public.line
            issued = await self._issue(host_id, line)
            private = key.private or issued.private
            if private is None:
                raise Unavailable("auth has made no key")
            certificate = _read(issued, private)
        except TeleError as error:
            key.failed = self._clock.seconds()
            log.warn("no certificate for a target", host_id=host_id, error=str(error))
            raise Unavailable(
                f"this proxy has no host certificate for the target now: {error}"
            ) from None
        moment = now(self._clock)
        key.failed = None
        key.expires = issued.expires
        key.renew = moment + (issued.expires - moment) * RENEW_AT
        key.keys = HostKeys(private, certificate)
        return key


def _signer(key: TargetKey) -> bytes | None:
    certificate = None if key.keys is None else key.keys.certificate
    return None if certificate is None else certificate.authority_key


def _read(issued: IssuedCertificate, private: PrivateKey) -> Certificate:
    """Return the certificate, if it is one of our key. Raises :class:`TeleError`."""
    certificate = parse_certificate(parse_line(issued.line))
    if certificate.key.blob != private.public.blob:
        raise Unavailable("auth certified another key than ours")
    return certificate
