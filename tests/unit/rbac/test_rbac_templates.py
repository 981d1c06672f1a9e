"""Templates in logins and labels, and conditions on nodes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, Final

import pytest
from attrs import evolve

from tele.errors import InvalidInput
from tele.model.access import Grant
from tele.model.codec import from_json, to_json
from tele.model.identity import UserIdentity
from tele.model.resources import Conditions, Metadata, Role, RoleSpec
from tele.model.revocation import UserRevocation, revoked_before
from tele.rbac.decision import decide
from tele.rbac.logins import denied, expand, logins_of
from tele.rbac.policy import Policy
from tele.rbac.presets import check_role
from tele.rbac.templates import VALUES_LIMIT, expanded

NOW: Final = datetime(2026, 11, 24, 12, tzinfo=UTC)
TRAITS: Final = {
    "team": ("db", "web"), "mail": ("ann@example.com", "bob@elsewhere"), "a b": ("x",),
}  # fmt: skip


@pytest.mark.parametrize(
    ("text", "stands_for"),
    [
        ("root", ("root",)),
        ("{{internal.team}}", ("db", "web")),
        ("{{ external.team }}", ("db", "web")),
        ("dev-{{internal.team}}-x", ("dev-db-x", "dev-web-x")),
        ("{{internal.gone}}", ()),
        ('{{internal["a b"]}}', ("x",)),
        ("{{email.local(external.mail)}}", ("ann", "bob")),
        ("u-{{regexp.replace(internal.mail, '^(.*)@example[.]com$', '$1')}}", ("u-ann",)),
        ("{{strings.upper(email.local(internal.mail))}}", ("ANN", "BOB")),
    ],
)
def test_what_a_text_stands_for(text: str, stands_for: tuple[str, ...]) -> None:
    """One text for each value of its template."""
    assert expanded(text, TRAITS) == stands_for


@pytest.mark.parametrize(
    "text",
    [
        "{{internal.team",
        "internal.team}}",
        "{{}}",
        "{{team}}",
        "{{internal}}",
        "{{'x'",
        "{{internal.a}}{{internal.b}}",
        "{{{{internal.a}}}}",
        "{{env.HOME}}",
        "{{internal.a == 'b'}}",
    ],
)
def test_a_malformed_template_is_refused_and_allows_nothing(text: str) -> None:
    """Where it allows it allows nothing, where it denies it denies everything (attack)."""
    for side in (Conditions((text,)), Conditions(node_labels={"env": (text,)})):
        for spec in (RoleSpec(allow=side), RoleSpec(deny=side)):
            with pytest.raises(InvalidInput):
                check_role(Role(Metadata("r"), spec))
    assert expand((text,), TRAITS) == ()
    assert denied((text,), "root", TRAITS)
    assert not ask(Conditions(("root",), {"env": (text,)}))
    assert not ask(ROOT, deny=Conditions(node_labels={"env": (text,)}))


ROOT: Final = Conditions(("root",), {"*": ("*",)})


def ask(
    allow: Conditions,
    deny: Conditions | None = None,
    traits: Any = None,
    labels: Any = None,
    login: str = "root",
) -> bool:
    """Whether a role lets a user in to a node."""
    who = UserIdentity("ann", "c", NOW + timedelta(hours=1), ("r",), (), traits or TRAITS)
    role = Role(Metadata("r"), RoleSpec(allow, deny or Conditions()))
    answer = decide(who, login, labels or {"env": "prod", "team": "db"}, {"r": role}, (), NOW)
    return isinstance(answer, Grant)


def test_labels_with_templates() -> None:
    """A node of the user's team, and no other."""
    mine = Conditions(("root",), {"team": ("{{internal.team}}",)})
    assert ask(mine)
    assert not ask(mine, labels={"team": "ops"})
    assert not ask(ROOT, deny=Conditions(node_labels={"team": ("{{internal.team}}",)}))


@pytest.mark.parametrize("trait", ["*", "^.*$", "d?", "{{internal.team}}", ""])
def test_a_trait_is_never_a_pattern(trait: str) -> None:
    """What an identity provider says of a user opens what it names, not more (attack)."""
    mine = Conditions(("root",), {"team": ("{{external.x}}",)})
    assert not ask(mine, traits={"x": (trait,), "team": ("db",)})
    assert not ask(Conditions(("{{external.x}}",), {"*": ("*",)}), traits={"x": (trait,)})


def test_patterns_beside_a_template_are_refused() -> None:
    """They would be compared as they are, which nobody means."""
    for text in ("{{internal.team}}-*", "?{{internal.team}}"):
        with pytest.raises(InvalidInput, match="node_labels_expression"):
            check_role(Role(Metadata("r"), RoleSpec(Conditions((), {"team": (text,)}))))


