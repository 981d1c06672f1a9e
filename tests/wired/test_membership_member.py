"""A membership against an auth that comes and goes, on a fake clock."""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from math import inf
from pathlib import Path
from typing import Any

import pytest
from attrs import define, evolve, field
from twisted.internet.defer import Deferred, fail
from twisted.logger import ILogObserver, LogEvent, globalLogPublisher
from zope.interface import implementer

from tele.errors import AccessDenied, Conflict, InvalidInput, TeleError, Unavailable
from tele.https.call_rules import STREAM_TIMEOUT
from tele.log import event_text
from tele.membership.identity import HostKeyPair
from tele.membership.joining import JoinSettings
from tele.membership.member import Member
from tele.membership.store import DirectoryStore, MemberStore, MemoryStore
from tele.model.api.members import ANNOUNCE
from tele.model.event import Event
from tele.model.identity import HostRole
from tele.model.presence import Presence
from tele.model.resources import Metadata, Role
from tele.testing import SettableClock
from tele.testing.authority import CLUSTER, FakeAuthority

BEGIN = datetime(2026, 11, 24, 12, tzinfo=UTC)


@define
class World:
    """A machine that wants to be a member."""

    folder: Path
    clock: SettableClock = field(factory=SettableClock)
    auth: FakeAuthority = field(init=False)
    presence: Presence = field(factory=lambda: Presence("web1", HostRole.NODE, ("192.0.2.1:3022",)))
    token: str | None = "right"
    members: list[Member] = field(factory=list)

    def __attrs_post_init__(self) -> None:
        self.clock.advance(BEGIN.timestamp())
        self.auth = FakeAuthority(self.clock)

    def store(self) -> DirectoryStore:
        """Open what the machine remembers."""
        return DirectoryStore(self.folder, HostRole.NODE)

    def start(
        self,
        store: MemberStore | None = None,
        before: Callable[[Member], None] = lambda _: None,
        **settings: Any,
    ) -> Member:
        """Start a membership; ``before`` is called with it first."""
        settings.setdefault("pins", (self.auth.pin,))
        member = Member(
            self.clock,
            store=store or self.store(),
            settings=JoinSettings(("auth.example:3025",), token=lambda: self.token, **settings),
            presence=lambda: self.presence,
            network=self.auth.network,
            dice=lambda: 0.5,
        )
        self.members.append(member)
        before(member)
        member.startService()
        return member

    def stop(self, member: Member) -> None:
        """Stop it, as at the end of a process."""
        self.members.remove(member)
        stopped: list[Any] = []
        member.stopService().addBoth(stopped.append)
        self.clock.advance(3)
        assert stopped == [None]

    def event(self, number: int, **fields: Any) -> Event:
        """Make an event."""
        return Event(f"id-{number}", BEGIN, "exec", "TS006I", CLUSTER, fields=fields)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A machine and an auth; at the end nothing of either is left on the clock."""
    made = World(tmp_path / "data")
    yield made
    for member in list(made.members):
        made.stop(member)
    assert made.clock.getDelayedCalls() == []


@pytest.fixture
def lines() -> Iterator[list[str]]:
    """What is logged at warning or above."""
    lines: list[str] = []

    @implementer(ILogObserver)
    def observe(event: LogEvent) -> None:
        if event["log_level"].name in ("warn", "error", "critical"):
            lines.append(event_text(event))

    globalLogPublisher.addObserver(observe)
    yield lines
    globalLogPublisher.removeObserver(observe)


def result(deferred: Deferred[Any]) -> Any:
    """Return what a Deferred has come to, or None."""
    results: list[Any] = []
    deferred.addBoth(results.append)
    return results[0] if results else "nothing yet"


def test_joining(world: World) -> None:
    """With token and pin a machine has keys of its own making, and a state, at once."""
    member = world.start()
    assert result(member.ready()) is None
    identity = member.identity
    assert (identity.host.name, identity.host.cluster) == ("web1", CLUSTER)
    assert "192.0.2.1" in identity.ssh_certificate.principals
    assert member.state == world.auth.state
    assert identity.ssh_certificate.key.blob == identity.keys.ssh.public.blob
    assert member.autonomous == timedelta(hours=24)
    assert "PRIVATE" not in repr(identity)


def test_held_announcements(world: World) -> None:
    """A host that does not know yet what it has to say says nothing, and then says it once."""
    world.stop(world.start())
    world.auth.announced.clear()
    member = world.start(before=Member.hold_announcements)
    assert result(member.ready()) is None
    member.announce_soon()
    world.clock.advance(60)
    assert world.auth.announced == []
    member.release_announcements()
    member.release_announcements()
    assert len(world.auth.announced) == 1
    world.clock.advance(5)
    assert len(world.auth.announced) == 1
    world.clock.advance(25)
    assert len(world.auth.announced) == 2


def test_secrets_on_disk(world: World) -> None:
    """Everything is in private files in private folders; the token is in none of them."""
    world.start()
    paths = list(world.folder.rglob("*"))
    assert {stat.S_IMODE(p.stat().st_mode) for p in paths if p.is_file()} == {0o600}
    assert {stat.S_IMODE(p.stat().st_mode) for p in paths if p.is_dir()} == {0o700}
    assert not any(b"right" in path.read_bytes() for path in paths if path.is_file())


def test_memory_leaves_no_file(world: World) -> None:
    """With ``state: memory`` nothing is written at all."""
    member = world.start(MemoryStore())
    assert result(member.ready()) is None
    member.emit(world.event(1))
    assert not world.folder.exists()


def test_resuming(world: World) -> None:
    """After a restart the machine is the same, needs no token and requests nothing again."""
    first = world.start()
    key = first.identity.keys.ssh.public.blob
    world.stop(first)
    world.token = None
    world.auth.calls.clear()
    second = world.start()
    assert result(second.ready()) is None
    assert (second.identity.keys.ssh.public.blob, second.host_id) == (key, first.host_id)
    assert not {"join", "cluster"} & set(world.auth.calls)


def test_resuming_while_auth_is_away(world: World) -> None:
    """Without auth the last state holds, for the rest of the certificates' life."""
    world.stop(world.start())
    world.auth.leave()
    world.clock.advance(3600)
    member = world.start()
    assert result(member.ready()) is None
    assert member.state == world.auth.state
    assert member.autonomous < timedelta(hours=23)
    assert member.trouble


