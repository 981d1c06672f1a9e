"""What has to be remembered while keys are exchanged, and only then?

Invariants:

* One object per exchange; nothing of it outlives it but what the transport takes.
"""

from __future__ import annotations

from attrs import define

from tele.certs.certificate import Certificate
from tele.certs.keys import PrivateKey
from tele.wire.agreement import Initiation
from tele.wire.ciphers import Secrets
from tele.wire.negotiation import Agreement, KexInit


@define
class HostKeys:
    """What a server proves itself with now. Looked up anew for each exchange."""

    private: PrivateKey
    certificate: Certificate | None = None


@define
class Exchange:
    """One key exchange of one connection.

    ``host_keys`` is what a server offered in it, ``initiation`` the client's half.
    ``secrets`` are there between our NEWKEYS and the peer's.
    """

    ours: KexInit
    theirs: KexInit | None = None
    agreement: Agreement | None = None
    host_keys: HostKeys | None = None
    initiation: Initiation | None = None
    secrets: Secrets | None = None
    skip_guess: bool = False
