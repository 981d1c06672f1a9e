"""Which user certificates are there, and which of them are revoked now?

Invariants:

* A certificate is noted in the commit of its event, before its user gets it.
* Whether it is revoked is what decides at a login, too: locks on its user, on a role of it, on its
  login session and on it alone; the removal and the expiry of its user. A lock on a login, a host
  or a session concerns no certificate as a whole.
* An expired certificate is forgotten: no server accepts it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Final

from attrs import frozen

from tele.auth.repository import STEP, Repository
from tele.interfaces import IBackend, Put
from tele.model.identity import UserIdentity
from tele.rbac.policy import Policy

#: How long after its end a certificate is still listed: clocks of servers may be behind.
AFTERWARDS: Final = timedelta(minutes=5)


@frozen
class IssuedCertificate:
    """What decides about a certificate, by its serial."""

    user: str
    roles: tuple[str, ...]
    login_session: str
    issued: datetime
    expires: datetime


class IssuedCertificates:
    """The user certificates of a cluster that have not expired."""

    def __init__(self, backend: IBackend, cluster: str, now: Callable[[], datetime]) -> None:
        self._cluster = cluster
        self._now = now
        self._repository = Repository(backend, "/certificates/", IssuedCertificate)

    def note(self, serial: int, issued: IssuedCertificate) -> Put:
        """Return the change that notes a certificate."""
        left = issued.expires + AFTERWARDS - self._now()
        return self._repository.put(str(serial), issued, ttl=left)

    async def revoked(self, policy: Policy) -> Sequence[int]:
        """Return the serials of those that are revoked now. It reads all, in steps."""
        now, after, found = self._now(), "", list[int]()
        while True:
            page = await self._repository.list(STEP, after)
            for entry in page:
                serial, value = int(entry.name), entry.value
                identity = UserIdentity(
                    value.user, self._cluster, value.expires, value.roles, issued=value.issued,
                    login_session=value.login_session, serial=serial,
                )  # fmt: skip
                if policy.refuses_user(identity, now) is not None:
                    found.append(serial)
            if len(page) < STEP:
                return found
            after = page[-1].name
