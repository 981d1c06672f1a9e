"""Patterns of paths: what they name, what they lead to, what is refused."""

from __future__ import annotations

import pytest

from tele.spawner.path_patterns import PathPattern, PathRules, pattern_problem

HOME = b"/home/alice"


def pattern(text: str) -> PathPattern:
    """Return a pattern that is one."""
    assert pattern_problem(text) == ""
    return PathPattern.read(text, HOME)


@pytest.mark.parametrize(
    ("text", "path", "named"),
    [
        ("/srv/data", b"/srv/data", True),
        ("/srv/data", b"/srv/data/x", False),
        ("/srv/*", b"/srv/data", True),
        ("/srv/*", b"/srv/.data", True),
        ("/srv/*", b"/srv/data/x", False),
        ("/srv/*", b"/srv", False),
        ("/srv/*.csv", b"/srv/a.csv", True),
        ("/srv/*.csv", b"/srv/a.csv.sh", False),
        ("/srv/?", b"/srv/\xff", True),
        ("/srv/**", b"/srv/a/b/c", True),
        ("/srv/**", b"/srv", False),
        ("/srv/**/logs/*", b"/srv/logs/x", True),
        ("/srv/**/logs/*", b"/srv/a/b/logs/x", True),
        ("/srv/**/logs/*", b"/srv/a/logs", False),
        ("/**", b"/etc/shadow", True),
        ("~/upload/*", b"/home/alice/upload/x", True),
        ("~/upload/*", b"/home/bob/upload/x", False),
        ("/srv/[a]", b"/srv/a", False),
        ("/srv/*a*b*c", b"/srv/xaxbxbxc", True),
    ],
)
def test_what_a_pattern_names(text: str, path: bytes, named: bool) -> None:
    """``*`` and ``?`` are within a name, ``**`` is any number of folders."""
    assert pattern(text).matches(path) is named


@pytest.mark.parametrize(
    ("text", "path", "leads"),
    [
        ("/srv/data/*", b"/", True),
        ("/srv/data/*", b"/srv/data", True),
        ("/srv/data/*", b"/srv/data/x", False),
        ("/srv/data/*", b"/etc", False),
        ("/srv/**", b"/srv/x/y", True),
        ("/srv/**/x", b"/srv/y", True),
    ],
)
def test_what_a_pattern_leads_to(text: str, path: bytes, leads: bool) -> None:
    """Folders on the way to what it names are listed, others are not."""
    assert pattern(text).leads_to(path) is leads


def test_what_is_denied_is_not_allowed() -> None:
    """A folder is allowed as a whole only if nothing below it is denied."""
    rules = PathRules.read(["/srv/**"], ["/srv/*/secret/**"], HOME)
    assert rules.allows(b"/srv/a/x")
    assert not rules.allows(b"/srv/a/secret/x")
    assert rules.allows_all_below(b"/srv/a/x/y")
    assert not rules.allows_all_below(b"/srv/a")
    assert not rules.allows_all_below(b"/srv")
    assert not rules.leads_to(b"/srv/a/secret/b")
    assert PathRules.read(["/srv/**"], [], HOME).allows_all_below(b"/srv/a")
    assert not PathRules.read(["/srv/*"], [], HOME).allows_all_below(b"/srv/a")


def test_a_home_with_a_star_is_no_pattern() -> None:
    """The name of a home directory stands for itself."""
    assert not PathPattern.read("~/x", b"/home/*").matches(b"/home/bob/x")


@pytest.mark.parametrize(
    "text",
    ["", "srv", "~bob/x", "/", "/srv/", "//srv", "/srv/../etc", "/srv/./x", "/srv/a**", "/x\0",
     "/" + "x" * 1024, "/x" * 65],
)  # fmt: skip
def test_a_pattern_that_names_no_path_is_refused(text: str) -> None:
    """It would allow nothing and, what is worse, deny nothing."""
    assert pattern_problem(text)


def test_attack_no_pattern_takes_long() -> None:
    """The time is that of pattern times path, also where every star could stand for anything: with
    each way tried it would not end.
    """
    hard = PathPattern.read("/" + "*a" * 100 + "b", HOME)
    deep = PathPattern.read("/**/a" * 30 + "/b", HOME)
    assert not hard.matches(b"/" + b"a" * 255)
    assert not deep.matches(b"/a" * 500)
