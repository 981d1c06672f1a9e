"""What does a member know of its cluster, by what it keeps?

Invariants:

* Identity and state are replaced whole; who needs them asks for them each time.
* Another member is trusted by the cluster's last known state, also while auth is away.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta

from twisted.internet.interfaces import IReactorTime

from tele.certs.keys import parse_line
from tele.conch.client.transport import ClientIdentity, MemberVerifier
from tele.errors import Unavailable
from tele.loop import now
from tele.membership.identity import MemberIdentity, ssh_authorities
from tele.membership.store import MemberStore
from tele.model.api.members import ClusterState
from tele.model.authority import AuthorityKind, TrustedAuthority, authority_of
from tele.model.cluster_settings import HostSettings
from tele.model.identity import HostIdentity, HostRole
from tele.rbac.policy import Policy


class KnownCluster:
    """The identity of this host and the state of its cluster, as ``store`` has them now."""

    def __init__(self, clock: IReactorTime, store: MemberStore) -> None:
        self._clock = clock
        self._store = store
        self._policy: tuple[ClusterState, Policy] | None = None

    @property
    def host_id(self) -> str:
        """The id that auth gave this host, a UUID in text. Raises Unavailable before joining."""
        return self.identity.host.host_id

    @property
    def identity(self) -> MemberIdentity:
        """Keys and certificates as they are now. Raises Unavailable before joining."""
        if self._store.identity is None:
            raise Unavailable("this host is not a member of a cluster yet")
        return self._store.identity

    @property
    def state(self) -> ClusterState:
        """The cluster's last known state. Raises Unavailable before it is known."""
        if self._store.state is None:
            raise Unavailable("this host does not know the state of its cluster yet")
        return self._store.state

    @property
    def settings(self) -> HostSettings:
        """The cluster's settings for hosts; the defaults before its state is known."""
        return HostSettings() if self._store.state is None else self._store.state.settings

    @property
    def policy(self) -> Policy:
        """The cluster's roles, locks and revocations, by the last known state."""
        state = self.state
        if self._policy is None or self._policy[0] is not state:
            self._policy = (state, Policy.of(state))
        return self._policy[1]

    def refuses(self, host: HostIdentity) -> str:
        """Return why another member is refused: locked, removed or replaced; or nothing."""
        if self._store.state is None:
            return ""
        denied = self.policy.refuses_host(host, now(self._clock))
        return "" if denied is None else denied.message

    @property
    def authorities(self) -> tuple[TrustedAuthority, ...]:
        """The authorities to trust, by the last known state."""
        state = self._store.state
        return self.identity.authorities if state is None else state.authorities

    def ssh_trust(self, kind: AuthorityKind) -> frozenset[bytes]:
        """Return the key blobs of the SSH authorities of ``kind`` to trust now."""
        return ssh_authorities(self.authorities, kind)

    @property
    def audit_keys(self) -> frozenset[bytes]:
        """The key blobs that may have signed a head of the audit: retired ones, too."""
        found = authority_of(self.authorities, AuthorityKind.HOST)
        return frozenset() if found is None else frozenset(map(parse_line, found.signed_ever))

    def client_identity(self) -> ClientIdentity:
        """Return the identity of this host towards the SSH server of another member."""
        identity = self.identity
        return ClientIdentity(identity.keys.ssh, identity.ssh_certificate, self.host_id)

    def verifier(self, *roles: HostRole) -> MemberVerifier:
        """Return what verifies another member in one of ``roles`` by its host certificate."""
        trusted = self.ssh_trust(AuthorityKind.HOST)
        return MemberVerifier(trusted, self.identity.host.cluster, roles, self.refuses)

    @property
    def bound_labels(self) -> Mapping[str, str]:
        """Labels that the cluster bound to this host. They win over those of its configuration."""
        return self._store.bound

    @property
    def expires(self) -> datetime | None:
        """When the certificates of this host expire; None before joining."""
        identity = self._store.identity
        return None if identity is None else identity.expires

    @property
    def autonomous(self) -> timedelta:
        """How long this host can serve if auth is away from now on."""
        identity = self._store.identity
        left = timedelta() if identity is None else identity.expires - now(self._clock)
        return max(left, timedelta())
