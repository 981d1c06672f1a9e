"""What a user may start on a connection to a node, after the grant has changed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, cast

from attrs import Factory, define, evolve
from twisted.internet.defer import Deferred, succeed
from twisted.internet.testing import MemoryReactorClock

from grants import changed, one_role
from tele.admission.slots import Slots
from tele.capacity.descriptors import DescriptorBudget, shares_of
from tele.conch.session.programs import ProgramRequest, PtyRequest
from tele.errors import AccessDenied
from tele.model.access import Denied, Grant, Reason
from tele.model.identity import UserIdentity
from tele.node.avatar import NodeAvatar
from tele.node.forwards import ForwardingResources
from tele.node.user_sockets import UserSockets
from tele.outbound.name_lookup import NameResolver
from tele.recording.tee import ConnectionTape
from tele.sessions.context import ConnectionContext

LATER = datetime(2099, 1, 1, tzinfo=UTC)


@define
class FakeAudit:
    """Stands for the audit reporter."""

    events: list[tuple[str, dict[str, Any]]] = Factory(list)

    def emit(self, name: str, context: ConnectionContext, **fields: Any) -> None:
        self.events.append((name, fields))


@define
class FakePrograms:
    """Stands for the programs of a node."""

    started: list[ProgramRequest] = Factory(list)
    error: Exception | None = None

    def start(self, request: ProgramRequest, *_: Any) -> Deferred[Any]:
        if self.error is not None:
            raise self.error
        self.started.append(request)
        return succeed(None)


def avatar_of(
    grant: Grant, programs: FakePrograms, audit: FakeAudit, tape: ConnectionTape | None = None
) -> NodeAvatar:
    """Return the avatar of a connection."""
    clock = MemoryReactorClock()
    unused: Any = None
    context = ConnectionContext(grant, "session-1", ("192.0.2.7", 50000), ("192.0.2.1", 3022))
    account = DescriptorBudget(shares_of(1024)).account("alice")
    sockets = UserSockets(unused, "alice")
    resources = ForwardingResources(sockets, NameResolver(clock), account, Slots(waiting=10))
    ours: Any = programs
    reporter: Any = audit
    return NodeAvatar(clock, context, ours, tape, reporter, resources)


def test_a_terminal_that_is_not_permitted_any_more() -> None:
    """A terminal that was requested before a role took it away is refused when the program is to
    start, and that is an event (attack).
    """
    identity = UserIdentity("alice", "c", LATER)
    grant = one_role(identity, "alice")
    programs, audit = FakePrograms(), FakeAudit()
    avatar = avatar_of(grant, programs, audit)
    request = ProgramRequest("shell", pty=PtyRequest("xterm", 80, 24))
    avatar.regranted(changed(grant, permit_pty=False))
    failed: list[Any] = []
    avatar.start(request, 1).addErrback(failed.append)
    assert isinstance(failed[0].value, AccessDenied)
    assert not programs.started
    ((name, fields),) = audit.events
    assert (name, fields["error"]) == ("exec", "a terminal is not permitted")
    avatar.start(evolve(request, pty=None), 2)
    assert programs.started
    avatar.regranted(grant)
    avatar.start(request, 3)
    assert programs.started[-1].pty is not None
    avatar.logged_out()


def test_a_plugin_that_raises() -> None:
    """A session that does not start because a recorder or a subsystem raises is an event, too; what
    it raised may be anything and is in the log only.
    """
    identity = UserIdentity("alice", "c", LATER)
    grant = one_role(identity, "alice")
    audit = FakeAudit()
    avatar = avatar_of(grant, FakePrograms(error=KeyError("secret 7")), audit)
    failed: list[Any] = []
    avatar.start(ProgramRequest("subsystem", b"greeting"), 1).addErrback(failed.append)
    assert isinstance(failed[0].value, KeyError)
    ((name, fields),) = audit.events
    assert (name, fields["error"]) == ("subsystem", "KeyError, see the log of the host")
    avatar.logged_out()


def test_a_recording_that_cannot_be_closed() -> None:
    """A recorder that raises when a session ends does not keep its end out of the audit."""

    class Recording:
        paused = False

        def write(self, _: Any) -> None: ...

        def close(self, *_: Any) -> Any:
            raise KeyError("secret 7")

    class Recorder:
        def open(self, _: Any) -> Deferred[Any]:
            return succeed(Recording())

    identity = UserIdentity("alice", "c", LATER)
    grant = one_role(identity, "alice")
    audit, recorder, start = FakeAudit(), Recorder(), None
    tape = ConnectionTape(cast(Any, recorder), cast(Any, start), lambda: 0)
    Deferred.fromCoroutine(tape.ready())
    avatar = avatar_of(grant, FakePrograms(), audit, tape)
    avatar.logged_in()
    avatar.logged_out()
    _, (name, fields) = audit.events
    assert (name, fields["recorded"]) == ("session.end", True)


def test_rules_that_change_during_a_login() -> None:
    """Before it has a connection, an avatar gets another grant, or learns that access has ended."""
    identity = UserIdentity("alice", "c", LATER)
    grant = one_role(identity, "alice")
    avatar = avatar_of(grant, FakePrograms(), FakeAudit())
    other = evolve(grant, client_keepalive=timedelta(seconds=5))
    avatar.regranted(other)
    assert avatar.grant is other
    denied = Denied(Reason.LOCKED, "locked")
    avatar.expelled(denied)
    assert avatar.ended is denied
    avatar.logged_out()
