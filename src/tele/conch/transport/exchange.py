"""Which values belong to one running key exchange?

Invariants:

* One object per exchange; it is dropped at the end of the exchange.
"""

from __future__ import annotations

from attrs import define

from tele.certs.certificate import Certificate
from tele.certs.keys import PrivateKey
from tele.wire.ciphers import Secrets
from tele.wire.key_agreement import Initiation
from tele.wire.negotiation import Agreement, KexInit


@define
class HostKeys:
    """The host key of a server, and its certificate. Looked up for each exchange."""

    private: PrivateKey
    certificate: Certificate | None = None


@define
class Exchange:
    """One key exchange of one connection.

    ``host_keys`` are the server's, ``initiation`` is the client's half. ``secrets`` are set between
    our NEWKEYS and the peer's.
    """

    ours: KexInit
    theirs: KexInit | None = None
    agreement: Agreement | None = None
    host_keys: HostKeys | None = None
    initiation: Initiation | None = None
    secrets: Secrets | None = None
    skip_guess: bool = False
