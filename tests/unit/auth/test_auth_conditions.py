"""What users may do through the API whose rules have a condition (``where``)."""

from __future__ import annotations

import pytest

from auth_world import Tape, World
from tele.errors import AccessDenied, NotFound
from tele.model.api import recordings, table, users
from tele.model.api.paging import ById, ByName, Paged
from tele.model.api.roles import PutRole
from tele.model.api.search import SearchRecordings
from tele.model.api.sessions import KillSession
from tele.model.identity import Caller, HostRole
from tele.model.presence import Presence
from tele.model.resources import Conditions, Metadata, Role, RoleSpec, Rule, User, UserSpec

WEB = 'resource.labels.team == "web"'
OF_WENDY = 'resource.user == "wendy"'


def put_role(world: World, name: str, *allow: Rule, deny: tuple[Rule, ...] = ()) -> None:
    """Make a role with rules."""
    spec = RoleSpec(Conditions(rules=allow), Conditions(rules=deny))
    world.do(table.PUT_ROLE, PutRole(name, Role(Metadata(name), spec)))


def put_user(
    world: World, name: str, *roles: str, caller: Caller | None = None, **more: str
) -> User:
    """Create or replace a user, with labels."""
    user = User(Metadata(name, labels=more), UserSpec(roles))
    callers = () if caller is None else (caller,)
    made: User = world.do(table.PUT_USER, users.PutUser(name, user), *callers)
    return made


@pytest.fixture
def helper(world: World) -> Caller:
    """One who helps the users of a team, among others."""
    verbs = ("list", "read", "create", "update", "delete")
    put_role(world, "help", Rule(("user",), verbs, WEB))
    put_user(world, "helper", "help")
    put_user(world, "wendy", "access", team="web")
    put_user(world, "dora", "access", team="db")
    put_user(world, "boss", "editor", team="web")
    return world.user("helper", "help")


def test_users_of_a_team(world: World, helper: Caller) -> None:
    """Others are neither listed nor read, nor changed, removed or given a password (attack)."""
    listed = world.do(table.LIST_USERS, Paged(), helper).items
    assert sorted(each.metadata.name for each in listed) == ["boss", "wendy"]
    assert world.do(table.GET_USER, ByName("wendy"), helper).metadata.name == "wendy"
    assert world.do(table.RESET_USER, users.ResetUser("wendy"), helper).password
    for operation, request in (
        (table.GET_USER, ByName("dora")),
        (table.RESET_USER, users.ResetUser("dora")),
        (table.DELETE_USER, users.DeleteUser("dora")),
        (table.ADD_USER, users.NewUser(User(Metadata("new", labels={"team": "db"})))),
    ):
        with pytest.raises(AccessDenied, match="where"):
            world.do(operation, request, helper)
    made = users.NewUser(User(Metadata("new", labels={"team": "web"})))
    assert world.do(table.ADD_USER, made, helper).password
    world.do(table.DELETE_USER, users.DeleteUser("new"), helper)


def test_a_condition_gives_no_rights_to_give(world: World, helper: Caller) -> None:
    """By a label nobody gets roles, logins, or a user who may more; and no user is moved into the
    team or out of it (attack).
    """
    with pytest.raises(AccessDenied, match="giving roles or traits"):
        put_user(world, "wendy", caller=helper, team="web")
    with pytest.raises(AccessDenied, match="rules that you have not"):
        put_user(world, "wendy", "access", "editor", caller=helper, team="web")
    with pytest.raises(AccessDenied, match="giving roles or traits"):
        user = User(
            Metadata("wendy", labels={"team": "web"}), UserSpec(("access",), {"logins": ("root",)})
        )
        world.do(table.PUT_USER, users.PutUser("wendy", user), helper)
    for name, roles, team in (
        ("wendy", ("access",), "db"), ("dora", ("access",), "web"), ("helper", ("help",), "web"),
    ):  # fmt: skip
        with pytest.raises(AccessDenied):
            put_user(world, name, *roles, caller=helper, team=team)
    for operation, request in (
        (table.RESET_USER, users.ResetUser("boss")),
        (table.DELETE_USER, users.DeleteUser("boss")),
        (table.DELETE_USER, users.DeleteUser("boss", force=True)),
    ):
        with pytest.raises(AccessDenied):
            world.do(operation, request, helper)
    put_user(world, "wendy", "access", caller=helper, team="web", site="north")


