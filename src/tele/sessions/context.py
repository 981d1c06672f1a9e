"""Whose connection is it, from where, and what may be done on it?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import Factory, define

from tele.conch.server.credentials import CertificateCredentials
from tele.model.access import Grant
from tele.model.addresses import Address


@define
class ConnectionContext:
    """The ends of a connection and what may be done on it; addresses are (host, port).

    ``grant`` is decided again when the rules of the cluster change. ``host_fields`` are in each
    event: which host it is, where that is not the one that reports the event.
    """

    grant: Grant
    session_id: str
    remote_addr: tuple[str, int]
    local_addr: tuple[str, int]
    host_fields: Mapping[str, str] = Factory(dict)

    @classmethod
    def of(
        cls,
        grant: Grant,
        credentials: CertificateCredentials,
        session_id: str,
        host_fields: Mapping[str, str] | None = None,
    ) -> ConnectionContext:
        """Return the ends of a connection that logged in with ``credentials``."""
        ends = credentials.remote_addr, credentials.local_addr
        return cls(grant, session_id, *ends, host_fields or {})

    @property
    def event_fields(self) -> Mapping[str, Any]:
        """See :class:`tele.membership.audit_reporter.EventSubject`."""
        identity = self.grant.identity
        return {
            "user": identity.user,
            "login": self.grant.login,
            "roles": self.grant.roles,
            "session_id": self.session_id,
            "login_session": identity.login_session,
            "remote_addr": str(Address(*self.remote_addr)),
            **self.host_fields,
        }
