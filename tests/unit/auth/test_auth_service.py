"""Auth as a whole, in memory with a fake clock: join, log in, administer, and be attacked."""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Coroutine, Iterator, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import pytest
from argon2 import PasswordHasher
from attrs import evolve
from twisted.internet.defer import Deferred, fail, maybeDeferred, succeed
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from zope.interface import implementer

from tele.audit.log import AuditLog
from tele.auth.authorities import Authorities
from tele.auth.issuing import Issuer
from tele.auth.local import ADMIN_ROLES, LOCAL_ADMIN, Collaborators, LocalAuthority
from tele.auth.members import LOOK_SECONDS, Members
from tele.auth.passwords import FAILURES, LOCKED_FOR, Passwords
from tele.auth.people import People
from tele.auth.recordings import Recordings
from tele.auth.service import claim
from tele.auth.state import State
from tele.auth.tokens import Tokens
from tele.certs.certificate import parse_certificate
from tele.certs.check import check_host, check_user
from tele.certs.keys import PrivateKey, parse_line
from tele.certs.x509 import TlsKey
from tele.errors import AccessDenied, Conflict, InvalidInput, NotFound, TeleError
from tele.interfaces import IArchive
from tele.loop import now
from tele.model.api import members, people, records, table
from tele.model.api.operation import Nothing
from tele.model.authority import AuthorityKind
from tele.model.codec import encode
from tele.model.identity import Caller, HostIdentity, HostRole, UserIdentity
from tele.model.presence import OFFLINE_AFTER, Presence, Status
from tele.model.resources import (
    Conditions,
    Metadata,
    RecordingSettings,
    Role,
    RoleSpec,
    User,
    UserSpec,
)
from tele.model.session import ChunkDigest, Manifest, RecordingStart
from tele.store.memory import MemoryBackend

T = TypeVar("T")
HOST_ID = "5b8b6f2e-6a0c-4c8e-9a53-2f7d5d2d9a11"
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


@implementer(IArchive)
class Shelves:
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

    def __init__(self) -> None:
        self.clock = Clock()
        self.clock.advance(1_800_000_000)
        self.backend = MemoryBackend(self.clock)
        moment = lambda: now(self.clock)  # noqa: E731
        self.authorities = result(Authorities.load(self.backend, "c", moment(), os.urandom))
        passwords = Passwords(
            self.backend, moment, os.urandom, lambda f, *w: maybeDeferred(f, *w), FAST
        )
        trusted = self.authorities[AuthorityKind.HOST].trusted
        self.host_keys = {parse_line(key) for key in trusted.ssh_public_keys}
        self.archive = Shelves()
        self.parts = Collaborators(
            cluster="c",
            authorities=self.authorities,
            issuer=Issuer("c", self.authorities, moment, os.urandom),
            state=State(self.backend, "c", self.authorities, RecordingSettings(), moment),
            members=Members(self.backend, self.clock),
            people=People(self.backend, passwords),
            passwords=passwords,
            tokens=Tokens(self.backend, moment, os.urandom),
            recordings=Recordings(self.backend, self.archive, moment, lambda: self.host_keys),
            audit=AuditLog(self.backend, self.clock),
        )
        result(self.parts.people.ensure_presets())
        result(self.parts.state.start())
        result(self.parts.members.start())
        self.auth = LocalAuthority(self.parts, self.clock)
        self.admin = Caller(
            UserIdentity(LOCAL_ADMIN, "c", moment() + timedelta(days=9), ADMIN_ROLES), "local"
        )

    def do(self, operation: Any, request: Any, caller: Caller | None = None) -> Any:
        return result(self.auth.handle(operation, request, caller or self.admin))

    def stop(self) -> None:
        self.parts.members.stop()
        self.parts.state.stop()
        result(self.backend.close())
        assert not self.clock.getDelayedCalls()

    # -- who calls
    def host(self, host_id: str = HOST_ID, role: HostRole = HostRole.NODE) -> Caller:
        expires = now(self.clock) + timedelta(hours=24)
        return Caller(HostIdentity(host_id, "web1", "c", role, expires), "192.0.2.9:1234")

    def user(self, name: str, *roles: str) -> Caller:
        expires = now(self.clock) + timedelta(hours=12)
        return Caller(UserIdentity(name, "c", expires, roles, ("root",), {"logins": ("root",)}), "")

    # -- what they do often
    def token(self, **words: Any) -> str:
        secret: str = self.do(table.ADD_TOKEN, people.NewToken((HostRole.NODE,), **words)).token
        return secret

    def join(self, token: str, host_id: str = HOST_ID, **words: Any) -> Any:
        self.ssh, tls = PrivateKey.generate(), TlsKey.generate()
        keys = members.PublicKeys(self.ssh.public.line, tls.public_pem)
        request = members.JoinRequest(token, host_id, "web1", HostRole.NODE, keys)
        return self.do(table.JOIN, evolve(request, **words), Caller(None, "192.0.2.9:1234"))

    def add_user(self, name: str = "alice", *roles: str, password: str = "correct horse") -> None:
        user = User(Metadata(name), UserSpec(roles, {"logins": ("root",)}))
        self.do(table.ADD_USER, people.NewUser(user, password))

    def login(self, name: str = "alice", password: str = "correct horse") -> Any:
        keys = members.PublicKeys(PrivateKey.generate().public.line, TlsKey.generate().public_pem)
        return self.do(
            table.LOGIN, people.LoginRequest(name, password, keys), Caller(None, "192.0.2.7:9")
        )

    def events(self, name: str) -> list[Any]:
        listed = self.do(table.LIST_EVENTS, records.ListEvents(event=name))
        return list(listed.items)