def test_the_values_of_a_template_are_bounded() -> None:
    """A user with very many traits does not make a decision long."""
    many = {"x": tuple(f"u{number}" for number in range(3 * VALUES_LIMIT))}
    assert len(expanded("{{internal.x}}", many)) == VALUES_LIMIT
    assert expanded("{{internal.x}}", {"x": ("u" * 1000, "", "ok")}) == ("ok",)


def test_a_denial_has_no_limit_of_values() -> None:
    """A user with more values than count to allow is denied by every one of them (attack)."""
    many = {"x": (*(f"u{number}" for number in range(VALUES_LIMIT)), "root")}
    assert not ask(ROOT, deny=Conditions(("{{internal.x}}",)), traits=many)
    labels = {"team": "root"}
    deny = Conditions(node_labels={"team": ("{{internal.x}}",)})
    assert not ask(ROOT, deny=deny, traits=many, labels=labels)
    assert not ask(Conditions(("{{internal.x}}",), {"*": ("*",)}), traits=many)


def test_principals_with_templates() -> None:
    """A certificate names what the templates stand for, without what is denied."""
    role = Role(Metadata("r"), RoleSpec(Conditions(("dev-{{internal.team}}",))))
    no = Role(Metadata("no"), RoleSpec(deny=Conditions(("dev-{{internal.bad}}",))))
    assert logins_of(TRAITS, [role]) == ("dev-db", "dev-web")
    assert logins_of({**TRAITS, "bad": ("db",)}, [role, no]) == ("dev-web",)


PROD: Final = 'labels.env == "prod" && contains(user.traits.team, labels.team)'


def test_nodes_by_an_expression() -> None:
    """It and the labels have to match to allow; one of them is enough to deny."""
    assert ask(Conditions(("root",), node_labels_expression=PROD))
    assert not ask(Conditions(("root",), node_labels_expression=PROD), labels={"env": "prod"})
    assert ask(Conditions(("root",), {"env": ("p*",)}, node_labels_expression=PROD))
    assert not ask(Conditions(("root",), {"env": ("x",)}, node_labels_expression=PROD))
    for labels in ({"env": ("x",)}, {}):
        assert not ask(ROOT, deny=Conditions((), labels, node_labels_expression=PROD))
    assert ask(ROOT, deny=Conditions((), {"env": ("x",)}, node_labels_expression=f"!({PROD})"))


def test_a_malformed_expression_allows_nothing_and_denies_everything() -> None:
    """A role that a newer auth has written is not guessed at (attack)."""
    newer = 'newer.function(labels.env) == "prod"'
    assert not ask(Conditions(("root",), {"*": ("*",)}, node_labels_expression=newer))
    assert not ask(ROOT, deny=Conditions(node_labels_expression=newer))
    with pytest.raises(InvalidInput, match=r"node_labels_expression: .* unknown name"):
        check_role(Role(Metadata("r"), RoleSpec(Conditions(node_labels_expression=newer))))


@pytest.mark.parametrize(
    ("certified", "present"), [(("x",), ()), ((), ("x",))], ids=["lost", "given"]
)
def test_what_a_user_has_not_counts_now_and_in_the_certificate(
    certified: tuple[str, ...], present: tuple[str, ...]
) -> None:
    """An old certificate allows nothing by a trait that it has not, or that its user has lost
    (attack).
    """
    without = '!contains(user.traits.suspended, "x")'
    role = Role(Metadata("r"), RoleSpec(Conditions(("root",), node_labels_expression=without)))
    who = UserIdentity(
        "ann", "c", NOW + timedelta(hours=1), ("r",), (), {"suspended": certified}, issued=NOW
    )
    changed = UserRevocation(
        "ann",
        narrowed=revoked_before(NOW),
        roles=("r",),
        traits={"suspended": present},
    )
    given = Policy({"r": role}, (), [changed]).decide(who, "root", {}, NOW)
    assert isinstance(given, Grant) is (not present)
    deny = evolve(role, spec=RoleSpec(ROOT, Conditions(node_labels_expression=f"!({without})")))
    refused = Policy({"r": deny}, (), [changed]).decide(who, "root", {}, NOW)
    assert isinstance(refused, Grant) is (not present)


def test_older_parts_read_roles_without_an_expression() -> None:
    """The field is left out where there is none."""
    assert "node_labels_expression" not in to_json(ROOT)
    written = Conditions(node_labels_expression=PROD)
    assert from_json(Conditions, to_json(written)) == written
