"""How does auth start, serve and stop?

Invariants:

* The API is served after everything that it needs has started.
* A failed start has one error and leaves nothing running.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, Final

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure

from tele.audit.heads import HeadSigner
from tele.audit.log import AuditLog
from tele.auth.authorities import Authorities
from tele.auth.cluster_claim import claim
from tele.auth.cluster_settings import ClusterSettings
from tele.auth.connection_claims import ConnectionClaims
from tele.auth.disk import DiskWatch
from tele.auth.heads import HeadPublisher
from tele.auth.invitations import Invitations
from tele.auth.issued import IssuedCertificates
from tele.auth.issuing import Issuer
from tele.auth.limits import RecordingLimits
from tele.auth.listening import listen
from tele.auth.live_sessions import LiveSessions
from tele.auth.local import ADMIN_ROLES, LOCAL, LOCAL_ADMIN, Collaborators, LocalAuthority
from tele.auth.members import Members
from tele.auth.open_recordings import OpenRecordings
from tele.auth.passwords import Passwords
from tele.auth.presence import Hosts
from tele.auth.proxy_messages import ProxyMessages
from tele.auth.recording_indexes import RecordingIndexes
from tele.auth.recording_keys import RECIPIENTS, RecordingEncryption, RecordingKeys
from tele.auth.recording_sealing import RecordingSealing
from tele.auth.recording_texts import RecordingTexts
from tele.auth.recording_uploads import RecordingUploads
from tele.auth.recordings import Recordings, uploading_archive
from tele.auth.regular_work import RegularWork
from tele.auth.retention import RetentionRules
from tele.auth.sealed_texts import SealedTexts
from tele.auth.second_factors import SecondFactors
from tele.auth.session_ends import END_AFTER, SessionEnds
from tele.auth.shared_archive import check_shared
from tele.auth.signing_keys import SigningKeys, open_seal
from tele.auth.state import State
from tele.auth.tokens import Tokens
from tele.auth.users import Users
from tele.certs.check import LATEST
from tele.certs.suites import SignatureSuite
from tele.certs.x509 import TlsKey
from tele.data_dir import DataDirLock
from tele.errors import InvalidInput, TeleError, Unavailable
from tele.https.identity import TlsIdentity
from tele.https.large_json import LargeJson
from tele.https.serve import ApiServer
from tele.interfaces import IArchive, IAuditSink, IBackend, IJoinMethod, ISearchIndex
from tele.log import make_logger
from tele.loop import Expiry, StepWatch, now
from tele.model.addresses import Address
from tele.model.api.members import PublicKeys
from tele.model.api.operation import Operation
from tele.model.identity import Caller, HostRole, UserIdentity
from tele.model.resources import ClusterSpec, RecordingSettings
from tele.model.stuck import StuckUpload
from tele.recording.indexing import Indexer
from tele.workers import in_thread_pool

log = make_logger(__name__)

#: How often auth checks whether its own certificate has to be renewed.
CHECK_SECONDS: Final = 60.0


class AuthService(Service):
    """Auth of one cluster, on a backend and an archive that are given to it.

    ``listen`` is (host, port), port 0 for any free port; ``local_socket`` the path of a socket
    where the account that runs auth, and root, may call the API without a certificate. ``lock`` is
    released when everything is closed. ``session_end_after`` is how long a node may be offline
    before auth ends its sessions, ``recording_limits`` how much of the archive recordings may take,
    ``retention`` which of them auth removes itself, ``encryption`` for whom they are sealed,
    ``search`` where their text can be searched, ``signing_keys`` by whose key those of the CAs are
    sealed in the store; None: they are in clear there.
    ``ready`` fires with the port when auth serves, or fails with a :class:`TeleError`. ``suite`` is
    that of a new cluster's CAs, and required of existing ones. ``recording`` holds until the
    resource of the cluster is written. Raises :class:`InvalidInput` if it is not supported.
    """

    def __init__(
        self,
        reactor: IReactorTime,
        *,
        cluster: str,
        backend: IBackend,
        archive: IArchive,
        host_id: str,
        name: str,
        listen: tuple[str, int],
        recording: RecordingSettings | None = None,
        client_keepalive: timedelta = timedelta(0),
        sinks: Sequence[IAuditSink] = (),
        join_methods: Sequence[IJoinMethod] = (),
        local_socket: Path | None = None,
        lock: DataDirLock | None = None,
        suite: SignatureSuite | None = None,
        session_end_after: timedelta = END_AFTER,
        recording_limits: RecordingLimits | None = None,
        retention: RetentionRules | None = None,
        encryption: RecordingEncryption | None = None,
        signing_keys: SigningKeys | None = None,
        search: ISearchIndex | None = None,
        entropy: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self.ready: Deferred[int] = Deferred()
        self.authority: LocalAuthority | None = None
        self._reactor = reactor
        self._cluster = cluster
        self._backend = backend
        self._starting: Deferred[None] | None = None
        self._stopping: Deferred[None] | None = None
        self._archive = archive
        self._search = search
        self._host_id = host_id
        self._host_name = name
        self._listen = listen
        self._recording = recording
        self._client_keepalive = client_keepalive
        if recording is not None and recording.problem:
            raise InvalidInput(recording.problem)
        self._sinks = sinks
        self._join_methods = tuple(join_methods)
        self._local_socket = local_socket
        self._lock = lock
        self._suite = suite
        self._session_end_after = session_end_after
        self._recording_limits = recording_limits or RecordingLimits()
        self._retention_rules = retention or RetentionRules()
        self._regular_work: tuple[RegularWork, ...] = ()
        self._sealed_texts: SealedTexts | None = None
        self._keys = RecordingKeys(backend, host_id, encryption)
        self._signing_keys = signing_keys
        self._entropy = entropy
        self._parts: Collaborators | None = None
        self._server: ApiServer | None = None
        self._identity: TlsIdentity | None = None
        self._renewal: IDelayedCall | None = None
        self._renew_at: datetime | None = None
        self._due: Expiry | None = None
        self._step_watch = StepWatch(reactor, self._clock_was_set)

    @property
    def measured(self) -> tuple[object, ...]:
        """What may have numbers while it serves; before and after that, nothing."""
        if self._server is None or not self.running:
            return ()
        return self.authority, self._server, self._backend, self._archive

    def startService(self) -> None:
        """Begin to start; ``ready`` fires with the result."""
        super().startService()
        starting = Deferred.fromCoroutine(self._start())
        self._starting = Deferred()
        done = self._starting

        def ended(result: Any) -> None:
            done.callback(None)
            (self.ready.errback if isinstance(result, Failure) else self.ready.callback)(result)

        starting.addBoth(ended)

    def stopService(self) -> Deferred[None]:
        """Close all connections, then the store; a start that runs is finished first."""
        if self._stopping is None:
            super().stopService()
            self._stopping = Deferred.fromCoroutine(self._stop())
        waiting: Deferred[None] = Deferred()

        def stopped(result: Any) -> Any:
            waiting.callback(None)
            return result

        self._stopping.addBoth(stopped)
        return waiting

    async def _stop(self) -> None:
        if self._starting is not None:
            await self._starting
        await self._close()

    def _now(self) -> datetime:
        return now(self._reactor)

    async def _start(self) -> int:
        try:
            return await self._open()
        except BaseException:
            # A service that failed to start need not be stopped.
            await self._close()
            raise

    async def _open(self) -> int:
        new = await claim(self._backend, self._cluster, self._now())
        parts = self._parts = await self._compose()
        await parts.users.ensure_presets()
        await parts.hosts.start()
        await parts.members.start()
        await self._keys.start()
        await parts.uploads.sealing.start()
        await parts.state.start()
        parts.authorities.on_change(partial(self._authorities_changed, parts))
        await parts.authorities.follow()
        parts.settings.compare(self._recording)
        await parts.passwords.warm_up()
        await parts.ends.start()
        authority = self.authority = LocalAuthority(parts, self._reactor)
        if new:
            await authority.emit("cluster.create", LOCAL, name=self._cluster)
        parts.disk.start(authority.emit)
        sealed = self._sealed_texts = SealedTexts(
            self._backend, self._keys, parts.recordings.texts, self._reactor
        )
        await sealed.start()
        self._keys.wrap_for(lambda: parts.state.recipients)
        parts.state.on_change(partial(self._recipients_changed, parts.state))
        await self._start_archive(authority)
        if parts.recordings.indexes is not None:
            parts.recordings.indexes.start()
        self._regular_work = authority.regular_work(
            lambda: self._retention_by(parts.state.settings), self._backend, self._host_id
        )
        for work in self._regular_work:
            work.start()
        self._renew()
        parts.heads.start()
        self._step_watch.start()
        server = self._server = ApiServer(
            self._reactor,
            authority,
            identity=self._tls_identity,
            authorities=lambda: parts.authorities.trusted,
            on_refused=self._refused,
            preface=ProxyMessages(
                parts.authorities, parts.state, parts.hosts, self._cluster, self._reactor
            ).read,
        )
        if not self.running:
            raise Unavailable("auth was stopped while it was starting")
        port = listen(server, self._listen, self._local_socket, self._local_identity)
        address = Address(self._listen[0], port)
        log.info("auth listening", cluster=self._cluster, address=str(address))
        return port

    def _retention_by(self, settings: ClusterSpec) -> RetentionRules:
        """Return what removes recordings: the settings of the cluster, or else the configuration's
        rules.
        """
        chosen = settings.recordings_retention
        if chosen is None:
            return self._retention_rules
        return RetentionRules(chosen.max_age, chosen.max_size.bytes)

    async def _start_archive(self, authority: LocalAuthority) -> None:
        """Let an archive that uploads begin: what waits since before may be asked for."""
        await check_shared(self._backend, self._archive)
        uploading = uploading_archive(self._archive)
        if uploading is None:
            return

        def report(upload: StuckUpload) -> Deferred[None]:
            return Deferred.fromCoroutine(
                authority.emit(
                    "recording.stuck", ok=False, error=upload.reason, session_id=upload.id,
                    state=upload.state, attempts=upload.attempts,
                )
            )  # fmt: skip

        await uploading.start(self._backend, self._host_id, report)

    def _recipients_changed(self, state: State, prefix: str) -> None:
        if prefix == RECIPIENTS:
            self._keys.wrap_for(lambda: state.recipients)

    async def _compose(self) -> Collaborators:
        backend, clock = self._backend, self._reactor
        seal = await open_seal(backend, self._cluster, self._signing_keys, self._entropy)
        authorities = await Authorities.load(
            backend, self._cluster, self._now(), self._entropy, self._suite, seal
        )
        disk = DiskWatch(backend, self._archive, clock)
        hosts = Hosts(backend, clock, disk_full=lambda: disk.is_full)
        members = Members(backend, hosts, lambda: state.settings.host_certificates)
        large = LargeJson(clock)
        recordings = Recordings(backend, self._archive, self._now, keys=self._keys, large=large)
        sealing = RecordingSealing(backend, self._keys, members, self._now)
        recordings.texts = RecordingTexts(self._search, recordings.find_by_id)
        recordings.indexes = RecordingIndexes(
            backend, self._archive, clock, Indexer(clock), recordings.find, recordings.texts.add,
            recordings.texts.remove, self._keys, large,
        )  # fmt: skip
        audit = AuditLog(backend, clock, self._sinks)
        state = State(
            backend,
            self._cluster,
            authorities,
            self._recording or RecordingSettings(),
            hosts,
            self._now,
            self._client_keepalive,
            self._keys.recipients,
        )
        passwords = Passwords(
            backend, self._now, self._entropy, self._in_thread,
            policy=lambda: state.settings.password_policy,
        )  # fmt: skip
        return Collaborators(
            cluster=self._cluster,
            authorities=authorities,
            issuer=Issuer(self._cluster, authorities, self._now, self._entropy),
            state=state,
            settings=ClusterSettings(backend, self._cluster, state, hosts),
            hosts=hosts,
            members=members,
            users=Users(backend, passwords, self._now),
            passwords=passwords,
            factors=SecondFactors(
                backend,
                self._now,
                self._entropy,
                lambda: state.settings.second_factor,
                lambda: state.settings.webauthn.rp_id,
                self._cluster,
            ),
            tokens=Tokens(backend, self._cluster, self._now, self._entropy),
            issued=IssuedCertificates(backend, self._cluster, self._now),
            invitations=Invitations(backend, self._now, self._entropy),
            recordings=recordings,
            live=LiveSessions(backend, recordings),
            claims=ConnectionClaims(
                backend, hosts, lambda: state.policy, recordings.proxied, self._now
            ),
            uploads=RecordingUploads(
                backend,
                self._archive,
                self._now,
                lambda: authorities.host_keys_ever,
                recordings,
                sealing,
            ),
            audit=audit,
            heads=HeadPublisher(audit, self._archive, clock, self._cluster, self._host_id),
            disk=disk,
            limits=self._recording_limits,
            join_methods=self._join_methods,
            ends=SessionEnds(
                backend,
                clock,
                self._cluster,
                audit,
                OpenRecordings(backend, clock, self._cluster, audit, recordings),
                hosts,
                members,
                self._session_end_after,
            ),
        )

    async def _close(self) -> None:
        self._step_watch.stop()
        if self._renewal is not None and self._renewal.active():
            self._renewal.cancel()
        self._renewal = None
        server, self._server = self._server, None
        if server is not None:
            await server.close()
        parts, self._parts = self._parts, None
        if parts is not None:
            parts.disk.stop()
            parts.authorities.stop()
            for work in self._regular_work:
                await work.stop()
            await parts.heads.stop()
            await self._keys.stop()
            if self._sealed_texts is not None:
                await self._sealed_texts.stop()
            if (uploading := uploading_archive(self._archive)) is not None:
                await uploading.stop()
            await parts.ends.stop()
            if parts.recordings.indexes is not None:
                await parts.recordings.indexes.stop()
            await parts.recordings.texts.close()
            parts.recordings.large.close()
            parts.state.stop()
            parts.members.generations.stop()
            await parts.hosts.stop()
            await parts.audit.close()
        await self._backend.close()
        if self._lock is not None:
            self._lock.release()

    def _in_thread(self, function: Callable[..., Any], *arguments: Any) -> Deferred[Any]:
        return in_thread_pool(self._reactor, function, *arguments)

    # -- identities -------------------------------------------------------------------
    def _renew(self) -> None:
        """Issue auth's own certificate, and renew it after two thirds of its lifetime.

        The date is polled: a timer does not follow a clock that is set.
        """
        if self._parts is None:
            return
        self._renewal = self._reactor.callLater(CHECK_SECONDS, self._renew)
        waits = self._due is not None and not self._due.has_passed
        if waits and self._renew_at is not None and self._now() < self._renew_at:
            return
        key = TlsKey.generate()
        ssh = self._parts.authorities.suite.generate_quick()
        host = self._listen[0]
        named = [host] if host not in ("", "0.0.0.0", "::") else []  # noqa: S104 (compared)
        certificates = self._parts.issuer.host(
            self._host_id,
            self._host_name,
            HostRole.AUTH,
            PublicKeys(ssh.public.line, key.public_pem),
            named,
        )
        moment = self._now()
        # For hosts that were away when the CA's key was replaced.
        path = [each.certificate for each in self._parts.authorities.successions(moment)]
        self._identity = TlsIdentity("".join((certificates.tls, *path)), key.to_pem())
        self._parts.heads.signer = HeadSigner(ssh, certificates.ssh)
        self._renew_at = moment + (certificates.expires - moment) * 2 / 3
        self._due = Expiry(self._reactor, self._renew_at)

    def _clock_was_set(self, seconds: float) -> None:
        """Emit an event, and issue a certificate that is valid by the new date, too."""
        if self.authority is None or self._parts is None:
            return
        for work in self._regular_work:
            work.clock_was_set(seconds)
        if seconds < 0:
            # By the new date the present certificate is not valid yet.
            self._renew_at = None
        if self._renewal is not None and self._renewal.active():
            self._renewal.cancel()
        self._renew()
        emitted = self.authority.emit(
            "clock.step",
            seconds=round(seconds, 3),
            server_id=self._host_id,
            server_name=self._host_name,
        )
        Deferred.fromCoroutine(emitted).addErrback(
            lambda failure: log.failure("cannot emit the event of a clock step", failure)
        )

    def _authorities_changed(self, parts: Collaborators) -> None:
        """Tell the hosts; certify auth itself by the key that signs now, and no dropped one."""
        parts.state.authorities_changed()
        if self._identity is not None:
            self._renew_at = None
            if self._renewal is not None and self._renewal.active():
                self._renewal.cancel()
            self._renew()
        if self._server is not None:
            self._server.authorities_changed()

    def _tls_identity(self) -> TlsIdentity:
        if self._identity is None:
            raise Unavailable("auth is starting")
        return self._identity

    def _local_identity(self, uid: int) -> UserIdentity | None:
        if uid not in (0, os.geteuid()):
            return None
        return UserIdentity(LOCAL_ADMIN, self._cluster, LATEST, ADMIN_ROLES)

    def _refused(self, operation: Operation[Any, Any], caller: Caller, error: TeleError) -> None:
        if self.authority is not None:
            Deferred.fromCoroutine(self.authority.denied(operation, caller, error)).addErrback(
                lambda failure: log.failure("cannot emit the event of a denial", failure)
            )
