"""With which keys does a member's SSH server prove itself, and which authorities does it trust?

Invariant: both are those of the member now; a renewal or a rotation needs no restart.
"""

from __future__ import annotations

from tele.conch.server.credentials import Trust
from tele.conch.transport.exchange import HostKeys
from tele.membership.member import Member
from tele.model.authority import AuthorityKind


class SSHTrust:
    """What an SSH server of ``member`` asks for; see :class:`tele.conch.server.factory`."""

    def __init__(self, member: Member) -> None:
        self._member = member
        self._trusted: dict[AuthorityKind, Trust] = {}
        member.on_change(self._trusted.clear)

    def host_keys(self) -> HostKeys:
        """Return the host key and its certificate."""
        identity = self._member.identity
        return HostKeys(identity.keys.ssh, identity.ssh_certificate)

    def users(self) -> Trust:
        """Return the authorities of users."""
        return self._trust(AuthorityKind.USER)

    def hosts(self) -> Trust:
        """Return the authorities of hosts."""
        return self._trust(AuthorityKind.HOST)

    def _trust(self, kind: AuthorityKind) -> Trust:
        if kind not in self._trusted:
            cluster = self._member.identity.host.cluster
            self._trusted[kind] = Trust(cluster, self._member.ssh_trust(kind))
        return self._trusted[kind]