@pytest.fixture
def world() -> Iterator[World]:
    """A fresh cluster."""
    made = World()
    yield made
    made.stop()


def test_every_operation_has_its_method() -> None:
    """The table and the implementation cannot drift apart."""
    for name in table.OPERATIONS:
        assert callable(getattr(LocalAuthority, f"_{name}", None)), name


def test_a_store_belongs_to_one_cluster(world: World) -> None:
    """A second start resumes; another name is refused before anything is changed."""
    moment = now(world.clock)
    assert result(claim(world.backend, "c", moment)) is True
    assert result(claim(world.backend, "c", moment)) is False
    with pytest.raises(InvalidInput, match="holds the cluster c"):
        result(claim(world.backend, "d", moment))


def test_authorities_are_made_once(world: World) -> None:
    """A restart finds the keys that the first start made, and their reprs hide them."""
    again = result(Authorities.load(world.backend, "c", now(world.clock), os.urandom))
    assert again.trusted == world.authorities.trusted
    assert "PRIVATE" not in repr(vars(again))


# -- joining --------------------------------------------------------------------------
def test_a_node_joins(world: World) -> None:
    """A token gets certificates that name the host, its role and its address."""
    certificates = world.join(world.token(), addresses=("0.0.0.0:3022", "web1.internal:3022"))
    certificate = parse_certificate(parse_line(certificates.ssh))
    for name in (HOST_ID, "web1.c", "192.0.2.9", "web1.internal"):
        checked = check_host(certificate, world.host_keys, [name], now(world.clock))
        assert checked.identity is not None
        assert checked.identity.role is HostRole.NODE
    assert "0.0.0.0" not in certificate.principals
    assert [e.fields["replaced"] for e in world.events("node.join")] == [False]


def test_one_answer_for_every_bad_token(world: World) -> None:
    """Unknown, expired, used up and for another role cannot be told apart."""
    used, short = world.token(max_uses=1), world.token(ttl=timedelta(seconds=5))
    proxy = world.do(table.ADD_TOKEN, people.NewToken((HostRole.PROXY,))).token
    world.join(used)
    world.clock.advance(6)
    answers = set()
    for token in (used, short, proxy, "guess", ""):
        with pytest.raises(AccessDenied) as caught:
            world.join(token)
        answers.add(str(caught.value))
    assert len(answers) == 1
    assert len(world.events("auth.denied")) == 5
    assert not any(t in str(e) for e in world.events("auth.denied") for t in (used, short, proxy))


def test_tokens_are_not_shown_again(world: World) -> None:
    """A list shows no secret, and neither does the store."""
    secret = world.token()
    listed = world.do(table.LIST_TOKENS, people.Paged())
    assert secret not in repr(listed)
    items = result(world.backend.range("/", "0"))
    assert not any(secret.encode() in item.value or secret in item.key for item in items)
    world.do(table.DELETE_TOKEN, members.ById(listed.items[0].id))
    with pytest.raises(AccessDenied):
        world.join(secret)


