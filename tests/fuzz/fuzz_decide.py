"""Invariant: a decision about any roles, also stored ones that were never checked, is a grant or a
denial, the same in any order; a role more without denials never denies, a denial more never allows,
and what is given is what one role gives alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from attempts import Dice, main
from tele.model.access import CertificateLimits, Denied, Grant
from tele.model.codec import decode, encode
from tele.model.identity import UserIdentity
from tele.model.resources import Conditions, Metadata, Role, RoleOptions, RoleSpec
from tele.model.time_windows import Day, TimeWindow
from tele.rbac.decision import decide, may_reach
from tele.rbac.explaining import explain

NOW: Final = datetime(2026, 11, 30, 12, tzinfo=UTC)
LOGINS: Final = (
    "root", "bob", "*", "{{internal.logins}}", "x-{{internal.team}}", "{{internal.logins", "a b",
    "{{regexp.replace(external.team, '^(.*)$', '$1')}}", "", "\0",
)  # fmt: skip
VALUES: Final = ("prod", "te*", "^(prod|test)$", "^(", "{{internal.team}}", "*", "", "{{")
TEXTS: Final = (
    "", "", 'labels.env == "prod"', "contains(user.traits.team, labels.env)", "labels.",
    '!(labels.env == "test") || user.name == "alice"', 'contains(user.roles, "r1")',
)  # fmt: skip
NODES: Final[tuple[dict[str, str], ...]] = ({"env": "prod"}, {"env": "test", "a": "b"}, {})
WINDOWS: Final = (
    TimeWindow(), TimeWindow((Day.SUN,)), TimeWindow((), "08:00", "18:00", "Europe/Berlin"),
    TimeWindow(time_zone="No/Where"), TimeWindow((), "23:00", "01:00", "Asia/Kolkata"),
)  # fmt: skip


def _some(dice: Dice, values: Sequence[Any], most: int = 2) -> tuple[Any, ...]:
    return tuple(dice.choice(values) for _ in range(dice.randint(0, most)))


def _side(dice: Dice) -> Conditions:
    labels = {key: _some(dice, VALUES) for key in _some(dice, ("env", "a", "*"))}
    if dice.random() < 0.3:
        labels = {"*": ("*",)}
    return Conditions(_some(dice, LOGINS, 3), labels, node_labels_expression=dice.choice(TEXTS))


def _role(dice: Dice, number: int, *, denies: bool) -> Role:
    options = RoleOptions(
        forward_agent=dice.choice((None, True, False)),
        port_forwarding=dice.choice((None, True, False)),
        x11_forwarding=dice.random() < 0.5,
        permit_pty=dice.random() < 0.5,
        force_command=dice.choice(("", "", "backup", "internal-sftp", "internal-sftp -R", "\0")),
        valid_times=_some(dice, WINDOWS) if dice.random() < 0.3 else (),
    )
    deny = _side(dice) if denies else Conditions()
    return Role(Metadata(f"r{number}"), RoleSpec(_side(dice), deny, options))


def _actions(
    roles: Sequence[Role], who: UserIdentity, limits: CertificateLimits
) -> set[tuple[Any, ...]]:
    known = {each.metadata.name: each for each in roles}
    found: set[tuple[Any, ...]] = set()
    for login in ("root", "bob", "x-db"):
        for number, labels in enumerate(NODES):
            decided = decide(who, login, labels, known, (), NOW, certificate=limits)
            if isinstance(decided, Denied):
                assert decided.message
                continue
            assert isinstance(decided, Grant)
            assert may_reach(who, labels, known, (), NOW) is None
            for kind in ("port_forwarding", "agent_forwarding", "x11_forwarding"):
                found |= {(login, number, kind)} if getattr(decided, kind) else set()
            for pty in (False, True):
                for each in decided.program("shell", b"", pty=pty):
                    found.add((login, number, "shell", pty, each.force_command))
    return found


def attempt(dice: Dice) -> None:
    """Decide about one set of roles, and about one with a role more or less."""
    plain = [_role(dice, number, denies=False) for number in range(dice.randint(1, 4))]
    mixed = [_role(dice, number, denies=dice.random() < 0.4) for number in range(4)]
    names = tuple(f"r{number}" for number in range(5))
    traits = {"logins": ("bob", "*"), "team": ("db", "prod", "{{x}}")}
    who = UserIdentity("alice", "c", NOW + timedelta(hours=1), names, (), traits)
    limits = CertificateLimits(
        dice.random() < 0.8, dice.random() < 0.8, dice.random() < 0.8, dice.random() < 0.8,
        dice.choice((None, None, "backup", "internal-sftp -R")),
    )  # fmt: skip
    few = {each[:4] for each in _actions(plain[:-1], who, limits)}
    assert few <= {each[:4] for each in _actions(plain, who, limits)}
    given = _actions(mixed, who, limits)
    alone = set().union(*(_actions([each], who, limits) for each in mixed))
    assert given <= alone
    denying = Role(Metadata("r4"), RoleSpec(deny=_side(dice)))
    assert _actions([*mixed, denying], who, limits) <= given
    dice.shuffle(mixed)
    assert _actions(mixed, who, limits) == given
    for each in mixed:
        assert decode(Role, encode(each)) == each
    known = {each.metadata.name: each for each in mixed}
    for login in ("root", "bob"):
        explained = explain(who, login, "n", NODES[0], known, (), NOW)
        assert explained.allowed == isinstance(decide(who, login, NODES[0], known, (), NOW), Grant)


if __name__ == "__main__":
    main(attempt)
