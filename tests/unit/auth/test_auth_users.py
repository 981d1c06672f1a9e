"""Users: logging in, administering, and what is refused to them."""

from __future__ import annotations

from datetime import timedelta

import pytest
from attrs import evolve

from auth_world import HOST_ID, World, result
from tele.auth.guessing import FAILURES, FIRST_WAIT
from tele.certs.certificate import parse_certificate
from tele.certs.check import check_user
from tele.certs.keys import PrivateKey, parse_line
from tele.certs.x509 import TlsKey
from tele.errors import AccessDenied, Conflict, InvalidInput, Unavailable
from tele.interfaces import Put
from tele.loop import now
from tele.model.api import audit, members, table, users
from tele.model.api.authorities import SignHost, SignUser
from tele.model.api.operation import Nothing
from tele.model.api.paging import ById, ByName, Paged
from tele.model.api.roles import PutRole
from tele.model.api.tokens import NewToken
from tele.model.authority import AuthorityKind
from tele.model.identity import HostRole
from tele.model.resources import Conditions, Metadata, Role, RoleOptions, RoleSpec, User, UserSpec


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


def test_failed_logins_have_the_same_error(world: World) -> None:
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
    """After five failures even the right password does not do from there, for a while."""
    world.add_user("alice", "access")
    for _ in range(FAILURES):
        with pytest.raises(AccessDenied):
            world.login(password="wrong password")
    with pytest.raises(AccessDenied):
        world.login()
    (locked_out,) = world.events("user.locked_out")
    assert (locked_out.user, locked_out.fields["source"]) == ("alice", "192.0.2.7")
    world.clock.advance(FIRST_WAIT.total_seconds())
    world.login()
    for _ in range(FAILURES):
        with pytest.raises(AccessDenied):
            world.login(password="wrong password")
    world.do(table.RESET_USER, users.ResetUser("alice", "another horse"))
    world.login(password="another horse")


def test_failures_are_forgotten_in_time(world: World) -> None:
    """Four failures now and four a day later do not add up."""
    world.add_user("alice", "access")
    for _ in range(2):
        for _ in range(FAILURES - 1):
            with pytest.raises(AccessDenied):
                world.login(password="wrong password")
        world.clock.advance(86400)
    world.login()


def test_passwords_are_not_in_the_clear(world: World) -> None:
    """Neither the store nor any event has a password; one that auth makes is shown once."""
    world.add_user("alice", "access")
    made = world.do(table.ADD_USER, users.NewUser(User(Metadata("bob"), UserSpec(("access",)))))
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
        (table.LIST_USERS, Paged()),
        (table.ADD_TOKEN, NewToken((HostRole.NODE,))),
        (table.LIST_EVENTS, audit.ListEvents()),
        (table.PUT_ROLE, PutRole("access", Role(Metadata("access")))),
        (table.SIGN_USER, SignUser("alice", PrivateKey.generate().public.line)),
        (table.DELETE_HOST, ById(HOST_ID)),
    ):
        with pytest.raises(AccessDenied):
            world.do(operation, request, alice)
    assert len(world.events("auth.denied")) == 6
    assert world.do(table.WHOAMI, Nothing(), alice).roles == ("access",)


def test_roles_count_as_they_are_now(world: World) -> None:
    """A certificate that still says editor is worth nothing once the role is taken away."""
    world.add_user("dana", "editor")
    world.add_user("eve", "editor")
    eve = world.user("eve", "editor")
    world.do(table.LIST_USERS, Paged(), eve)
    user = world.do(table.GET_USER, ByName("eve"))
    world.do(table.PUT_USER, users.PutUser("eve", evolve(user, spec=UserSpec(("access",)))))
    with pytest.raises(AccessDenied):
        world.do(table.LIST_USERS, Paged(), eve)
    world.do(table.DELETE_USER, users.DeleteUser("eve"))
    with pytest.raises(AccessDenied, match="does not exist"):
        world.do(table.WHOAMI, Nothing(), eve)


def test_changes_on_old_readings_are_refused(world: World) -> None:
    """Two administrators do not overwrite each other unknowingly."""
    world.add_user("alice", "access")
    old = world.do(table.GET_USER, ByName("alice"))
    world.do(table.PUT_USER, users.PutUser("alice", old))
    with pytest.raises(Conflict):
        world.do(table.PUT_USER, users.PutUser("alice", old))


def test_roles_in_use_stay(world: World) -> None:
    """A role that a user holds is not removed, and a misleading role is refused."""
    world.add_user("alice", "access")
    with pytest.raises(Conflict, match="alice"):
        world.do(table.DELETE_ROLE, ByName("access"))
    with pytest.raises(InvalidInput):
        world.add_user("bob", "no-such-role")
    bad = Role(Metadata("x"), RoleSpec(allow=Conditions(logins=("-oProxyCommand=x",))))
    with pytest.raises(InvalidInput):
        world.do(table.PUT_ROLE, PutRole("x", bad))


def test_sign_user_only_what_roles_allow(world: World) -> None:
    """A certificate for automation names no login that the user does not have."""
    world.add_user("alice", "access")
    line = PrivateKey.generate().public.line
    signed = world.do(table.SIGN_USER, SignUser("alice", line, ("root",)))
    assert parse_certificate(parse_line(signed.certificate)).principals == ("root",)
    with pytest.raises(AccessDenied):
        world.do(table.SIGN_USER, SignUser("alice", line, ("postgres",)))
    with pytest.raises(InvalidInput):
        world.do(table.SIGN_HOST, SignHost(line, ("*",)))