@pytest.mark.parametrize(
    "bad",
    [
        {"host_id": "../../etc"},
        {"host_id": HOST_ID.upper()},
        {"name": "a/b"},
        {"name": "-x"},
        {"name": "a\nb"},
        {"addresses": ("*:22",)},
        {"addresses": ("a,b:22",)},
        {"addresses": tuple(f"h{n}:22" for n in range(40))},
    ],
)
def test_what_a_joining_host_may_not_say(world: World, bad: dict[str, Any]) -> None:
    """Names that would be paths, options or wildcards cost no use of the token."""
    token = world.token(max_uses=1)
    with pytest.raises((InvalidInput, ValueError)):
        world.join(token, **bad)
    world.join(token)


def test_bound_labels_win(world: World) -> None:
    """A host cannot talk itself out of the labels that its token bound."""
    world.join(world.token(labels={"env": "prod"}))
    said = Presence("web1", HostRole.NODE, labels={"env": "dev", "zone": "a"})
    world.do(table.ANNOUNCE, said, world.host())
    (host,) = world.do(table.LIST_HOSTS, members.ListHosts()).items
    assert host.labels == {"env": "prod", "zone": "a"}


def test_presence(world: World) -> None:
    """Online, then offline after 90 seconds, watched; forgotten after a week."""
    world.join(world.token())
    told: list[Any] = []
    watching = world.auth.follow(
        table.WATCH_HOSTS, members.WatchHosts(), world.host(role=HostRole.PROXY), told.append
    )
    world.do(table.ANNOUNCE, Presence("web1", HostRole.NODE), world.host())
    world.clock.advance(30)
    world.do(table.ANNOUNCE, Presence("web1", HostRole.NODE), world.host())
    assert [h.status for h in told[-1].items] == [Status.ONLINE]
    assert len(told) == 2, "a heartbeat alone is no news"
    world.clock.pump([LOOK_SECONDS] * (int(OFFLINE_AFTER.total_seconds() / LOOK_SECONDS) + 1))
    assert [h.status for h in told[-1].items] == [Status.OFFLINE]
    watching.addErrback(lambda _: None)
    watching.cancel()
    world.clock.advance(timedelta(days=7).total_seconds())
    result(world.backend.get("/"))
    assert world.do(table.LIST_HOSTS, members.ListHosts()).items == ()


def test_a_removed_node_is_out(world: World) -> None:
    """It can neither announce itself nor renew; a new token brings it back."""
    world.join(world.token())
    world.do(table.ANNOUNCE, Presence("web1", HostRole.NODE), world.host())
    world.do(table.DELETE_HOST, members.ById(HOST_ID))
    keys = members.PublicKeys(PrivateKey.generate().public.line, TlsKey.generate().public_pem)
    for operation, request in (
        (table.ANNOUNCE, Presence("web1", HostRole.NODE)),
        (table.RENEW, members.RenewRequest("web1", keys)),
    ):
        with pytest.raises(AccessDenied, match="removed"):
            world.do(operation, request, world.host())
    world.join(world.token())
    assert world.do(table.RENEW, members.RenewRequest("web2", keys), world.host()).ssh


# -- people ---------------------------------------------------------------------------
def test_login(world: World) -> None:
    """The right password gets a certificate with the user's logins and roles."""
    world.add_user("alice", "access")
    certificates = world.login()
    certificate = parse_certificate(parse_line(certificates.ssh))
    trusted = {parse_line(k) for k in world.authorities[AuthorityKind.USER].trusted.ssh_public_keys}
    checked = check_user(
        certificate, certificate.type, trusted, "root", "192.0.2.7", now(world.clock), "c"
    )
    assert (checked.identity.user, checked.identity.roles) == ("alice", ("access",))
    assert [e.ok for e in world.events("user.login")] == [True]


def test_bad_logins_look_alike(world: World) -> None:
    """Unknown user and wrong password give one answer; the audit knows better."""
    world.add_user("alice", "access")
    answers = set()
    for name, password in (("alice", "wrong"), ("nobody", "wrong"), ("alice", "")):
        with pytest.raises(AccessDenied) as caught:
            world.login(name, password)
        answers.add((str(caught.value), caught.value.reason))
    assert len(answers) == 1
    assert {e.error for e in world.events("user.login")} == {"wrong password", "unknown user"}
    assert "correct horse" not in repr(world.events("user.login"))


