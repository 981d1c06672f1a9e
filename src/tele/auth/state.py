"""What do nodes and proxies need to decide without auth? The cluster's state, kept up to date."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import TypeVar

from twisted.internet.defer import CancelledError, Deferred

from tele.auth.authorities import Authorities
from tele.auth.presence import Hosts
from tele.auth.recording_keys import RECIPIENTS, Recipient
from tele.auth.repository import Repository
from tele.auth.target_keys import REPLACED, ReplacedKey
from tele.interfaces import Change, IBackend
from tele.model.api.hosts import HostChanges
from tele.model.api.members import ClusterState, Proxy
from tele.model.codec import decode
from tele.model.identity import HostRole
from tele.model.presence import Status
from tele.model.resources import Cluster, ClusterSpec, Lock, RecordingSettings, Role
from tele.model.revocation import HostRevocation, UserRevocation
from tele.rbac.policy import Policy

ROLES = "/roles/"
LOCKS = "/locks/"
SETTINGS = "/settings/"
REVOKED_HOSTS = "/revocations/hosts/"
REVOKED_USERS = "/revocations/users/"
RECENT = timedelta(seconds=1)


T = TypeVar("T")


class State:
    """Roles, locks, revocations, authorities, proxies and settings of a cluster.

    Call :meth:`start` first, after that of ``hosts``.
    """

    def __init__(
        self,
        backend: IBackend,
        cluster: str,
        authorities: Authorities,
        recording: RecordingSettings,
        hosts: Hosts,
        now: Callable[[], datetime],
        client_keepalive: timedelta = timedelta(0),
        recipients: Callable[[Mapping[str, Recipient]], tuple[bytes, ...]] = lambda _: (),
    ) -> None:
        self._recording_keys = recipients
        self.recipients: dict[str, Recipient] = {}
        self._backend = backend
        self._cluster = cluster
        self._authorities = authorities
        #: What holds until the resource of the cluster is written.
        self.configured = recording
        # Hosts of an older version do not know the key: it is left out for never.
        self._client_keepalive = client_keepalive or None
        self._hosts = hosts
        self._proxies: tuple[Proxy, ...] = ()
        self._now = now
        self._revision = 0
        self.roles: dict[str, Role] = {}
        self.locks: dict[str, Lock] = {}
        self.revoked_hosts: dict[str, HostRevocation] = {}
        self.revoked_users: dict[str, UserRevocation] = {}
        self._settings: dict[str, Cluster] = {}
        self._replaced_keys: dict[str, ReplacedKey] = {}
        self._policy: Policy | None = None
        self._latest: ClusterState | None = None
        # By an object of its own, so that removing one of thousands is constant time.
        self._receivers: dict[object, Callable[[ClusterState], None]] = {}
        self._stops: list[Callable[[], None]] = []
        self._observers: list[Callable[[str], None]] = []

    async def start(self) -> None:
        """Read the stored values and follow their changes."""
        await self._keep(ROLES, Role, self.roles)
        await self._keep(LOCKS, Lock, self.locks)
        await self._keep(SETTINGS, Cluster, self._settings)
        await self._keep(REVOKED_HOSTS, HostRevocation, self.revoked_hosts)
        await self._keep(REVOKED_USERS, UserRevocation, self.revoked_users)
        await self._keep(RECIPIENTS, Recipient, self.recipients)
        await self._keep(REPLACED, ReplacedKey, self._replaced_keys)
        following = self._hosts.watch(HostRole.PROXY, self._proxies_changed)
        following.addErrback(lambda failure: failure.trap(CancelledError))
        self._stops.append(following.cancel)

    async def _keep(self, prefix: str, cls: type[T], values: dict[str, T]) -> None:
        """Keep ``values`` equal to the stored values of ``cls`` under ``prefix``, by name."""

        def changed(change: Change) -> None:
            name = change.key.removeprefix(prefix)
            if change.item is None:
                values.pop(name, None)
            else:
                values[name] = decode(cls, change.item.value)
            self._policy = None
            self._notify(change.revision)
            for observer in self._observers:
                observer(prefix)

        self._stops.append((await self._backend.watch(prefix, changed)).stop)
        for each in await Repository(self._backend, prefix, cls).list():
            values[each.name] = each.value
            self._revision = max(self._revision, each.revision)

    def stop(self) -> None:
        """Stop following changes."""
        for stop in self._stops:
            stop()
        self._stops.clear()

    def on_change(self, observer: Callable[[str], None]) -> None:
        """Call ``observer`` with the prefix of each change that may change the policy."""
        self._observers.append(observer)

    @property
    def policy(self) -> Policy:
        """The policy of the present roles, locks and revocations."""
        if self._policy is None:
            self._policy = Policy(
                self.roles,
                self.locks.values(),
                self.revoked_users.values(),
                self.revoked_hosts.values(),
                self._client_keepalive,
                self.recording,
                self.settings.for_hosts,
            )
        return self._policy

    @property
    def recording(self) -> RecordingSettings:
        """How sessions are recorded, from the next one on."""
        return self.settings.session_recording

    @property
    def settings(self) -> ClusterSpec:
        """The settings of the cluster that hold now."""
        for cluster in self._settings.values():
            return cluster.spec
        return ClusterSpec(session_recording=self.configured)

    @property
    def present(self) -> ClusterState:
        """The present state."""
        return ClusterState(
            cluster=self._cluster,
            revision=self._revision,
            issued=self._now(),
            authorities=self._authorities.trusted,
            roles=tuple(self.roles[name] for name in sorted(self.roles)),
            locks=tuple(self.locks[name] for name in sorted(self.locks)),
            recording=self.recording,
            proxies=self._proxies,
            revoked_hosts=tuple(v for _, v in sorted(self.revoked_hosts.items())),
            revoked_users=tuple(v for _, v in sorted(self.revoked_users.items())),
            client_keepalive=self._client_keepalive,
            recording_keys=self._recording_keys(self.recipients),
            settings=self.settings.for_hosts,
            replaced_plain_keys=sum(each.times for each in self._replaced_keys.values()),
        )

    def authorities_changed(self) -> None:
        """Send the keys to those who follow: a rotation has reached another phase."""
        self._notify(self._revision)

    def watch(self, receiver: Callable[[ClusterState], None]) -> Deferred[None]:
        """Call ``receiver`` with the state now and at each change; cancel to end it."""
        mark = object()
        self._receivers[mark] = receiver

        def ended(_: Deferred[None]) -> None:
            del self._receivers[mark]

        answer: Deferred[None] = Deferred(ended)
        receiver(self._recent())
        return answer

    def _recent(self) -> ClusterState:
        """Return the state, at most a second old: a fleet that reconnects shares one value."""
        latest = self._latest
        if (
            latest is None
            or abs(self._now() - latest.issued) >= RECENT
            or latest.authorities != self._authorities.trusted
        ):
            latest = self._latest = self.present
        return latest

    def _proxies_changed(self, _: HostChanges) -> None:
        proxies = tuple(
            Proxy(host.id, host.name, host.addresses, host.peer, host.peer_header)
            for host in self._hosts.all(HostRole.PROXY)
            if host.status is Status.ONLINE
        )
        if proxies != self._proxies:
            self._proxies = proxies
            self._notify(self._revision)

    def _notify(self, revision: int) -> None:
        self._revision = max(self._revision, revision)
        self._latest = None
        if self._receivers:
            present = self._latest = self.present  # one value for all receivers
            for receiver in list(self._receivers.values()):
                receiver(present)
