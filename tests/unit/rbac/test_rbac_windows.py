"""Times in which a role counts: by the clocks of a zone, for logins, sessions and the API."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tele.errors import InvalidInput
from tele.model.access import Denied, Grant, Reason
from tele.model.codec import from_json, to_json
from tele.model.identity import UserIdentity
from tele.model.resources import (
    Conditions,
    Metadata,
    Role,
    RoleOptions,
    RoleSpec,
    Rule,
    User,
    UserSpec,
)
from tele.model.time_windows import Day, TimeWindow
from tele.rbac.administrators import Directory, administrators
from tele.rbac.decision import decide, may_reach, refusal
from tele.rbac.policy import Policy
from tele.rbac.presets import EDITOR, check_role
from tele.rbac.windows import next_change, within

BERLIN: Final = "Europe/Berlin"
OFFICE: Final = TimeWindow((Day.MON, Day.TUE), "08:00", "18:00", BERLIN)
NIGHT: Final = TimeWindow((Day.SAT,), "22:00", "02:00", BERLIN)


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("window", "moment", "expected"),
    [
        (OFFICE, "2026-11-30T06:59:59", False),  # a Monday, an hour behind Berlin
        (OFFICE, "2026-11-30T07:00:00", True),
        (OFFICE, "2026-11-30T16:59:59", True),
        (OFFICE, "2026-11-30T17:00:00", False),
        (OFFICE, "2026-12-02T12:00:00", False),
        (OFFICE, "2026-07-06T06:00:00", True),  # two hours behind Berlin in summer
        (NIGHT, "2026-11-28T21:00:00", True),
        (NIGHT, "2026-11-29T00:59:59", True),
        (NIGHT, "2026-11-29T01:00:00", False),
        (NIGHT, "2026-11-29T21:30:00", False),
        (TimeWindow(), "2026-11-29T21:30:00", True),
        (TimeWindow(time_zone="Asia/Kolkata", end="12:00"), "2026-11-29T18:30:00", True),
        (TimeWindow(time_zone="Asia/Kolkata", end="12:00"), "2026-11-29T18:29:00", False),
        (TimeWindow(time_zone="No/Where"), "2026-11-29T18:29:00", False),
        (TimeWindow(time_zone="../../etc/passwd"), "2026-11-29T18:29:00", False),
    ],
)
def test_when_a_window_is(window: TimeWindow, moment: str, expected: bool) -> None:
    """From its start to its end by the clocks of its zone; never in an unknown zone (attack)."""
    assert within((window,), at(moment)) is expected


def test_the_next_change() -> None:
    """When a session has to end, or could begin."""
    monday = at("2026-11-30T12:00:00")
    assert next_change((OFFICE,), monday) == at("2026-11-30T17:00:00")
    assert next_change((OFFICE,), at("2026-12-01T18:00:00")) == at("2026-12-07T07:00:00")
    assert next_change((OFFICE, NIGHT), at("2026-12-01T18:00:00")) == at("2026-12-05T21:00:00")
    assert next_change((), monday) is None
    assert next_change((TimeWindow(time_zone="No/Where"),), monday) is None


clocks = st.integers(0, 24 * 60 - 1).map(lambda m: f"{m // 60:02}:{m % 60:02}")
windows = st.builds(
    TimeWindow,
    st.lists(st.sampled_from(Day), max_size=3).map(tuple),
    clocks,
    clocks,
    st.sampled_from((BERLIN, "UTC", "Australia/Lord_Howe", "America/St_Johns")),
)


@given(
    st.lists(windows, min_size=1, max_size=3),
    st.integers(0, 366 * 24 * 60).map(lambda m: at("2026-01-01T00:00:00") + timedelta(minutes=m)),
)
def test_nothing_changes_before_the_next_change(several: list[TimeWindow], now: datetime) -> None:
    """A review at these moments misses no end of a window, whatever the clocks do."""
    change = next_change(several, now)
    assert change is not None
    assert change > now
    for part in (0.1, 0.5, 0.9, 0.999):
        assert within(several, now + (change - now) * part) == within(several, now)


@pytest.mark.parametrize(
    ("window", "why"),
    [
        (TimeWindow(time_zone="No/Where"), "'No/Where' is no time zone"),
        (TimeWindow(start="08:00", end="08:00"), "is empty"),
        (TimeWindow(start="24:00", end="08:00"), "starts before"),
    ],
)
def test_windows_that_never_are_get_refused(window: TimeWindow, why: str) -> None:
    """When the role is written, with the name of the option."""
    role = Role(Metadata("r"), RoleSpec(options=RoleOptions(valid_times=(window,))))
    with pytest.raises(InvalidInput, match=f"options: valid_times: .*{why}"):
        check_role(role)


@pytest.mark.parametrize("clock", ["8:00", "24:01", "0800", "", "08:60"])
def test_times_of_day_are_written_with_two_digits(clock: str) -> None:
    """A mistake names the field."""
    with pytest.raises(InvalidInput, match="start"):
        from_json(TimeWindow, {"start": clock})
    with pytest.raises(InvalidInput, match=r"days\[0\]: 'monday' is none of mon"):
        from_json(TimeWindow, {"days": ["monday"]})
    assert from_json(TimeWindow, to_json(OFFICE)) == OFFICE
    assert "valid_times" not in to_json(RoleOptions())


ALL: Final = {"*": ("*",)}
IN, OUT = at("2026-11-30T12:00:00"), at("2026-11-30T20:00:00")


def role(name: str, deny: Any = None, *windows: TimeWindow) -> Role:
    allow = Conditions(("root",), ALL, (Rule(("user",), ("list",)),))
    return Role(
        Metadata(name), RoleSpec(allow, deny or Conditions(), RoleOptions(valid_times=windows))
    )


def ask(now: datetime, *roles: Role) -> Grant | Denied:
    several = {each.metadata.name: each for each in roles}
    who = UserIdentity("alice", "c", OUT + timedelta(hours=1), tuple(several), ("root",))
    return decide(who, "root", {}, several, (), now)


def test_a_role_allows_in_its_times_and_denies_always() -> None:
    """What another role allows stays; a denial does not wait for office hours (attack)."""
    office = role("office", None, OFFICE)
    assert isinstance(ask(IN, office), Grant)
    denied = ask(OUT, office)
    assert isinstance(denied, Denied)
    assert denied.reason is Reason.TIME
    assert "role office allows this to alice only mon,tue 08:00-18:00" in denied.message
    always = ask(OUT, office, role("other"))
    assert isinstance(always, Grant)
    assert always.roles == ("other",)
    never = Role(Metadata("no"), RoleSpec(deny=Conditions(("root",)),
                 options=RoleOptions(valid_times=(OFFICE,))))  # fmt: skip
    assert isinstance(ask(OUT, role("other"), never), Denied)


def test_the_api_and_proxies_keep_the_times_too() -> None:
    """Outside of its times a role reaches no node, and calls nothing."""
    office = role("office", None, OFFICE)
    who = UserIdentity("alice", "c", OUT + timedelta(hours=1), ("office",), ("root",))
    known = {"office": office}
    assert may_reach(who, {}, known, (), IN) is None
    denied = may_reach(who, {}, known, (), OUT)
    assert denied is not None
    assert denied.reason is Reason.TIME
    assert refusal(("office",), known, "user", "list", IN) is None
    assert refusal(("office",), known, "user", "list", OUT) is not None


def test_sessions_are_decided_about_again_when_a_window_ends() -> None:
    """The next moment at which something ends is the window's."""
    policy = Policy({"office": role("office", None, OFFICE), "other": role("other")})
    assert policy.next_end(IN) == at("2026-11-30T17:00:00")
    assert Policy({"other": role("other")}).next_end(IN) is None


def test_an_administrator_at_times_is_no_lasting_one() -> None:
    """Who may administer in office hours only is not the one that has to remain."""
    at_times = Role(
        Metadata("editor"), RoleSpec(EDITOR.spec.allow, options=RoleOptions(valid_times=(OFFICE,)))
    )
    users = {"ann": User(Metadata("ann"), UserSpec(("editor",)))}
    assert administrators(Directory(users, {"editor": at_times}), IN) == {"ann"}
    assert administrators(Directory(users, {"editor": at_times}), IN, lasting=True) == frozenset()
