"""How does a host stay a member: trusted, known to be alive, up to date?

Four loops, each on its own: renew the certificates, announce, follow the cluster's state,
send audit events. Auth being away stops none of them, and no session of the host.

Invariants:

* What trying again cannot mend fails :meth:`Member.ready`; everything else is tried
  again, with growing pauses, and logged once when it changes.
* Without auth a host serves as long as its own certificates are valid: :attr:`Member.autonomous`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Final

from attrs import evolve
from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from tele.certs.composite import is_offered
from tele.errors import AccessDenied, InvalidInput, NotLoggedIn, TeleError, Unavailable
from tele.https.pinning import server_name
from tele.interfaces import IAuthority
from tele.log import make_logger
from tele.loop import backoff
from tele.membership.announcing import Announcer
from tele.membership.background_spool import BackgroundSpool
from tele.membership.calls import Calls, pause_after
from tele.membership.cluster_clock import ClusterClock
from tele.membership.enrolment import Enrolment
from tele.membership.events import EventSender
from tele.membership.heads import HeadKeeper
from tele.membership.identity import MemberIdentity, facts, tls_authorities
from tele.membership.joining import AuthorityClient, JoinSettings, Network
from tele.membership.known_cluster import KnownCluster
from tele.membership.loops import Loops
from tele.membership.renewal import RENEW_AT as RENEW_AT
from tele.membership.rewriting import Rewriter
from tele.membership.state_age import StateAge
from tele.membership.store import MemberStore
from tele.model.api.members import WATCH_STATE, Announced, ClusterState, WatchState
from tele.model.audit_head import AUDIT_HEADS
from tele.model.event import Event
from tele.model.presence import CLOCK, Presence
from tele.model.recording_modes import COMPOSITE_KEYS
from tele.workers import SerialWorker

_log: Final = make_logger(__name__)
_COMPOSITE: Final = (COMPOSITE_KEYS,) if is_offered() else ()


class Member(KnownCluster, Service):
    """A host in one of its roles.

    :param store: what it keeps (see :mod:`tele.membership.store`); closed when the host stops.
    :param settings: where auth is, and how to join for the first time.
    :param presence: what to announce; asked each time. The certificates are for its name,
        its role and the hosts of its addresses.
    """

    def __init__(
        self,
        reactor: IReactorTime,
        *,
        store: MemberStore,
        settings: JoinSettings,
        presence: Callable[[], Presence],
        network: Network | None = None,
        dice: Callable[[], float] = random.random,
    ) -> None:
        super().__init__(reactor, store)
        self._reactor = reactor
        self._settings = settings
        self._network = network or Network()
        self._dice = dice
        self._calls = Calls(reactor)
        self._announcer = Announcer(
            reactor, self._calls, lambda: self._announced_as(presence()), dice, self._announced
        )
        self._spool = BackgroundSpool(reactor, store.spool)
        self._sender = EventSender(reactor, self._calls, self._spool)
        #: Where files are read and written: the reactor waits for no disk.
        self._files = SerialWorker(reactor, "membership files")
        self.memory = Rewriter(reactor, store, self._files, dice)
        self._enrolment = Enrolment(
            reactor,
            settings,
            self._network,
            presence,
            calls=self._calls,
            files=self._files,
            dice=dice,
            identity=lambda: self.identity,
            authorities=lambda: self.authorities,
            longest=lambda: self.settings.host_certificate_lifetime,
            keep=self._keep_identity,
            changed=self._changed,
        )
        self.clock = ClusterClock(reactor, lambda: store.identity, self.emit, self._clock_was_set)
        #: Whether auth takes it; one of an older version does not know the key.
        self._clock_wanted = False
        self._heads = HeadKeeper(
            reactor,
            store.heads,
            self._files,
            lambda: self.audit_keys,
            lambda: self.identity.host.cluster,
        )
        self._authority: AuthorityClient | None = None
        self._waiting: list[Deferred[None]] = []
        self._fatal: TeleError | None = None
        #: Whether auth has sent the labels that are bound to this host, in this run or before.
        self._labelled = store.identity is not None
        self._observers: list[Callable[[], None]] = []
        self._loops = Loops()
        self._state_age = StateAge(reactor)

    @property
    def expelled(self) -> str:
        """Why this host is no longer a member, or is locked; or nothing."""
        identity = self._store.identity
        locked = "" if identity is None else self.refuses(identity.host)
        return locked or self._enrolment.removed

    @property
    def authority(self) -> IAuthority:
        """Auth, called with our identity. Raises Unavailable before joining."""
        if self._authority is None:
            raise Unavailable("this host is not a member of a cluster yet")
        return self._authority

    @property
    def trouble(self) -> str:
        """Why auth cannot be reached now, or nothing."""
        return self._calls.trouble

    @property
    def auth_away_since(self) -> datetime | None:
        """Since when auth does not answer at all; None: it did when it was called last."""
        return self._calls.away_since

    @property
    def state_age(self) -> float:
        """How old the state may be, in seconds; see :class:`StateAge`."""
        return self._state_age.seconds

    @property
    def can_record(self) -> bool:
        """Whether events of one more session can be kept until auth has them."""
        return self._sender.has_capacity

    @property
    def numbers(self) -> tuple[Announcer, EventSender]:
        """What announces, and what sends events: their counts (:mod:`tele.membership.numbers`)."""
        return self._announcer, self._sender

    def emit(self, event: Event) -> None:
        """Keep an audit event and send it as soon as auth answers. Never raises."""
        self._sender.emit(event)

    def recorded(self, *, or_refused: bool = False) -> Deferred[None]:
        """Fires when all events so far survive ``kill -9``, here or at auth.

        With ``or_refused`` also when a full disk has refused them.
        """
        return self._spool.written() if or_refused else self._spool.kept()

    def _clock_was_set(self) -> None:
        self._enrolment.renewal.check()
        if self._authority is not None:
            self._announcer.soon()
            self._changed()

    def report_sessions(self, running: Callable[[], Iterable[str]]) -> None:
        """Report to auth from now on the sessions with the ids ``running()``."""
        self._sender.report.running = running

    def announce_soon(self) -> None:
        """Announce within a second: the presence has changed."""
        self._announcer.soon()
        if self._authority is not None and self._enrolment.is_outdated():
            self._enrolment.renewal.check()

    def hold_announcements(self) -> None:
        """Announce nothing before :meth:`release_announcements`: for a host that does not know yet
        what it has to say. Auth shows what it said before its restart.
        """
        self._announcer.hold()

    def release_announcements(self) -> None:
        """Announce from now on. May be called twice."""
        self._announcer.release()

    def on_change(self, observer: Callable[[], None]) -> None:
        """Call ``observer`` whenever identity or state were replaced."""
        self._observers.append(observer)

    def ready(self) -> Deferred[None]:
        """Fires when there are an identity, a state, and for a host that has just joined the labels
        that are bound to it: it decides by all three. Fails if the host cannot join.
        """
        waiting: Deferred[None] = Deferred()
        self._waiting.append(waiting)
        self._settle()
        return waiting

    # -- life -------------------------------------------------------------------------
    def startService(self) -> None:
        """Use the kept identity, or join."""
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
        is_informed = self._store.state is not None and self._labelled
        if self._fatal is None and (self._authority is None or not is_informed):
            return
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            if self._fatal is None:
                each.callback(None)
            else:
                each.errback(Failure(self._fatal))

    def _changed(self) -> Deferred[None]:
        """Notify observers; fires when what changed is on disk, or cannot be written now."""
        written = self.memory.check()
        for observer in self._observers:
            try:
                observer()
            except Exception:
                _log.failure("membership observer failed")
        return written

    async def _live(self) -> None:
        try:
            identity = await self._enrolment.begin(self._store.identity)
        except (AccessDenied, InvalidInput) as error:
            _log.error("join refused", error=str(error))
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
            "member of the cluster",
            cluster=cluster,
            role=identity.host.role.value,
            name=identity.host.name,
            host_id=identity.host.host_id,
        )
        self._settle()
        for loop in (
            self._enrolment.run(lambda: self.clock.date),
            self._follow(),
            self._announcer.run(),
            self._sender.run(),
        ):
            self._loops.run(loop)

    # -- what auth sends --------------------------------------------------------------
    def _keep_identity(self, identity: MemberIdentity) -> Deferred[None]:
        self._store.keep_identity(identity)
        written = self._changed()
        if self._authority is not None:
            self._announcer.soon()
        return written

    def _announced(self, answer: Announced, asked: float) -> None:
        self.clock.observe(answer.time, asked)
        self._labelled = True
        self._clock_wanted = answer.wants_clock
        if answer.head is not None:
            self._heads.receive(answer.head)
        if dict(answer.labels) != dict(self._store.bound):
            self._store.keep_bound(answer.labels)
            self._changed()
        self._settle()

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
                    self._enrolment.renewal.refused()
                if await self._enrolment.join_again(error):
                    continue
                pause = pause_after(error, backoff(failures, dice=self._dice))
            else:
                pause = backoff(failures, dice=self._dice)
            finally:
                self._state_age.lost()
            await deferLater(self._reactor, pause)
            failures += 1

    def _state_received(self, state: ClusterState) -> None:
        self._enrolment.confirmed()
        if state.cluster != self.identity.host.cluster:
            _log.error("state of another cluster ignored", cluster=state.cluster)
            return
        self._enrolment.removed = ""
        self._state_age.received()
        if self.trouble:
            self._announcer.soon()
        self._calls.succeeded("state")
        before, settings = self.authorities, self.settings
        if state != self._store.state:
            self._store.keep_state(state)
            self._changed()
        if (state.authorities, state.settings) != (before, settings):
            self._enrolment.renewal.check()
        if state.authorities != before:  # a rotation: auth waits for the report of it
            self._announcer.soon()
        self._settle()

    def _announced_as(self, presence: Presence) -> Presence:
        """Return what is announced, with what is the same for each member."""
        return evolve(
            presence,
            features=(*presence.features, AUDIT_HEADS, CLOCK, *_COMPOSITE),
            clock_ahead=self.clock.reported if self._clock_wanted else None,
            rotation=facts(self.identity, self.authorities).text,
        )