def test_expired_while_away(world: World) -> None:
    """A host that was off for longer than its certificates rejoins by its key, with no token."""
    first = world.start()
    key, host_id = first.identity.keys.ssh.public.blob, first.host_id
    world.stop(first)
    world.clock.advance(26 * 3600)
    world.token = None
    member = world.start()
    assert result(member.ready()) is None
    assert (member.identity.keys.ssh.public.blob, member.host_id) == (key, host_id)
    assert world.auth.calls.count("rejoin") == 1
    assert member.autonomous == timedelta(hours=24)


def test_expired_and_removed(world: World) -> None:
    """A host that was removed meanwhile cannot rejoin by its key, only join anew by a token."""
    first = world.start()
    host_id = first.host_id
    world.stop(first)
    world.clock.advance(26 * 3600)
    world.auth.removed, world.token = True, None
    member = world.start()
    failure = result(member.ready())
    assert failure.check(InvalidInput)
    assert "no valid certificate" in str(failure.value)
    world.stop(member)
    world.token = "right"
    again = world.start()
    assert result(again.ready()) is None
    assert again.host_id != host_id


def test_wrong_token(world: World, lines: list[str]) -> None:
    """A refused token is one clear, final error, which does not repeat the token."""
    world.token = "wrong-and-secret"
    failure = result(world.start().ready())
    assert failure.check(AccessDenied)
    assert "token expired or not found" in str(failure.value)
    assert not any("wrong-and-secret" in line for line in [*lines, str(failure.value)])
    world.clock.advance(600)
    assert world.auth.calls.count("join") == 1


