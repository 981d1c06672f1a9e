"""What does auth publish of the audit? Its head, signed, for others to keep."""

from __future__ import annotations

from datetime import datetime
from typing import Final

from attrs import frozen

#: The feature of hosts that keep heads, which each announces.
AUDIT_HEADS: Final = "audit-heads"


@frozen
class SignedHead:
    """Number and hash of the last event at ``time``, by auth's clock.

    ``host_certificate`` is the SSH host certificate of the auth that signed (one line),
    ``signature`` an SSH signature blob over what :func:`tele.audit.heads.to_sign` returns.
    """

    cluster: str
    number: int
    hash: str
    time: datetime
    host_certificate: str
    signature: bytes = b""
