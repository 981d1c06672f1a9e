"""Which events does a proxy report, besides logins that were denied?

Invariant: users cannot fill the audit: denials of users who are logged in are rate limited, in all
and for each user.
"""

from __future__ import annotations

from typing import Final

from twisted.internet.interfaces import IReactorTime

from tele.admission.rate_limiter import RateLimiter, ReportLimiter
from tele.errors import AccessDenied
from tele.membership.audit_reporter import AuditReporter
from tele.model.access import Denied
from tele.model.addresses import Address
from tele.proxy.jump_avatar import JumpAvatar
from tele.tunnel.acceptor import Tunnel

#: Denials of one user in one go, and how many more each second.
USER_DENIED_BURST: Final = 20.0
USER_DENIED_PER_SECOND: Final = 1.0
#: The same of all users.
DENIED_BURST: Final = 500.0
DENIED_PER_SECOND: Final = 20.0
#: Characters of the target that a client named.
TARGET_LIMIT: Final = 256


class JumpAudit:
    """Reports what happens on connections of users, and of nodes."""

    def __init__(self, clock: IReactorTime, reporter: AuditReporter) -> None:
        self._clock = clock
        self._reporter = reporter
        self._limiter = ReportLimiter(
            RateLimiter(DENIED_BURST, DENIED_PER_SECOND),
            RateLimiter(USER_DENIED_BURST, USER_DENIED_PER_SECOND),
        )

    def denied(self, avatar: JumpAvatar, target: str, error: AccessDenied) -> None:
        """Report that a user was denied access to a node, within the rate limit."""
        more = self._limiter.listed(self._clock.seconds(), {}, avatar.identity.user)
        if more is None:
            return
        self._reporter.emit(
            "auth.denied",
            avatar,
            error=str(error),
            reason=error.reason,
            target=target[:TARGET_LIMIT],
            **more,
        )

    def ended(self, avatar: JumpAvatar, denied: Denied) -> None:
        """Report that a connection ends because its user may no longer have it."""
        self._reporter.emit(
            "session.end",
            avatar,
            error=denied.message,
            reason=denied.reason.value,
            nodes=sorted({host.name for host in avatar.nodes}),
        )

    def duplicate(self, old: Tunnel, new: Tunnel) -> None:
        """Report that two machines have the keys of one node."""
        self._reporter.emit(
            "node.duplicate",
            remote_addr=str(Address(*new.remote_addr)),
            error=f"two machines have the keys of node {new.host.name}: replace them",
            node_id=new.host.host_id,
            node=new.host.name,
            other_addr=str(Address(*old.remote_addr)),
        )