def test_lock_out(world: World) -> None:
    """After five failures even the right password does not do, for half an hour."""
    world.add_user("alice", "access")
    for _ in range(FAILURES):
        with pytest.raises(AccessDenied):
            world.login(password="wrong password")
    with pytest.raises(AccessDenied):
        world.login()
    assert world.events("user.locked_out")
    world.clock.advance(LOCKED_FOR.total_seconds())
    world.login()
    for _ in range(FAILURES):
        with pytest.raises(AccessDenied):
            world.login(password="wrong password")
    world.do(table.RESET_USER, people.ResetUser("alice", "another horse"))
    world.login(password="another horse")


def test_failures_are_forgotten_in_time(world: World) -> None:
    """Four failures now and four an hour later do not add up."""
    world.add_user("alice", "access")
    for _ in range(2):
        for _ in range(FAILURES - 1):
            with pytest.raises(AccessDenied):
                world.login(password="wrong password")
        world.clock.advance(3600)
    world.login()


def test_passwords_are_not_in_the_clear(world: World) -> None:
    """Neither the store nor any event has a password; one that auth makes is shown once."""
    world.add_user("alice", "access")
    made = world.do(table.ADD_USER, people.NewUser(User(Metadata("bob"), UserSpec(("access",)))))
    assert len(made.password) >= 20
    everything = repr(result(world.backend.range("/", "0")))
    assert "correct horse" not in everything
    assert made.password not in everything
    world.login("bob", made.password)
    with pytest.raises(InvalidInput):
        world.add_user("carol", "access", password="short")


def test_permissions(world: World) -> None:
    """What needs a rule is refused without it, and the refusal is an event."""
    world.add_user("alice", "access")
    alice = world.user("alice", "access")
    for operation, request in (
        (table.LIST_USERS, people.Paged()),
        (table.ADD_TOKEN, people.NewToken((HostRole.NODE,))),
        (table.LIST_EVENTS, records.ListEvents()),
        (table.PUT_ROLE, people.PutRole("access", Role(Metadata("access")))),
        (table.SIGN_USER, people.SignUser("alice", PrivateKey.generate().public.line)),
        (table.DELETE_HOST, members.ById(HOST_ID)),
    ):
        with pytest.raises(AccessDenied):
            world.do(operation, request, alice)
    assert len(world.events("auth.denied")) == 6
    assert world.do(table.WHOAMI, Nothing(), alice).roles == ("access",)


def test_roles_count_as_they_are_now(world: World) -> None:
    """A certificate that still says editor is worth nothing once the role is taken away."""
    world.add_user("eve", "editor")
    eve = world.user("eve", "editor")
    world.do(table.LIST_USERS, people.Paged(), eve)
    user = world.do(table.GET_USER, members.ByName("eve"))
    world.do(table.PUT_USER, people.PutUser("eve", evolve(user, spec=UserSpec(("access",)))))
    with pytest.raises(AccessDenied):
        world.do(table.LIST_USERS, people.Paged(), eve)
    world.do(table.DELETE_USER, members.ByName("eve"))
    with pytest.raises(AccessDenied, match="does not exist"):
        world.do(table.WHOAMI, Nothing(), eve)


def test_changes_on_old_readings_are_refused(world: World) -> None:
    """Two administrators do not overwrite each other unknowingly."""
    world.add_user("alice", "access")
    old = world.do(table.GET_USER, members.ByName("alice"))
    world.do(table.PUT_USER, people.PutUser("alice", old))
    with pytest.raises(Conflict):
        world.do(table.PUT_USER, people.PutUser("alice", old))


def test_roles_in_use_stay(world: World) -> None:
    """A role that somebody holds is not removed, nor a role that misleads taken."""
    world.add_user("alice", "access")
    with pytest.raises(Conflict, match="alice"):
        world.do(table.DELETE_ROLE, members.ByName("access"))
    with pytest.raises(InvalidInput):
        world.add_user("bob", "no-such-role")
    bad = Role(Metadata("x"), RoleSpec(allow=Conditions(logins=("-oProxyCommand=x",))))
    with pytest.raises(InvalidInput):
        world.do(table.PUT_ROLE, people.PutRole("x", bad))


def test_sign_user_only_what_roles_allow(world: World) -> None:
    """A certificate for automation names no login that the user does not have."""
    world.add_user("alice", "access")
    line = PrivateKey.generate().public.line
    signed = world.do(table.SIGN_USER, people.SignUser("alice", line, ("root",)))
    assert parse_certificate(parse_line(signed.certificate)).principals == ("root",)
    with pytest.raises(AccessDenied):
        world.do(table.SIGN_USER, people.SignUser("alice", line, ("postgres",)))
    with pytest.raises(InvalidInput):
        world.do(table.SIGN_HOST, people.SignHost(line, ("*",)))


