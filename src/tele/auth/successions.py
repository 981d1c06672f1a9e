"""How does a host that was away during a rotation trust the TLS key that it finds at its return?

The key that it knows has signed a certificate of the key that replaced it
(:func:`tele.certs.x509.certify_successor`). Auth sends these after its own certificate, so that a
path leads from each key that may be known still to the one that signs now. The host then proves the
key that is registered for it, and gets new certificates.

Invariants:

* One is made when the new key begins to sign, while the old one is trusted by all, and again when
  the old key is dropped: the latter is valid for as long as a host may be away (:func:`away_of`).
* After a rotation from a compromised key there is none, of no key before: nothing that only the old
  key says is believed.
* No peer is accepted by one at auth: a certificate of a dropped key stays refused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Final

from attrs import frozen
from cryptography import x509

from tele.certs.x509 import TlsKey, certify_successor
from tele.model.cluster_settings import HostCertificates
from tele.model.lifetimes import HOST_LIFETIME

_MARGIN: Final = HOST_LIFETIME
#: How many are kept: each is sent in each handshake.
LIMIT: Final = 4


@frozen
class Succession:
    """``certificate`` (PEM) is of the key that replaced that of the CA ``former`` (PEM)."""

    former: str
    certificate: str
    ends: datetime


def away_of(rules: HostCertificates) -> timedelta:
    """Return for how long a dropped key says what replaced it.

    That is as long as a host may come back without a token, counted from the last moment at which
    it can have got a certificate of that key; and one day.
    """
    return rules.lifetime + rules.rejoin_limit + _MARGIN


def make_succession(
    former: str,
    key: TlsKey,
    successor: str,
    now: datetime,
    entropy: Callable[[int], bytes],
    lifetime: timedelta | None = None,
) -> Succession:
    """Return what the CA ``former`` signs about ``successor``: for ``lifetime``, or its own."""
    ends = x509.load_pem_x509_certificate(former.encode("ascii")).not_valid_after_utc
    if lifetime is not None:
        ends = min(ends, now + lifetime)
    return Succession(former, certify_successor(former, key, successor, now, ends, entropy), ends)


def added(
    kept: Sequence[Succession], new: Succession | None, now: datetime
) -> tuple[Succession, ...]:
    """Return what is kept when a key was dropped; ``new`` None: it was compromised."""
    if new is None:
        return ()
    return (*(each for each in kept if each.ends > now), new)[-LIMIT:]


def shown(kept: Sequence[Succession], now: datetime) -> list[Succession]:
    """Return those that are sent, the last one first: up to the first that ends soon."""
    found: list[Succession] = []
    for each in reversed(kept):
        if each.ends <= now + _MARGIN:
            break
        found.append(each)
    return found