def test_logins_that_no_account_can_have_are_refused(world: World) -> None:
    """They are refused when a user gets them; before, no certificate would ever have had them."""
    spec = UserSpec(("access",), traits={"logins": ("AB\\jo", "first last")})
    with pytest.raises(InvalidInput, match="'first last' is not a login"):
        world.do(table.ADD_USER, users.NewUser(User(Metadata("bob"), spec)))
    with pytest.raises(InvalidInput, match="'first last' is not a login"):
        world.do(table.PUT_USER, users.PutUser("bob", User(Metadata("bob"), spec)))
    world.add_user("jo", "access", logins=("AB\\jo", "jo@ab.example"))
    certificate = parse_certificate(parse_line(world.login("jo").ssh))
    assert certificate.principals == ("AB\\jo", "jo@ab.example")


def test_presets_are_made_once(world: World) -> None:
    """A preset that an administrator removed is not made again at the next start."""
    world.do(table.DELETE_ROLE, ByName("auditor"))
    result(world.parts.users.ensure_presets())
    listed = world.do(table.LIST_ROLES, Paged())
    assert [role.metadata.name for role in listed.items] == ["access", "editor"]


def test_a_role_with_an_end_ends(world: World) -> None:
    """After ``metadata.expires`` the role is gone, from certificates as well."""
    ends = now(world.clock) + timedelta(hours=1)
    short = Role(Metadata("short", expires=ends), RoleSpec(Conditions(("games",))))
    world.do(table.PUT_ROLE, PutRole("short", short))
    world.add_user("alice", "access", "short")
    assert "games" in parse_certificate(parse_line(world.login().ssh)).principals
    world.clock.advance(3601)
    certificate = parse_certificate(parse_line(world.login().ssh))
    assert certificate.principals == ("root",)
    assert certificate.extensions["tele-roles"] == b"access"


def test_a_user_without_logins_gets_a_certificate_for_the_api_only(world: World) -> None:
    """An auditor reads the audit; their SSH certificate names no possible account."""
    world.add_user("otto", "auditor")
    principals = parse_certificate(parse_line(world.login("otto").ssh)).principals
    assert len(principals) == 1
    assert principals[0].startswith("-")


def test_the_shortest_of_all_roles_ttls_holds(world: World) -> None:
    """A role may shorten the life of its holders' certificates, and a request may, too."""
    options = RoleOptions(max_session_ttl=timedelta(hours=2))
    world.do(table.PUT_ROLE, PutRole("brief", Role(Metadata("brief"), RoleSpec(options=options))))
    world.add_user("alice", "access", "brief")
    assert world.login().expires == now(world.clock) + timedelta(hours=2)
    line = PrivateKey.generate().public.line
    for asked, given in ((timedelta(days=365), timedelta(hours=2)), (timedelta(minutes=5),) * 2):
        signed = world.do(table.SIGN_USER, SignUser("alice", line, (), asked))
        assert signed.expires == now(world.clock) + given


def test_an_admin_is_ensured_and_kept(world: World) -> None:
    """``tele up`` makes its user an administrator once, and adds logins later."""
    for logins in (("root",), ("root",), ("deploy",)):
        result(world.auth.ensure_admin("root", logins))
    user = world.do(table.GET_USER, ByName("root"))
    assert user.spec.roles == ("access", "editor", "auditor")
    assert user.spec.traits["logins"] == ("root", "deploy")
    assert len(world.events("user.create")) == 1
    assert len(world.events("user.update")) == 1
    keys = members.PublicKeys(PrivateKey.generate().public.line, TlsKey.generate().public_pem)
    certificates = result(world.auth.issue_for("root", keys, timedelta(hours=1)))
    assert parse_certificate(parse_line(certificates.ssh)).principals == ("root", "deploy")
    with pytest.raises(AccessDenied):  # there is no password to log in with
        world.login("root", "")


def test_tokens_are_listed_in_pages(world: World) -> None:
    """Each token is listed once, whatever the size of a page."""
    for _ in range(7):
        world.token()
    seen: list[str] = []
    after = ""
    while True:
        page = world.do(table.LIST_TOKENS, Paged(3, after))
        seen += [token.id for token in page.items]
        after = page.next
        if not after:
            break
    assert len(seen) == len(set(seen)) == 7


def test_a_login_that_fails_for_any_reason_is_on_record(world: World) -> None:
    """The right password and no certificate: the reason is in the answer and in the audit."""
    many = Conditions(tuple(f"login{number}" for number in range(300)))
    world.do(table.PUT_ROLE, PutRole("many", Role(Metadata("many"), RoleSpec(many))))
    world.add_user("alice", "many")
    with pytest.raises(InvalidInput, match="300 logins"):
        world.login()
    (event,) = world.events("user.login")
    assert (event.ok, event.user) == (False, "alice")
    assert "300 logins" in event.error


def test_a_damaged_store_is_not_a_bad_request(world: World) -> None:
    """What cannot be read back is auth's trouble, and says where it is."""
    world.add_user("alice", "access")
    result(world.backend.commit(Put("/users/alice", b"{}")))
    with pytest.raises(Unavailable, match="/users/alice"):
        world.do(table.GET_USER, ByName("alice"))


def test_too_large_a_user_is_refused_when_it_is_written(world: World) -> None:
    """What would not fit into a certificate is an error at once, not at the next login."""
    many = {"logins": tuple(f"login{number}" for number in range(2000))}
    with pytest.raises(InvalidInput, match="fit into certificates"):
        world.do(table.ADD_USER, users.NewUser(User(Metadata("alice"), UserSpec((), many))))