# -- recordings -----------------------------------------------------------------------
class Tape:
    """A recording of two chunks."""

    def __init__(self, world: World, user: str = "alice", host_id: str = HOST_ID) -> None:
        self.world = world
        self.certificates = world.join(world.token(), host_id)
        self.key = world.ssh
        self.id = str(uuid.uuid4())
        self.chunks = [b"first", b"second"]
        self.start = RecordingStart(
            self.id, "ssh", "c", user, "root", ("access",), "s1", "web1", host_id, "192.0.2.7:1",
            now(world.clock),
        )  # fmt: skip
        self.host = world.host(host_id)
        world.do(table.START_RECORDING, records.StartRecording(self.id, self.start), self.host)

    def upload(self, *numbers: int) -> None:
        for number in numbers:
            put = records.PutChunk(self.id, number, self.chunks[number])
            self.world.do(table.PUT_CHUNK, put, self.host)

    def manifest(self) -> Manifest:
        digests = tuple(
            ChunkDigest(n, len(c), hashlib.sha256(c).hexdigest()) for n, c in enumerate(self.chunks)
        )
        manifest = Manifest(
            self.id, 1, self.start, now(self.world.clock), digests, 3, True, False,
            self.certificates.ssh,
        )  # fmt: skip
        return evolve(manifest, signature=self.key.sign(encode(manifest)))

    def finish(self, manifest: Manifest | None = None) -> None:
        request = records.FinishRecording(self.id, manifest or self.manifest())
        self.world.do(table.FINISH_RECORDING, request, self.host)


def test_a_recording_is_uploaded_and_read(world: World) -> None:
    """Chunks and manifest come back as they went in; everything may be sent again."""
    tape = Tape(world)
    tape.upload(0, 0, 1)
    progress = world.do(table.RECORDING_PROGRESS, members.ById(tape.id), tape.host)
    assert (progress.chunks, progress.complete) == ((0, 1), False)
    tape.finish()
    tape.finish()
    tape.upload(0)
    (row,) = world.do(table.LIST_RECORDINGS, people.Paged()).items
    assert (row.complete, row.interactive, row.size, row.chunks) == (True, True, 11, 2)
    details = world.do(table.GET_RECORDING, members.ById(tape.id))
    assert details.manifest == tape.manifest()
    assert world.do(table.GET_CHUNK, records.GetChunk(tape.id, 1)).data == b"second"
    assert len(world.events("recording.upload")) == 1
    assert len(world.events("recording.access")) == 1


def test_a_recording_cannot_be_changed(world: World) -> None:
    """Neither another chunk under a number, nor another manifest, nor one not signed."""
    tape = Tape(world)
    tape.upload(0, 1)
    with pytest.raises(Conflict):
        put = records.PutChunk(tape.id, 0, b"other")
        world.do(table.PUT_CHUNK, put, tape.host)
    good = tape.manifest()
    for bad in (
        evolve(good, signature=b""),
        evolve(good, frames=99),
        evolve(good, chunks=good.chunks[:1], signature=good.signature),
    ):
        with pytest.raises(InvalidInput):
            tape.finish(bad)
    tape.finish(good)
    with pytest.raises(Conflict):
        put = records.PutChunk(tape.id, 1, b"other!")
        world.do(table.PUT_CHUNK, put, tape.host)


def test_a_truncated_recording_does_not_pass_for_whole(world: World) -> None:
    """A manifest that names chunks that auth does not have is refused."""
    tape = Tape(world)
    tape.upload(0)
    with pytest.raises(TeleError):
        tape.finish()


def test_hosts_write_their_own_recordings_only(world: World) -> None:
    """Another host can neither start, extend, close nor look into this one's recording."""
    tape = Tape(world)
    world.join(world.token(), OTHER_ID)
    thief = world.host(OTHER_ID)
    for operation, request in (
        (table.START_RECORDING, records.StartRecording(tape.id, tape.start)),
        (table.PUT_CHUNK, records.PutChunk(tape.id, 0, b"x")),
        (table.UPDATE_RECORDING, records.UpdateRecording(tape.id, True)),
        (table.FINISH_RECORDING, records.FinishRecording(tape.id, tape.manifest())),
        (table.RECORDING_PROGRESS, members.ById(tape.id)),
    ):
        with pytest.raises(AccessDenied):
            world.do(operation, request, thief)