def test_removed_while_stopped(world: World) -> None:
    """A machine that was removed joins again when it is started with a token that is good."""
    world.stop(world.start())
    world.auth.removed = True
    member = world.start()
    assert result(member.ready()) is None
    world.clock.pump([1.0] * 3)
    assert world.auth.calls.count("join") == 2
    assert not world.auth.removed
    assert member.trouble == ""


def test_removed_while_stopped_and_no_token(world: World, lines: list[str]) -> None:
    """Without one it logs it once, and retries seldom: each refusal is in the audit."""
    world.stop(world.start())
    world.auth.removed, world.token = True, "wrong"
    world.start()
    world.clock.pump([1.0] * 100)
    assert [line for line in lines if "join refused" in line] != []
    assert world.auth.calls.count("join") == 2
    assert world.auth.calls.count("watch_state") <= 3


def test_removed_while_running(world: World) -> None:
    """A removed host does not join again by the same token."""
    member = world.start()
    world.clock.advance(1)
    world.auth.leave()
    world.auth.away, world.auth.removed = False, True
    world.clock.pump([1.0] * 60)
    assert world.auth.calls.count("join") == 1
    assert "no member" in member.trouble


@pytest.mark.parametrize("pins", [(), ("sha256:" + "0" * 64,)])
def test_without_the_right_pin_nothing_is_sent(world: World, pins: tuple[str, ...]) -> None:
    """Without the CA's pin the token is not sent (attack)."""
    failure = result(world.start(pins=pins).ready())
    assert failure.check(AccessDenied, InvalidInput)
    assert "join" not in world.auth.calls


def test_without_token(world: World) -> None:
    """No token is an error that says how to get one."""
    world.token = None
    assert "tele tokens add" in str(result(world.start().ready()).value)


def test_auth_comes_later(world: World, lines: list[str]) -> None:
    """While auth is away it tries again, logs it once, and joins as soon as it can."""
    world.auth.away = True
    member = world.start()
    ready = member.ready()
    for _ in range(60):
        world.clock.advance(10)
    assert result(ready) == "nothing yet"
    assert len(lines) == 1
    world.auth.away = False
    world.clock.advance(30)
    assert result(member.ready()) is None


