"""Does a text match a regular expression, in bounded time?

Python's :mod:`re` goes back and tries again, so that a few characters of a role
(``^(a+)+$``) could stop a node. Here all possibilities are followed in parallel (Thompson's
construction): a match takes at most ``len(text)`` times the size of the expression.

Invariants:

* Literals, ``.`` (any character at all), ``[...]``, backslash with ``d w s`` or ``D W S``,
  groups, ``|``, ``* + ?`` and ``{m,n}``; nothing that would need to remember (no back
  reference, no look-around).
* What is not understood is refused when a role is written, never guessed at.
* The size is bounded: :data:`LENGTH_LIMIT` characters, :data:`SIZE_LIMIT` states.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Final

from attrs import define, frozen

from tele.errors import InvalidInput, quoted

LENGTH_LIMIT: Final = 256
SIZE_LIMIT: Final = 1000
_REPEAT_LIMIT: Final = 100
_DEPTH_LIMIT: Final = 20

Test = Callable[[str], bool]


@define
class _State:
    """Continues at ``follow`` for a character that passes ``test``; without a test, for none.

    ``mark`` is the number of the end of a group that is here: 0 where the first one begins, 1 where
    it ends, 2 where the second one begins.
    """

    test: Test | None
    follow: tuple[int, ...]
    mark: int | None = None


@frozen
class Expression:
    """A compiled expression. :meth:`covers` asks about a whole text.

    Its states mark its ``groups`` if it was compiled to.
    """

    states: tuple[_State, ...]
    start: int
    groups: int = 0

    def covers(self, text: str) -> bool:
        """Whether the expression matches all of ``text``. State 0 is the end."""
        present = self._closure({self.start})
        for character in text:
            reached: set[int] = set()
            for number in present:
                state = self.states[number]
                if state.test is not None and state.test(character):
                    reached.update(state.follow)
            if not reached:
                return False
            present = self._closure(reached)
        return 0 in present

    def _closure(self, reached: set[int]) -> set[int]:
        waiting, found = list(reached), set(reached)
        while waiting:
            state = self.states[waiting.pop()]
            if state.test is None:
                new = [n for n in state.follow if n not in found]
                found.update(new)
                waiting.extend(new)
        return found


# A parsed expression: each kind builds its states before the state that follows it.
_Part = Callable[["_Builder", int], int]


@define
class _Builder:
    states: list[_State]
    marks: bool = False

    def add(self, test: Test | None, *follow: int, mark: int | None = None) -> int:
        if len(self.states) >= SIZE_LIMIT:
            raise InvalidInput(f"the expression is too large (more than {SIZE_LIMIT} states)")
        self.states.append(_State(test, follow, mark))
        return len(self.states) - 1


def _one(test: Test) -> _Part:
    return lambda builder, after: builder.add(test, after)


def _sequence(parts: list[_Part]) -> _Part:
    def build(builder: _Builder, after: int) -> int:
        for part in reversed(parts):
            after = part(builder, after)
        return after

    return build


def _choice(parts: list[_Part]) -> _Part:
    def build(builder: _Builder, after: int) -> int:
        return builder.add(None, *(part(builder, after) for part in parts))

    return parts[0] if len(parts) == 1 else build


def _marked(part: _Part, group: int) -> _Part:
    def build(builder: _Builder, after: int) -> int:
        if not builder.marks:
            return part(builder, after)
        end = builder.add(None, after, mark=2 * group + 1)
        return builder.add(None, part(builder, end), mark=2 * group)

    return build


def _repeated(part: _Part, least: int, most: int | None) -> _Part:
    def build(builder: _Builder, after: int) -> int:
        if most is None:
            loop = builder.add(None)
            builder.states[loop].follow = (part(builder, loop), after)
            after = loop
        else:
            end = after
            for _ in range(most - least):
                after = builder.add(None, part(builder, after), end)
        for _ in range(least):
            after = part(builder, after)
        return after

    return build


_CLASSES: Final[dict[str, Test]] = {
    "d": lambda c: "0" <= c <= "9",
    "w": lambda c: c.isascii() and (c.isalnum() or c == "_"),
    "s": lambda c: c in " \t\n\r\f\v",
}


def _opposite(test: Test) -> Test:
    return lambda c: not test(c)


def _between(low: str, high: str) -> Test:
    return lambda c: low <= c <= high


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._depth = 0
        self.groups = 0

    def _peek(self) -> str:
        return self._text[self._at : self._at + 1]

    def _take(self, what: str) -> str:
        taken = self._peek()
        if not taken:
            raise InvalidInput(f"it ends where {what} is expected")
        self._at += 1
        return taken

    def _skip(self, text: str) -> bool:
        found = self._text.startswith(text, self._at)
        self._at += len(text) if found else 0
        return found

    def whole(self) -> _Part:
        found = self._alternatives()
        if self._peek():
            raise InvalidInput(f"unexpected {self._peek()!r} at {self._at}")
        return found

    def _alternatives(self) -> _Part:
        parts = [self._items()]
        while self._skip("|"):
            parts.append(self._items())
        return _choice(parts)

    def _items(self) -> _Part:
        items: list[_Part] = []
        while self._peek() not in ("", "|", ")"):
            items.append(self._counted(self._item()))
        return _sequence(items)

    def _item(self) -> _Part:
        character = self._take("something")
        if character == "(":
            return self._group()
        if character == "[":
            return _one(self._set())
        if character == ".":
            return _one(lambda _: True)
        if character == "\\":
            return _one(self._escaped())
        if character in "*+?{}^$":
            raise InvalidInput(f"unexpected {character!r} at {self._at - 1}")
        return _one(_between(character, character))

    def _group(self) -> _Part:
        counted = not self._skip("?:")
        if counted and self._peek() == "?":
            raise InvalidInput("groups that begin with (? are not supported")
        number = self.groups
        self.groups += counted
        self._depth += 1
        if self._depth > _DEPTH_LIMIT:
            raise InvalidInput(f"groups are nested more than {_DEPTH_LIMIT} deep")
        found = self._alternatives()
        if not self._skip(")"):
            raise InvalidInput("a ( is not closed")
        self._depth -= 1
        return _marked(found, number) if counted else found

    def _escaped(self) -> Test:
        character = self._take("the escaped character")
        if character.lower() in _CLASSES:
            test = _CLASSES[character.lower()]
            return test if character.islower() else _opposite(test)
        if character.isalnum():
            raise InvalidInput(f"\\{character} is not supported")
        return _between(character, character)

    def _set(self) -> Test:
        negated = self._skip("^")
        tests: list[Test] = []
        first = True
        while first or self._peek() != "]":
            first = False
            low = self._take("]")
            if low == "\\":
                tests.append(self._escaped())
                continue
            high = low
            if self._peek() == "-" and self._text[self._at + 1 : self._at + 2] not in ("]", ""):
                self._at += 1
                high = self._take("the end of a range")
                if high == "\\" or high < low:
                    raise InvalidInput(f"bad range {low}-{high}")
            tests.append(_between(low, high))
        self._at += 1
        found: Test = lambda c: any(test(c) for test in tests)  # noqa: E731
        return _opposite(found) if negated else found

    def _counted(self, part: _Part) -> _Part:
        if self._skip("*"):
            counted = _repeated(part, 0, None)
        elif self._skip("+"):
            counted = _repeated(part, 1, None)
        elif self._skip("?"):
            counted = _repeated(part, 0, 1)
        elif self._skip("{"):
            counted = _repeated(part, *self._bounds())
        else:
            return part
        if self._peek() in ("*", "+", "?", "{"):
            raise InvalidInput(f"{self._peek()!r} after a repetition is not supported")
        return counted

    def _bounds(self) -> tuple[int, int | None]:
        inside, closed, _ = self._text[self._at :].partition("}")
        low, comma, high = inside.partition(",")
        good = all(n.isascii() and n.isdigit() and len(n) < 4 for n in (low, *filter(None, [high])))
        if not closed or not good:
            raise InvalidInput("a repetition is written {2}, {2,} or {2,5}")
        self._at += len(inside) + 1
        least = int(low)
        most = int(high) if high else None if comma else least
        if max(least, most or 0) > _REPEAT_LIMIT or (most is not None and most < least):
            raise InvalidInput(f"{{{inside}}} is no repetition of up to {_REPEAT_LIMIT} times")
        return least, most


@lru_cache(maxsize=512)
def expression(pattern: str, *, marks: bool = False) -> Expression:
    """Compile ``pattern``, which stands between ``^`` and ``$``; with ``marks`` of its groups.

    Raises :class:`InvalidInput` for what is malformed, not supported or too large.
    """
    try:
        if len(pattern) > LENGTH_LIMIT:
            raise InvalidInput(f"it has more than {LENGTH_LIMIT} characters")
        if not (pattern.startswith("^") and pattern.endswith("$")) or len(pattern) < 2:
            raise InvalidInput("it has to begin with ^ and to end with $")
        builder = _Builder([_State(None, ())], marks)
        parser = _Parser(pattern[1:-1])
        start = parser.whole()(builder, 0)
    except InvalidInput as error:
        raise InvalidInput(f"{quoted(pattern)} is no regular expression: {error}") from None
    return Expression(tuple(builder.states), start, parser.groups)
