"""How does a machine stay a member: trusted, known to be alive, up to date?

Four loops, each on its own: renew the certificates, announce, follow the cluster's state,
send audit events. Auth being away stops none of them, and nothing of what the host does.

Invariants:

* ``identity`` and ``state`` are replaced whole; who needs them asks for them each time.
* What cannot be mended by trying again fails :meth:`Member.ready`; everything else is tried
  again, with growing pauses, and logged once when it changes.
* The window of autonomy is the life of our own certificates: :attr:`Member.autonomous`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any, Final

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from tele.conch.client.transport import ClientIdentity, MemberVerifier
from tele.errors import AccessDenied, InvalidInput, NotLoggedIn, TeleError, Unavailable
from tele.https.pinning import server_name
from tele.interfaces import IAuthority
from tele.log import make_logger
from tele.loop import backoff, now
from tele.membership.announcing import Announcer, are_outdated, hosts_of
from tele.membership.background_spool import BackgroundSpool
from tele.membership.calls import Calls, pause_after
from tele.membership.cluster_clock import ClusterClock
from tele.membership.events import EventSender
from tele.membership.identity import MemberIdentity, assemble, ssh_authorities, tls_authorities
from tele.membership.joining import Applicant, JoinSettings, Network, join, rejoin
from tele.membership.loops import Loops
from tele.membership.renewal import RENEW_AT as RENEW_AT
from tele.membership.renewal import RenewalTimer
from tele.membership.rewriting import Rewriter
from tele.membership.store import MemberStore
from tele.membership.wakeup import Wakeup
from tele.model.api.members import (
    RENEW,
    WATCH_STATE,
    Announced,
    ClusterState,
    RenewRequest,
    WatchState,
)
from tele.model.authority import AuthorityKind, TrustedAuthority
from tele.model.event import Event
from tele.model.identity import HostIdentity, HostRole
from tele.model.presence import Presence
from tele.rbac.policy import Policy
from tele.workers import SerialWorker

#: The longest pause before a host whose certificate has expired tries again, in seconds: the fleet
#: is back within a minute.
RETURN_SECONDS: Final = 15.0
#: For these reasons auth does not take a host for a member any more.
GONE: Final = ("removed", "replaced", "revoked")

_log: Final = make_logger(__name__)


class Member(Service):
    """A host in one of its roles.

    :param store: what it remembers (see :mod:`tele.membership.store`); closed with us.
    :param settings: where auth is, and how to join for the first time.
    :param presence: what to announce; asked each time. The certificates are for its name,
        its role and the hosts of its addresses.
    """

    def __init__(
        self,
        reactor: Any,
        *,
        store: MemberStore,
        settings: JoinSettings,
        presence: Callable[[], Presence],
        network: Network | None = None,
        dice: Callable[[], float] = random.random,
    ) -> None:
        self._reactor = reactor
        self._store = store
        self._settings = settings
        self._presence = presence
        self._network = network or Network()
        self._dice = dice
        self._calls = Calls(reactor)
        self._announcer = Announcer(reactor, self._calls, presence, dice, self._announced)
        self._spool = BackgroundSpool(reactor, store.spool)
        self._sender = EventSender(reactor, self._calls, self._spool)
        #: Where files are read and written: the reactor waits for no disk.
        self._files = SerialWorker(reactor, "membership files")
        self.memory = Rewriter(reactor, store, self._files, dice)
        self._renewal = RenewalTimer(reactor, dice, self._outdated)
        self.clock = ClusterClock(reactor, lambda: store.identity, self.emit, self._clock_was_set)
        self._authority: Any = None
        self._waiting: list[Deferred[None]] = []
        self._fatal: TeleError | None = None
        self._resumed = False
        #: The token that was used last, or that was there when we were removed.
        self._spent: str | None = None
        self._joining = False
        #: Whether auth has said which labels are bound to this host, in this run or before.
        self._labelled = store.identity is not None
        self._policy: tuple[ClusterState, Policy] | None = None
        #: Why auth does not take us for a member, as it said last.
        self._expelled = ""
        #: The addresses that our certificates were asked for.
        self._asked: frozenset[str] = frozenset()
        self._observers: list[Callable[[], None]] = []
        self._loops = Loops()

    # -- what others ask for ----------------------------------------------------------
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
    def policy(self) -> Policy:
        """What the cluster's roles, locks and revocations say, by the last known state."""
        state = self.state
        if self._policy is None or self._policy[0] is not state:
            self._policy = (state, Policy.of(state))
        return self._policy[1]

    def refuses(self, host: HostIdentity) -> str:
        """Say why another member is not dealt with: locked, removed or replaced; or nothing."""
        if self._store.state is None:
            return ""
        denied = self.policy.refuses_host(host, now(self._reactor))
        return "" if denied is None else denied.message

    @property
    def expelled(self) -> str:
        """Why this host is no member any more, or is locked; or nothing."""
        identity = self._store.identity
        said = "" if identity is None else self.refuses(identity.host)
        return said or self._expelled

    @property
    def authority(self) -> IAuthority:
        """Auth, called with our identity. Raises Unavailable before joining."""
        if self._authority is None:
            raise Unavailable("this host is not a member of a cluster yet")
        authority: IAuthority = self._authority
        return authority

    @property
    def authorities(self) -> tuple[TrustedAuthority, ...]:
        """Whom to trust, as the cluster said last."""
        state = self._store.state
        return self.identity.authorities if state is None else state.authorities

    def ssh_trust(self, kind: AuthorityKind) -> frozenset[bytes]:
        """Return the key blobs of the SSH authorities of ``kind`` to trust now."""
        return ssh_authorities(self.authorities, kind)

    def client_identity(self) -> ClientIdentity:
        """Return who this host is to the SSH server of another member."""
        identity = self.identity
        return ClientIdentity(identity.keys.ssh, identity.ssh_certificate, self.host_id)

    def verifier(self, *roles: HostRole) -> MemberVerifier:
        """Return what knows another member in one of ``roles`` by its host certificate."""
        trusted = self.ssh_trust(AuthorityKind.HOST)
        return MemberVerifier(trusted, self.identity.host.cluster, roles, self.refuses)

    @property
    def bound_labels(self) -> Mapping[str, str]:
        """Labels that the cluster bound to this host: they win over what it says of itself."""
        return self._store.bound

    @property
    def autonomous(self) -> timedelta:
        """How long this host could go on by itself if auth were gone from now on."""
        identity = self._store.identity
        left = timedelta() if identity is None else identity.expires - now(self._reactor)
        return max(left, timedelta())

    @property
    def trouble(self) -> str:
        """Why auth cannot be reached now, or nothing."""
        return self._calls.trouble

    @property
    def auth_away_since(self) -> datetime | None:
        """Since when auth does not answer at all; None: it did when it was called last."""
        return self._calls.away_since

    @property
    def can_record(self) -> bool:
        """Whether events of one more session can be kept until auth has them."""
        return self._sender.has_room

    def emit(self, event: Event) -> None:
        """Keep an audit event and send it as soon as auth answers. Never raises."""
        self._sender.emit(event)

    def recorded(self, *, or_refused: bool = False) -> Deferred[None]:
        """Fires when all events so far survive ``kill -9``, here or at auth.

        With ``or_refused`` also when a full disk has refused them.
        """
        return self._spool.written() if or_refused else self._spool.kept()

    def _clock_was_set(self) -> None:
        self._renewal.look()
        if self._authority is not None:
            self._announcer.soon()
            self._changed()

    def report_sessions(self, running: Callable[[], Iterable[str]]) -> None:
        """Have auth told from now on which sessions run here: the ids that ``running()`` says."""
        self._sender.report.running = running

    def announce_soon(self) -> None:
        """Something that :class:`Presence` says has changed."""
        self._announcer.soon()
        if self._authority is not None and self._outdated():
            self._renewal.look()

    def on_change(self, observer: Callable[[], None]) -> None:
        """Call ``observer`` whenever identity or state were replaced."""
        self._observers.append(observer)

    def ready(self) -> Deferred[None]:
        """Fires when there are an identity, a state, and for a host that has just joined the labels
        that are bound to it: it decides by all three. Fails when there never will be.
        """
        waiting: Deferred[None] = Deferred()
        self._waiting.append(waiting)
        self._settle()
        return waiting

    # -- life -------------------------------------------------------------------------
    def startService(self) -> None:
        """Resume from what is remembered, or join."""
        super().startService()
        self.clock.start()
        self._loops.run(self._live())

    def stopService(self) -> Deferred[None]:
        """Stop all loops; what could not be sent stays in the spool."""
        super().stopService()
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        self._announcer.stop()
        self.clock.stop()
        self._loops.stop()
        await self._sender.last_chance()
        if self._authority is not None:
            self._authority.close()
        for each in (self._spool, self.memory, self._files):
            await each.close()
        self._store.close()

    def _settle(self) -> None:
        told = self._store.state is not None and self._labelled
        if self._fatal is None and (self._authority is None or not told):
            return
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            if self._fatal is None:
                each.callback(None)
            else:
                each.errback(Failure(self._fatal))

    def _changed(self) -> Deferred[None]:
        """Tell observers; fires when what changed is on disk, or cannot be written now."""
        written = self.memory.check()
        for observer in self._observers:
            try:
                observer()
            except Exception:
                _log.failure("an observer of the membership failed")
        return written

    async def _live(self) -> None:
        identity = self._store.identity
        try:
            if identity is None:
                identity = await self._join()
            elif identity.expires <= now(self._reactor):
                identity = await self._return(identity)
            else:
                self._resumed = True
        except (AccessDenied, InvalidInput) as error:
            _log.error("cannot join: {error!r}", error=str(error))
            self._fatal = error
            self._settle()
            return
        cluster = identity.host.cluster
        if self._store.state is not None and self._store.state.cluster != cluster:
            self._store.state = None
        if self._store.state is None:
            self._store.nodes = ()
        self._authority = self._calls.authority = self._network.connect(
            self._reactor,
            self._settings.addresses,
            lambda: self.identity.tls,
            lambda: tls_authorities(self.authorities),
            server_name(cluster),
        )
        _log.info(
            "member of cluster {cluster!r} as {role} {name!r}, host id {host_id}",
            cluster=cluster,
            role=identity.host.role.value,
            name=identity.host.name,
            host_id=identity.host.host_id,
        )
        self._settle()
        for loop in (self._renew(), self._follow(), self._announcer.run(), self._sender.run()):
            self._loops.run(loop)

    # -- joining and renewing ---------------------------------------------------------
    async def _join(self) -> MemberIdentity:
        """Join; raises AccessDenied or InvalidInput, and tries again after anything else."""
        failures = 0
        while True:
            try:
                token = await self._files.call(self._settings.token)
                identity = await join(
                    self._reactor, self._network, self._settings, self._applicant(), token
                )
            except (AccessDenied, InvalidInput):
                raise
            except TeleError as error:
                pause = backoff(failures, 1.0, 30.0, self._dice)
                self._calls.serves_nobody("join", error, pause)
                await self._pause(pause)
                failures += 1
            else:
                self._calls.succeeded("join")
                self._spent = token
                self._asked = frozenset(self._applicant().addresses)
                await self._take(identity)
                return identity

    async def _return(self, old: MemberIdentity) -> MemberIdentity:
        """Come back with an expired certificate by our key, or else with a token; see _join."""
        try:
            return await self._rejoin(old)
        except AccessDenied as error:
            _log.warn("this host cannot come back by its key: {error!r}", error=str(error))
            return await self._join()

    async def _rejoin(self, old: MemberIdentity) -> MemberIdentity:
        """Renew an expired certificate; tries until auth answers. Raises AccessDenied."""
        failures = 0
        while True:
            try:
                identity = await rejoin(self._reactor, self._network, self._settings, old)
            except AccessDenied:
                raise
            except TeleError as error:
                pause = backoff(failures, longest=RETURN_SECONDS, dice=self._dice)
                self._calls.serves_nobody("return to", error, pause)
                await self._pause(pause)
                failures += 1
            else:
                self._calls.succeeded("return to")
                self._calls.succeeded("renew")
                _log.info(
                    "back in the cluster with new certificates, good until {expires}",
                    expires=identity.expires,
                )
                await self._take(identity)
                return identity

    async def _take(self, identity: MemberIdentity) -> None:
        self._store.keep_identity(identity)
        self._expelled = ""
        written = self._changed()
        if self._authority is not None:
            self._announcer.soon()
        await written

    def _applicant(self) -> Applicant:
        said = self._presence()
        return Applicant(said.name, said.role, hosts_of(said))

    async def _renew(self) -> None:
        failures = 0
        while True:
            identity = self.identity
            await self._renewal.wait(identity)
            try:
                if self._renewal.unwelcome or identity.expires <= self.clock.date:
                    await self._rejoin(identity)
                else:
                    await self._renew_once(identity)
                failures = 0
                self._renewal.unwelcome = False
            except TeleError as error:
                self._calls.failed("renew", error)
                if await self._joined_again(error):
                    continue
                usual = backoff(failures, 1.0, 60.0, self._dice)
                await self._pause(pause_after(error, usual))
                failures += 1

    def _outdated(self) -> bool:
        return are_outdated(self.identity, self._presence(), self._asked)

    async def _renew_once(self, old: MemberIdentity) -> None:
        said = self._presence()
        request = RenewRequest(said.name, old.keys.public, hosts_of(said))
        certificates = await self._calls.perform("renew", RENEW, request)
        self._asked = frozenset(request.addresses)
        new = assemble(old.keys, certificates, old.host.role, old.host.host_id)
        if new.host.cluster != old.host.cluster:
            raise TeleError("auth answered with certificates of another cluster")
        _log.info("certificates renewed, good until {expires}", expires=new.expires)
        await self._take(new)

    async def _pause(self, seconds: float) -> None:
        await Wakeup(self._reactor).wait(seconds)

    def _announced(self, answer: Announced, asked: float) -> None:
        self.clock.heard(answer.time, asked)
        self._labelled = True
        if dict(answer.labels) != dict(self._store.bound):
            self._store.keep_bound(answer.labels)
            self._changed()
        self._settle()

    # -- the cluster's state ----------------------------------------------------------
    async def _follow(self) -> None:
        failures = 0

        def received(state: ClusterState) -> None:
            nonlocal failures
            failures = 0
            self._state_received(state)

        while True:
            try:
                await self.authority.follow(WATCH_STATE, WatchState(), received)
            except TeleError as error:
                self._calls.failed("state", error)
                if isinstance(error, NotLoggedIn):
                    self._renewal.refused()
                if await self._joined_again(error):
                    continue
                pause = pause_after(error, backoff(failures, dice=self._dice))
            else:
                pause = backoff(failures, dice=self._dice)
            await self._pause(pause)
            failures += 1

    async def _joined_again(self, error: TeleError) -> bool:
        """Whether a host that was removed is a member once more, by a token.

        Who was removed before it was started may use any; who was removed while it runs shall
        not come back by the token that it has: it takes another one, in the same file.
        """
        resumed, self._resumed = self._resumed, False
        if not isinstance(error, AccessDenied):
            return False
        if error.reason in GONE and not self._expelled:
            self._expelled = str(error)
            self._changed()
        if error.reason not in (*GONE, "expired"):
            return False
        token = await self._files.call(self._settings.token_or_none)
        if self._spent is None and not resumed and error.reason in GONE:
            self._spent = token
        if not token or token == self._spent or self._joining:
            return False
        self._joining, self._spent = True, token
        try:
            await self._join()
        except (AccessDenied, InvalidInput) as refused:
            _log.error("cannot join again: {error!r}", error=str(refused))
            return False
        finally:
            self._joining = False
        return True

    def _state_received(self, state: ClusterState) -> None:
        self._resumed = False
        if state.cluster != self.identity.host.cluster:
            _log.error("auth told the state of another cluster: {name!r}", name=state.cluster)
            return
        self._expelled = ""
        if self.trouble:
            self._announcer.soon()
        self._calls.succeeded("state")
        if state != self._store.state:
            self._store.keep_state(state)
            self._changed()
        self._settle()
