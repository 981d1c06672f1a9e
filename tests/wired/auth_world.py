"""Auth in memory with a fake clock, and those who call it: for tests."""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Callable, Coroutine, Sequence
from datetime import datetime, timedelta
from typing import Any, TypeVar

from argon2 import PasswordHasher
from attrs import evolve
from twisted.internet.defer import Deferred, fail, maybeDeferred, succeed
from twisted.python.failure import Failure
from zope.interface import implementer

from tele.audit.log import AuditLog
from tele.auth.authorities import Authorities
from tele.auth.cluster_settings import ClusterSettings
from tele.auth.connection_claims import ConnectionClaims
from tele.auth.disk import DiskWatch
from tele.auth.heads import HeadPublisher
from tele.auth.invitations import Invitations
from tele.auth.issued import IssuedCertificates
from tele.auth.issuing import Issuer
from tele.auth.live_sessions import LiveSessions
from tele.auth.local import ADMIN_ROLES, LOCAL_ADMIN, Collaborators, LocalAuthority
from tele.auth.members import Members
from tele.auth.open_recordings import OpenRecordings
from tele.auth.passwords import Passwords
from tele.auth.presence import Hosts
from tele.auth.recording_keys import RecordingEncryption, RecordingKeys
from tele.auth.recording_sealing import RecordingSealing
from tele.auth.recording_uploads import RecordingUploads
from tele.auth.recordings import Recordings
from tele.auth.second_factors import SecondFactors
from tele.auth.session_ends import SessionEnds
from tele.auth.state import State
from tele.auth.tokens import Tokens
from tele.auth.users import Users
from tele.certs.device import prove_device
from tele.certs.keys import PrivateKey, parse_line
from tele.certs.x509 import TlsKey
from tele.errors import Conflict, NotFound
from tele.interfaces import IArchive
from tele.loop import now
from tele.model.api import audit, members, recordings, table, users
from tele.model.api.tokens import NewToken
from tele.model.authority import AuthorityKind
from tele.model.codec import encode
from tele.model.frame import Frame, FrameKind
from tele.model.identity import Caller, HostIdentity, HostRole, UserIdentity
from tele.model.resources import Metadata, RecordingSettings, User, UserSpec
from tele.model.session import ChunkDigest, Manifest, RecordingStart, WrappedKey
from tele.store.memory import MemoryBackend
from tele.tape.layout import NO_CHUNK, digest, pack_chunk_2, pack_frames
from tele.tape.sealing import DataKey
from tele.tape.verify import VERSION, to_sign
from tele.testing import SettableClock

T = TypeVar("T")
HOST_ID = "5b8b6f2e-6a0c-4c8e-9a53-2f7d5d2d9a11"
PROXY_ID = "5b8b6f2e-6a0c-4c8e-9a53-2f7d5d2d9a33"
OTHER_ID = "5b8b6f2e-6a0c-4c8e-9a53-2f7d5d2d9a22"
FAST = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)


def result(answer: Deferred[T] | Coroutine[Any, Any, T]) -> T:
    if not isinstance(answer, Deferred):
        answer = Deferred.fromCoroutine(answer)
    found: list[Any] = []
    answer.addBoth(found.append)
    assert found, "no answer yet"
    if isinstance(found[0], Failure):
        found[0].raiseException()
    value: T = found[0]
    return value


def name_of(host_id: str) -> str:
    """The name under which a host joins here."""
    return "web1" if host_id == HOST_ID else f"web-{host_id[-2:]}"


@implementer(IArchive)
class MemoryArchive:
    """An archive in memory."""

    def __init__(self) -> None:
        self.blobs: dict[tuple[str, str], bytes] = {}

    def put(self, recording_id: str, name: str, data: bytes) -> Deferred[None]:
        present = self.blobs.setdefault((recording_id, name), data)
        return succeed(None) if present == data else fail(Conflict("other bytes"))

    def get(self, recording_id: str, name: str) -> Deferred[bytes]:
        data = self.blobs.get((recording_id, name))
        return fail(NotFound("no such blob")) if data is None else succeed(data)

    def names(self, recording_id: str) -> Deferred[Sequence[tuple[str, int]]]:
        mine = sorted((n, len(d)) for (r, n), d in self.blobs.items() if r == recording_id)
        return succeed(mine)

    def remove(self, recording_id: str) -> Deferred[None]:
        self.blobs = {k: v for k, v in self.blobs.items() if k[0] != recording_id}
        return succeed(None)