def test_certificates_of_another_host(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A renewal with certificates for another host is not taken (attack)."""
    issue = FakeAuthority._issue
    member = world.start()
    before = member.identity

    def wrong(self: FakeAuthority, keys: Any, host_id: str, *args: Any) -> Any:
        return issue(self, keys, "22222222-2222-4222-8222-222222222222", *args)

    monkeypatch.setattr(FakeAuthority, "_issue", wrong)
    world.clock.advance(17 * 3600)
    world.clock.advance(2)
    assert world.auth.calls.count("renew") == 1
    assert member.identity is before


def test_certificates_of_other_keys(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer with certificates for keys that are not ours is not taken (attack)."""
    issue = FakeAuthority._issue

    def wrong(self: FakeAuthority, keys: Any, *args: Any) -> Any:
        return issue(self, HostKeyPair.generate().public, *args)

    monkeypatch.setattr(FakeAuthority, "_issue", wrong)
    member = world.start()
    assert "join" in world.auth.calls
    with pytest.raises(Unavailable):
        member.identity  # noqa: B018 - the property raises


def test_one_process_at_a_time(world: World) -> None:
    """A second process on the same folder is refused and harms nothing."""
    world.start()
    with pytest.raises(Conflict, match="another node"):
        world.store()


def test_renewal(world: World) -> None:
    """At two thirds of their life the certificates are renewed, the keys stay."""
    member = world.start()
    first = member.identity
    world.clock.advance(15.5 * 3600)
    assert member.identity is first
    world.clock.advance(3600)
    world.clock.advance(2)
    second = member.identity
    assert second.expires > first.expires
    assert second.keys is first.keys
    assert world.auth.calls.count("renew") == 1
    world.stop(member)
    assert world.start().identity.expires == second.expires


def test_renewal_over_a_suspended_machine(world: World) -> None:
    """A machine that slept past its renewal renews soon after it wakes."""
    member = world.start()
    first = member.identity
    world.clock.rightNow += 20 * 3600
    world.clock.advance(601)
    world.clock.advance(1)
    assert member.identity.expires > first.expires


def test_renewal_waits_for_auth(world: World, lines: list[str]) -> None:
    """A day without auth: renewal is tried until it works, and then it takes no token."""
    member = world.start()
    host_id = member.host_id
    world.auth.leave()
    world.token = None
    for _ in range(26 * 60):
        world.clock.advance(60)
    assert member.autonomous == timedelta()
    world.auth.away = False
    world.clock.pump([1.0] * 60)
    assert member.autonomous > timedelta(hours=23)
    assert member.host_id == host_id
    assert world.auth.calls.count("join") == 1
    assert member.trouble == ""
    assert len(set(lines)) == len(lines) <= 3


def test_a_removed_host_takes_another_token(world: World) -> None:
    """A host that was removed while it ran joins as another host when there is another token for
    it.
    """
    member = world.start()
    host_id = member.host_id
    world.clock.advance(1)
    world.auth.leave()
    world.auth.away, world.auth.removed = False, True
    world.clock.pump([1.0] * 200)
    assert world.auth.calls.count("join") == 1
    world.token = world.auth.token = "another"
    world.clock.pump([1.0] * 300)
    assert world.auth.calls.count("join") == 2
    assert member.host_id != host_id
    assert member.trouble == ""


def test_short_lives_do_not_spin(world: World) -> None:
    """Certificates of a few seconds are renewed at most once a second."""
    world.auth.life = timedelta(seconds=2)
    world.start()
    for _ in range(100):
        world.clock.advance(0.1)
    assert world.auth.calls.count("renew") + world.auth.calls.count("join") <= 12


def test_new_name(world: World) -> None:
    """A machine that got another name is in its certificates by it, after a restart at once."""
    world.stop(world.start())
    world.presence = evolve(world.presence, name="web2")
    member = world.start()
    world.clock.advance(2)
    assert member.identity.host.name == "web2"


def test_announcing(world: World) -> None:
    """It announces itself about every 30 s, and within a second when something changed."""
    member = world.start()
    for _ in range(300):
        world.clock.advance(1)
    assert 10 <= len(world.auth.announced) <= 12
    count = len(world.auth.announced)
    world.presence = evolve(world.presence, labels={"env": "new"})
    member.announce_soon()
    member.announce_soon()
    world.clock.advance(1)
    assert [said.labels for said in world.auth.announced[count:]] == [{"env": "new"}]


def test_announcing_when_auth_is_back(world: World, lines: list[str]) -> None:
    """When auth answers again it is announced to soon; trouble is logged once, and its end."""
    member = world.start()
    world.auth.leave()
    for _ in range(300):
        world.clock.advance(1)
    count = len(world.auth.announced)
    assert member.trouble
    world.auth.away = False
    for _ in range(32):
        world.clock.advance(1)
    assert len(world.auth.announced) > count
    assert not member.trouble
    assert len(lines) <= 2


def test_bound_labels(world: World) -> None:
    """Labels that the token bound are known from the first announcement, also after a restart."""
    world.auth.bound = {"env": "prod"}
    member = world.start()
    assert member.bound_labels == {"env": "prod"}
    world.stop(member)
    world.auth.leave()
    assert world.start().bound_labels == {"env": "prod"}


def test_a_new_host_waits_for_its_labels(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new host does not serve before it knows the labels that roles are denied by, for example
    while auth cannot take its first announcement.
    """
    world.auth.bound = {"env": "prod"}
    perform = FakeAuthority.perform

    def full(self: FakeAuthority, operation: Any, request: Any) -> Any:
        if operation is ANNOUNCE:
            return fail(Unavailable("the disk is full"))
        return perform(self, operation, request)

    with monkeypatch.context() as patch:
        patch.setattr(FakeAuthority, "perform", full)
        member = world.start()
        assert member.state == world.auth.state
        assert result(member.ready()) == "nothing yet"
    world.clock.advance(30)
    assert member.bound_labels == {"env": "prod"}
    assert result(member.ready()) is None


def test_state_changes(world: World) -> None:
    """Each change of the state is there at once, for observers, and on disk."""
    member = world.start()
    seen: list[int] = []
    member.on_change(lambda: seen.append(member.state.revision))
    world.auth.change(roles=(Role(Metadata("r")),))
    assert seen == [2]
    world.stop(member)
    world.auth.leave()
    assert [role.metadata.name for role in world.start().state.roles] == ["r"]


def test_the_age_of_the_state(world: World) -> None:
    """It is new while auth sends it; from then on it counts, also from before the connection broke;
    after a restart without auth it is not known, whatever the dates say.
    """
    member = world.start()
    world.clock.advance(1000)
    assert member.state_age == 0
    world.auth.leave()
    world.clock.advance(100)
    assert 100 <= member.state_age <= 100 + STREAM_TIMEOUT
    world.auth.away = False
    world.clock.advance(60)
    assert member.state_age == 0
    world.auth.leave()
    world.stop(member)
    assert world.start().state_age == inf


def test_state_of_another_cluster(world: World, lines: list[str]) -> None:
    """A state of another cluster is not taken."""
    member = world.start()
    world.auth.change(cluster="other")
    assert member.state.cluster == CLUSTER
    assert lines


def test_observer_that_fails(world: World) -> None:
    """An observer that fails disturbs neither the others nor the membership."""
    member = world.start()
    seen: list[int] = []

    def fails() -> None:
        raise ValueError("no")

    member.on_change(fails)
    member.on_change(lambda: seen.append(1))
    world.auth.change()
    assert seen == [1]


def test_events(world: World) -> None:
    """Events arrive in order, together, soon."""
    member = world.start()
    for number in range(5):
        member.emit(world.event(number))
    world.clock.advance(0.1)
    assert [event.id for event in world.auth.events] == [f"id-{n}" for n in range(5)]
    assert world.auth.calls.count("emit_events") <= 2


def test_events_while_auth_is_away(world: World) -> None:
    """Events wait on disk, over a kill and a restart, in order, and none is lost."""
    member = world.start()
    world.auth.leave()
    for number in range(3):
        member.emit(world.event(number))
    world.clock.advance(5)
    world.members.remove(member)
    # As kill -9 would leave it: only the kernel closes files.
    spool = world.folder / "identity" / "node" / "events"
    content = spool.read_bytes()
    world.members.append(member)
    world.stop(member)
    assert spool.read_bytes() == content
    world.auth.away = False
    again = world.start()
    again.emit(world.event(3))
    world.clock.advance(1)
    assert [event.id for event in world.auth.events] == [f"id-{n}" for n in range(4)]


def test_an_event_that_auth_refuses(world: World, lines: list[str]) -> None:
    """An event that auth never takes is logged and does not hold up the others."""
    member = world.start()
    member.emit(world.event(1))
    member.emit(world.event(2, bad=True))
    member.emit(world.event(3))
    world.clock.advance(1)
    assert [event.id for event in world.auth.events] == ["id-1", "id-3"]
    assert any("bad" in line for line in lines)


def test_last_events_are_sent(world: World) -> None:
    """Events of just before the end are sent before it stops."""
    member = world.start()
    member.emit(world.event(1))
    world.stop(member)
    assert [event.id for event in world.auth.events] == ["id-1"]
    assert world.auth.closed


def test_too_much_for_the_spool(world: World, lines: list[str]) -> None:
    """An event that is too long is counted and logged, never raised."""
    member = world.start()
    member.emit(world.event(1, text="x" * 400_000))
    world.clock.advance(1)
    assert world.auth.events == []
    assert lines
    assert member.can_record


def test_damaged_identity(world: World) -> None:
    """A damaged identity is an error that names the file and shows nothing of it."""
    world.stop(world.start())
    path = world.folder / "identity" / "node" / "identity.json"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(TeleError, match=r"identity\.json") as caught:
        world.store()
    assert "PRIVATE" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_damaged_state(world: World) -> None:
    """A damaged state is dropped: auth sends it again."""
    world.stop(world.start())
    (world.folder / "identity" / "node" / "state.json").write_bytes(b"{")
    assert result(world.start().ready()) is None