@pytest.mark.parametrize("bad", ["../../x", "", "a" * 36, HOST_ID.upper()])
def test_recording_ids_are_uuids(world: World, bad: str) -> None:
    """An id is never a path."""
    tape = Tape(world)
    with pytest.raises(TeleError):
        request = records.StartRecording(bad, evolve(tape.start, id=bad))
        world.do(table.START_RECORDING, request, tape.host)
    with pytest.raises(NotFound):
        world.do(table.GET_RECORDING, members.ById(bad))


def test_ones_own_recordings_are_visible(world: World) -> None:
    """Without a rule one sees one's own recordings and nobody else's."""
    world.add_user("alice", "access")
    world.add_user("bob", "access")
    mine, other = Tape(world, "alice"), Tape(world, "bob")
    alice = world.user("alice", "access")
    rows = world.do(table.LIST_RECORDINGS, people.Paged(), alice).items
    assert [row.id for row in rows] == [mine.id]
    world.do(table.GET_RECORDING, members.ById(mine.id), alice)
    with pytest.raises(AccessDenied):
        world.do(table.GET_RECORDING, members.ById(other.id), alice)
    with pytest.raises(AccessDenied):
        world.do(table.GET_CHUNK, records.GetChunk(other.id, 0), alice)


def test_recordings_are_listed_newest_first_in_pages(world: World) -> None:
    """A page goes on where the last one ended."""
    tapes = []
    for _ in range(5):
        world.clock.advance(1)
        tapes.append(Tape(world))
    first = world.do(table.LIST_RECORDINGS, people.Paged(limit=3))
    rest = world.do(table.LIST_RECORDINGS, people.Paged(limit=3, after=first.next))
    listed = [row.id for row in (*first.items, *rest.items)]
    assert listed == [tape.id for tape in reversed(tapes)]
    assert rest.next == ""


# -- events ---------------------------------------------------------------------------
def test_hosts_report_their_own_events_only(world: World) -> None:
    """A host cannot speak for another one, nor chain events itself."""
    from tele.audit.chain import event

    good = event("exec", "e1", now(world.clock), "c", server_id=HOST_ID, command="ls")
    world.do(table.EMIT_EVENTS, records.EmitEvents((good, good)), world.host())
    assert len(world.events("exec")) == 1
    for bad in (evolve(good, server_id=OTHER_ID), evolve(good, cluster="d")):
        with pytest.raises(AccessDenied):
            world.do(table.EMIT_EVENTS, records.EmitEvents((bad,)), world.host())
    with pytest.raises(InvalidInput):
        chained = evolve(good, id="e2", hash="00")
        world.do(table.EMIT_EVENTS, records.EmitEvents((chained,)), world.host())


def test_state_is_told_at_each_change(world: World) -> None:
    """Nodes get roles and authorities at once, and every change after it."""
    told: list[Any] = []
    watching = world.auth.follow(table.WATCH_STATE, members.WatchState(), world.host(), told.append)
    world.do(table.PUT_ROLE, people.PutRole("ops", Role(Metadata("ops"))))
    assert [r.metadata.name for r in told[0].roles] == ["access", "auditor", "editor"]
    assert "ops" in [r.metadata.name for r in told[-1].roles]
    assert told[-1].revision > told[0].revision
    watching.addErrback(lambda _: None)
    watching.cancel()
    world.do(table.DELETE_ROLE, members.ByName("ops"))
    assert "ops" in [r.metadata.name for r in told[-1].roles]


def test_a_person_sees_the_nodes_that_they_may_log_in_to(world: World) -> None:
    """Listing follows the same decision as logging in."""
    world.join(world.token())
    world.do(table.ANNOUNCE, Presence("web1", HostRole.NODE), world.host())
    world.add_user("alice", "access")
    world.add_user("nina", "auditor")
    request = members.ListHosts()
    assert len(world.do(table.LIST_HOSTS, request, world.user("alice", "access")).items) == 1
    assert world.do(table.LIST_HOSTS, request, world.user("nina", "auditor")).items == ()
    assert world.do(table.LIST_HOSTS, members.ListHosts(labels=("a=b",))).items == ()
    with pytest.raises(InvalidInput):
        world.do(table.LIST_HOSTS, members.ListHosts(labels=("nonsense",)))