class World:
    """A cluster with an administrator at auth's own machine."""

    def __init__(self, encryption: RecordingEncryption | None = None) -> None:
        self.clock = SettableClock()
        self.clock.advance(1_800_000_000)
        self.backend = MemoryBackend(self.clock)

        def moment() -> datetime:
            return now(self.clock)

        self.authorities = result(Authorities.load(self.backend, "c", moment(), os.urandom))
        passwords = Passwords(
            self.backend, moment, os.urandom, lambda f, *w: maybeDeferred(f, *w), FAST
        )
        trusted = self.authorities[AuthorityKind.HOST].trusted
        self.host_keys = {parse_line(key) for key in trusted.ssh_public_keys}
        self.archive = MemoryArchive()
        hosts = Hosts(self.backend, self.clock)
        members = Members(self.backend, hosts, lambda: state.settings.host_certificates)
        keys = RecordingKeys(self.backend, "auth-1", encryption)
        recordings = Recordings(self.backend, self.archive, moment, keys=keys)
        sealing = RecordingSealing(self.backend, keys, members, moment)
        uploads = RecordingUploads(
            self.backend,
            self.archive,
            moment,
            lambda: self.authorities.host_keys_ever,
            recordings,
            sealing,
        )
        audit = AuditLog(self.backend, self.clock)
        owed = OpenRecordings(self.backend, self.clock, "c", audit, recordings)
        state = State(self.backend, "c", self.authorities, RecordingSettings(), hosts, moment)
        self.parts = Collaborators(
            cluster="c",
            authorities=self.authorities,
            issuer=Issuer("c", self.authorities, moment, os.urandom),
            state=state,
            settings=ClusterSettings(self.backend, "c", state, hosts),
            hosts=hosts,
            members=members,
            users=Users(self.backend, passwords, moment),
            passwords=passwords,
            factors=SecondFactors(
                self.backend,
                moment,
                os.urandom,
                lambda: state.settings.second_factor,
                lambda: state.settings.webauthn.rp_id,
                "c",
            ),
            tokens=Tokens(self.backend, "c", moment, os.urandom),
            issued=IssuedCertificates(self.backend, "c", moment),
            invitations=Invitations(self.backend, moment, os.urandom),
            recordings=recordings,
            live=LiveSessions(self.backend, recordings),
            claims=ConnectionClaims(
                self.backend, hosts, lambda: state.policy, recordings.proxied, moment
            ),
            uploads=uploads,
            audit=audit,
            heads=HeadPublisher(audit, self.archive, self.clock, "c", HOST_ID),
            disk=DiskWatch(self.backend, self.archive, self.clock),
            ends=SessionEnds(self.backend, self.clock, "c", audit, owed, hosts, members),
        )
        result(self.parts.users.ensure_presets())
        result(keys.start())
        result(sealing.start())
        result(self.parts.hosts.start())
        result(self.parts.state.start())
        result(members.generations.start())
        result(self.parts.ends.start())
        #: Certificates and SSH keys of hosts that have joined.
        self.joined: dict[str, tuple[Any, PrivateKey]] = {}
        #: The id that the next host gets.
        self.next_id = HOST_ID
        self.auth = LocalAuthority(self.parts, self.clock, lambda: self.next_id)
        self.admin = Caller(
            UserIdentity(LOCAL_ADMIN, "c", moment() + timedelta(days=400), ADMIN_ROLES), "local"
        )

    def do(self, operation: Any, request: Any, caller: Caller | None = None) -> Any:
        return result(self.auth.handle(operation, request, caller or self.admin))

    def stop(self) -> None:
        result(self.parts.ends.stop())
        self.parts.state.stop()
        self.parts.members.generations.stop()
        result(self.parts.hosts.stop())
        result(self.backend.close())
        assert not self.clock.getDelayedCalls()

    # -- who calls
    def host(self, host_id: str = HOST_ID, role: HostRole = HostRole.NODE) -> Caller:
        issued = now(self.clock)
        expires = issued + timedelta(hours=24)
        return Caller(HostIdentity(host_id, "web1", "c", role, expires, issued), "192.0.2.9:1234")

    def proxy(self) -> Caller:
        """A proxy that is a member."""
        self.join(self.token((HostRole.PROXY,)), PROXY_ID, name="gate", role=HostRole.PROXY)
        return self.host(PROXY_ID, HostRole.PROXY)

    def user(self, name: str, *roles: str) -> Caller:
        """One who logs in now."""
        issued = result(self.parts.users.issue_time(name))
        return Caller(
            UserIdentity(
                name, "c", issued + timedelta(hours=12), roles, ("root",), {"logins": ("root",)},
                issued=issued,
            )
        )  # fmt: skip

    # -- what they do often
    def token(self, roles: tuple[HostRole, ...] = (HostRole.NODE,), **words: Any) -> str:
        secret: str = self.do(table.ADD_TOKEN, NewToken(roles, **words)).token
        return secret

    def join(self, token: str, host_id: str = HOST_ID, **words: Any) -> Any:
        """Join; the host gets ``host_id`` unless its token is for another one."""
        self.next_id = host_id
        name = name_of(host_id)
        self.ssh, tls = PrivateKey.generate(), TlsKey.generate()
        keys = members.PublicKeys(self.ssh.public.line, tls.public_pem)
        request = members.JoinRequest(token, name, HostRole.NODE, keys)
        joined = self.do(table.JOIN, evolve(request, **words), Caller(None, "192.0.2.9:1234"))
        self.joined[host_id] = joined, self.ssh
        return joined

    def add_user(
        self,
        name: str = "alice",
        *roles: str,
        password: str = "correct horse",
        logins: tuple[str, ...] = ("root",),
    ) -> None:
        user = User(Metadata(name), UserSpec(roles, {"logins": logins}))
        self.do(table.ADD_USER, users.NewUser(user, password))

    def login(
        self,
        name: str = "alice",
        password: str = "correct horse",
        address: str = "192.0.2.7",
        device: tuple[PrivateKey, str] | None = None,
    ) -> Any:
        """Log in from ``address``; ``device`` is the key and certificate of an earlier login.

        The new key is in ``ssh`` then.
        """
        self.ssh = PrivateKey.generate()
        keys = members.PublicKeys(self.ssh.public.line, TlsKey.generate().public_pem)
        request = users.LoginRequest(name, password, keys)
        if device is not None:
            key, line = device
            known = users.KnownDevice(line, prove_device(key, name, keys))
            request = evolve(request, device=known)
        return self.do(table.LOGIN, request, Caller(None, f"{address}:9"))

    def events(self, name: str) -> list[Any]:
        listed = self.do(table.LIST_EVENTS, audit.ListEvents(event=name))
        return list(listed.items)


