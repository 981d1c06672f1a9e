"""Which absolute paths does a pattern name?

``*`` and ``?`` stand for characters of one name, ``**`` as a whole name for any number of folders;
at the end for everything below, but not for the folder itself. ``~/`` at the begin is the home
directory. All else stands for itself.

Invariants:

* Standard library only: the spawner's children load it.
* A pattern is compared with a path that has no link, ``.`` or ``..`` in it; it names nothing else.
* A match takes time in proportion to pattern times path.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Final, NamedTuple

#: Characters of a pattern, and names in it.
PATTERN_LIMIT: Final = 1024
NAMES_LIMIT: Final = 64
_ANY_FOLDERS: Final = b"**"
_ANYTHING: Final = b"*"


def pattern_problem(pattern: str) -> str:
    """Return what is wrong with a pattern, or nothing."""
    if len(pattern) > PATTERN_LIMIT:
        return f"at most {PATTERN_LIMIT} characters"
    if not pattern.isprintable():
        return "has a character that cannot be printed"
    if not pattern.startswith(("/", "~/")):
        return "has to begin with / or ~/"
    names = pattern.split("/")[1:]
    if len(names) > NAMES_LIMIT:
        return f"at most {NAMES_LIMIT} names"
    if any(name in ("", ".", "..") for name in names):
        return "has an empty name, . or .. in it, which no path has: links are followed first"
    if any("**" in name and name != "**" for name in names):
        return "** is a whole name, as in /srv/**/logs/* and /srv/**"
    return ""


class PathPattern(NamedTuple):
    """A pattern, read."""

    names: tuple[bytes, ...]

    @classmethod
    def read(cls, pattern: str, home: bytes) -> PathPattern:
        """Return a pattern that has no problem; ``home`` is a path without links."""
        text = pattern.encode("utf-8", "surrogateescape")
        begin: list[bytes] = []
        if text.startswith(b"~/"):
            begin = [_literal(name) for name in home.split(b"/") if name]
            text = text[1:]
        names = text.split(b"/")[1:]
        if names[-1] == _ANY_FOLDERS:
            names.insert(-1, _ANYTHING)
        return cls((*begin, *names))

    def _follow(self, path: bytes) -> set[int]:
        """Return how many names of the pattern a path may have used up."""
        states = self._skip({0})
        for name in path.split(b"/"):
            if not name:
                continue
            after = set()
            for at in states:
                if at == len(self.names):
                    continue
                wanted = self.names[at]
                if wanted == _ANY_FOLDERS:
                    after.add(at)
                elif fits(wanted, name):
                    after.add(at + 1)
            states = self._skip(after)
            if not states:
                break
        return states

    def _skip(self, states: set[int]) -> set[int]:
        """``**`` may stand for no folder."""
        found = set(states)
        for at in states:
            while at < len(self.names) and self.names[at] == _ANY_FOLDERS:
                at += 1
                found.add(at)
        return found

    def matches(self, path: bytes) -> bool:
        """Whether it names ``path``."""
        return len(self.names) in self._follow(path)

    def leads_to(self, path: bytes) -> bool:
        """Whether it may name something below ``path``."""
        return any(at < len(self.names) for at in self._follow(path))

    def matches_all_below(self, path: bytes) -> bool:
        """Whether it names ``path``, and everything that is or will be below."""
        ends = self.names[-1:] == (_ANY_FOLDERS,) and len(self.names) - 1 in self._follow(path)
        return ends and self.matches(path)


class PathRules(NamedTuple):
    """Paths that are allowed, unless they are denied."""

    allow: tuple[PathPattern, ...]
    deny: tuple[PathPattern, ...] = ()

    @classmethod
    def read(cls, allow: Iterable[str], deny: Iterable[str], home: bytes) -> PathRules:
        """Return rules of patterns that have no problem."""
        return cls(
            tuple(PathPattern.read(each, home) for each in allow),
            tuple(PathPattern.read(each, home) for each in deny),
        )

    def allows(self, path: bytes) -> bool:
        """Whether ``path`` itself is allowed."""
        return any(each.matches(path) for each in self.allow) and not any(
            each.matches(path) for each in self.deny
        )

    def leads_to(self, path: bytes) -> bool:
        """Whether something below ``path`` may be allowed."""
        return any(each.leads_to(path) for each in self.allow) and not any(
            each.matches_all_below(path) for each in self.deny
        )

    def allows_all_below(self, path: bytes) -> bool:
        """Whether ``path`` is allowed, and everything that is or will be below."""
        return any(each.matches_all_below(path) for each in self.allow) and not any(
            each.matches(path) or each.leads_to(path) for each in self.deny
        )


def read_rules(data: bytes, home: bytes) -> PathRules:
    """Read ``{"allow": [...], "deny": [...]}``. Raises ValueError for anything else."""
    given = json.loads(data)
    if not isinstance(given, dict):
        raise ValueError("rules of paths are an object")
    return PathRules.read(_patterns(given, "allow"), _patterns(given, "deny"), home)


def _patterns(given: dict[str, object], name: str) -> list[str]:
    patterns = given.get(name)
    if not isinstance(patterns, list):
        raise ValueError("rules of paths are lists of patterns")
    for pattern in patterns:
        if not isinstance(pattern, str) or pattern_problem(pattern):
            raise ValueError("that is no pattern of paths")
    return patterns


def _literal(name: bytes) -> bytes:
    """A name of a home directory stands for itself; with a star in it, for no path."""
    return name if not set(name) & set(b"*?") else b"/"


def fits(pattern: bytes, name: bytes) -> bool:
    """Whether a pattern of one name fits: after a star the shortest match is tried first."""
    at, star, resumed = 0, -1, 0
    index = 0
    while index < len(name):
        if at < len(pattern) and pattern[at] == ord("*"):
            star, resumed = at, index
            at += 1
        elif at < len(pattern) and pattern[at] in (ord("?"), name[index]):
            at += 1
            index += 1
        elif star >= 0:
            resumed += 1
            at, index = star + 1, resumed
        else:
            return False
    return all(each == ord("*") for each in pattern[at:])
