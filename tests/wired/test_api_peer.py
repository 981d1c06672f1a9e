"""The peer is identified once, and its permission is checked for each request."""

from __future__ import annotations

from datetime import timedelta

import pytest
from cryptography import x509

from api_world import Ca, host, real_now
from tele.errors import NotLoggedIn
from tele.https.callers import Peer
from tele.model.authority import AuthorityKind
from tele.model.identity import HostRole


def test_trust_and_time_are_read_for_each_request() -> None:
    """What was good for one request is refused in the next when its authority is gone, replaced by
    one of another kind or key, or when its time is over; a rotation that keeps it is fine.
    """
    ca, other = Ca.make(AuthorityKind.HOST), Ca.make(AuthorityKind.HOST)
    user_ca = Ca.make(AuthorityKind.USER)
    text = ca.issue(host(HostRole.NODE)).certificate.encode()
    shown: list[x509.Certificate] = []

    def show() -> x509.Certificate:
        shown.append(x509.load_pem_x509_certificates(text)[0])
        return shown[-1]

    peer, now = Peer(show), real_now()
    assert peer.identify([ca.trusted], now) == peer.identify([ca.trusted, user_ca.trusted], now)
    seen = len(shown)
    for _ in range(100):
        peer.identify([ca.trusted], now)
    assert len(shown) == seen
    for trusted in ([], [other.trusted], [user_ca.trusted]):
        with pytest.raises(NotLoggedIn, match="CA"):
            peer.identify(trusted, now)
    peer.identify([other.trusted, ca.trusted], now)
    for moment in (now + timedelta(hours=1), now - timedelta(hours=1)):
        with pytest.raises(NotLoggedIn, match="expired"):
            peer.identify([ca.trusted], moment)
    peer.identify([ca.trusted], now)


def test_a_foreign_certificate_stays_refused() -> None:
    """A certificate that is not one of tele is refused at each request."""
    text = Ca.make(AuthorityKind.HOST).certificate.encode()
    peer = Peer(lambda: x509.load_pem_x509_certificates(text)[0])
    for _ in range(2):
        with pytest.raises(NotLoggedIn, match="not one of tele"):
            peer.identify([Ca.make(AuthorityKind.HOST).trusted], real_now())