class Threads:
    """Threads that finish when the test says so."""

    def __init__(self) -> None:
        self.waiting: list[tuple[Deferred[Any], Any]] = []

    def __call__(self, function: Any, *words: Any) -> Deferred[Any]:
        answer: Deferred[Any] = Deferred()
        self.waiting.append((answer, lambda: function(*words)))
        return answer

    def finish(self) -> None:
        while self.waiting:
            answer, work = self.waiting.pop(0)
            answer.callback(work())


class Tape:
    """A recording of two chunks."""

    def __init__(
        self,
        world: World,
        user: str = "alice",
        host_id: str = HOST_ID,
        seal: Callable[[str], tuple[WrappedKey, ...]] = lambda _: (),
        started: datetime | None = None,
    ) -> None:
        """``seal`` returns the wrapped data keys for an id."""
        self.world = world
        if host_id not in world.joined:
            world.join(world.token(), host_id)
        self.certificates, self.key = world.joined[host_id]
        self.id = str(uuid.uuid4())
        self.chunks = [b"first", b"second"]
        self.start = RecordingStart(
            self.id, "ssh", "c", user, "root", ("access",), "s1", name_of(host_id), host_id,
            "192.0.2.7:1", started or now(world.clock),
        )  # fmt: skip
        self.host = world.host(host_id)
        start = recordings.StartRecording(self.id, self.start, seal(self.id))
        world.do(table.START_RECORDING, start, self.host)

    def upload(self, *numbers: int) -> None:
        for number in numbers:
            put = recordings.PutChunk(self.id, number, self.chunks[number])
            self.world.do(table.PUT_CHUNK, put, self.host)

    def manifest(self) -> Manifest:
        digests = tuple(
            ChunkDigest(n, len(c), hashlib.sha256(c).hexdigest()) for n, c in enumerate(self.chunks)
        )
        manifest = Manifest(
            self.id, VERSION, self.start, now(self.world.clock), digests, 3, True, False,
            self.certificates.ssh,
        )  # fmt: skip
        return evolve(manifest, signature=self.key.sign(to_sign(manifest)))

    def finish(self, manifest: Manifest | None = None) -> None:
        request = recordings.FinishRecording(self.id, manifest or self.manifest())
        self.world.do(table.FINISH_RECORDING, request, self.host)


def sealed_chunks(tape: Tape, secret: bytes = bytes(range(32)), number: int = 1) -> list[bytes]:
    """Two chunks of a recording, sealed with its data key."""
    key = DataKey(number, secret, os.urandom)
    frames = (
        Frame(0, 0, FrameKind.START, encode(tape.start)), Frame(1, 0, FrameKind.END, b"{}"),
    )  # fmt: skip
    chunks: list[bytes] = []
    previous = NO_CHUNK
    for at, frame in enumerate(frames):
        raw, facts = pack_frames([frame])
        chunks.append(pack_chunk_2(raw, facts, at, previous, last=at == 1, seal=key))
        previous = digest(chunks[-1])
    return chunks