def test_other_operations_need_a_rule_without_a_condition(world: World, helper: Caller) -> None:
    """A token of a machine identity logs in any user: a condition is not asked there (attack)."""
    for operation, request in (
        (table.LIST_ROLES, Paged()),
        (table.LIST_TOKENS, Paged()),
        (table.LIST_LOCKS, Paged()),
    ):
        with pytest.raises(AccessDenied):
            world.do(operation, request, helper)


def test_recordings_of_one_user(world: World) -> None:
    """They are listed and read beside one's own; a search finds one's own only (attack)."""
    put_role(world, "audit", Rule(("recording",), ("list", "read"), OF_WENDY))
    for name in ("wendy", "dora", "anna"):
        put_user(world, name, "audit" if name == "anna" else "access")
    hers, others, mine = (Tape(world, name) for name in ("wendy", "dora", "anna"))
    anna = world.user("anna", "audit")
    rows = world.do(table.LIST_RECORDINGS, recordings.ListRecordings(), anna).items
    assert {row.id for row in rows} == {hers.id, mine.id}
    asked = recordings.ListRecordings(user="dora")
    assert world.do(table.LIST_RECORDINGS, asked, anna).items == ()
    for tape in (hers, mine):
        assert world.do(table.GET_RECORDING, ById(tape.id), anna).recording.id == tape.id
    with pytest.raises(AccessDenied):
        world.do(table.GET_RECORDING, ById(others.id), anna)
    with pytest.raises(AccessDenied):
        world.do(table.GET_CHUNK, recordings.GetChunk(others.id, 0), anna)
    with pytest.raises(AccessDenied):
        world.do(table.SEARCH_RECORDINGS, SearchRecordings("secret", user="wendy"), anna)


def test_a_denial_of_some_recordings(world: World) -> None:
    """Who may read all but those of one user reads the others one by one (attack)."""
    every = Rule(("recording",), ("list", "read"))
    put_role(world, "audit", every, deny=(Rule(("recording",), ("list", "read"), OF_WENDY),))
    put_user(world, "anna", "audit")
    hers, others = Tape(world, "wendy"), Tape(world, "dora")
    anna = world.user("anna", "audit")
    rows = world.do(table.LIST_RECORDINGS, recordings.ListRecordings(), anna).items
    assert [row.id for row in rows] == [others.id]
    world.do(table.GET_RECORDING, ById(others.id), anna)
    with pytest.raises(AccessDenied):
        world.do(table.GET_RECORDING, ById(hers.id), anna)


def test_sessions_of_one_user(world: World) -> None:
    """They are shown and ended; others are as if they were not there (attack)."""
    put_role(world, "watch", Rule(("session",), ("list", "delete"), OF_WENDY))
    put_user(world, "anna", "watch")
    hers, others = Tape(world, "wendy"), Tape(world, "dora")
    world.do(table.ANNOUNCE, Presence("web1", HostRole.NODE), hers.host)
    anna = world.user("anna", "watch")
    rows = world.do(table.LIST_SESSIONS, Paged(), anna).items
    assert [row.id for row in rows] == [hers.id]
    assert world.do(table.GET_SESSION, ById(hers.id), anna).session.id == hers.id
    with pytest.raises(NotFound):
        world.do(table.GET_SESSION, ById(others.id), anna)
    with pytest.raises(AccessDenied):
        world.do(table.KILL_SESSION, KillSession(others.id), anna)
    world.do(table.KILL_SESSION, KillSession(hers.id, "maintenance"), anna)
