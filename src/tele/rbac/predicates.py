"""What does an expression of a role say? Conditions on labels, users and resources.

A condition is true or false: ``labels.env == "prod" && contains(user.traits.team, labels.team)``.
A value is a text or several texts; it stands in templates, too (:mod:`tele.rbac.templates`).

Invariants:

* An expression is parsed once and checked then: names, types, numbers of arguments, patterns.
* Evaluation ends: there are no loops, and patterns take linear time; size and depth are bounded.
* What does not exist (a label, a trait) is an empty text, or no texts; it is no error.
* An expression reads nothing but what it is given.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from enum import Enum
from functools import lru_cache
from typing import Any, Final, TypeAlias

from attrs import frozen

from tele.errors import InvalidInput, quoted
from tele.model.patterns import matches
from tele.rbac.regular_expressions import LENGTH_LIMIT as PATTERN_LIMIT
from tele.rbac.regular_expressions import expression
from tele.rbac.replacing import replacement

#: Characters of an expression, its operators and values, and how deep they are nested.
LENGTH_LIMIT: Final = 1024
SIZE_LIMIT: Final = 200
DEPTH_LIMIT: Final = 20


class Type(str, Enum):
    """What a part of an expression stands for. A MAP has a value of the second type by name."""

    TEXT = "a text"
    TEXTS = "several texts"
    CONDITION = "a condition"
    TEXT_MAP = "texts by name"
    TEXTS_MAP = "several texts by name"


#: What an expression may read: a dotted name and its type.
Vocabulary: TypeAlias = tuple[tuple[str, Type], ...]
#: The values of a vocabulary's names.
Facts: TypeAlias = Mapping[str, Any]
_Read: TypeAlias = Callable[[Facts], Any]

_TOKEN: Final = re.compile(
    r"\s*(?:(?P<name>[A-Za-z_][A-Za-z0-9_-]*)|(?P<text>\"(?:[^\"\\]|\\.)*\"|'(?:[^'\\]|\\.)*')"
    r"|(?P<sign>==|!=|&&|\|\||[!().,\[\]]))"
)
_ESCAPE: Final = re.compile(r"\\(.)")


@frozen
class Part:
    """A part of an expression. ``literal`` is the text that is written there, if it is one."""

    type: Type
    read: _Read
    literal: str | None = None


@frozen
class _Function:
    """``build`` makes the part of its arguments; each has one of some types."""

    parameters: tuple[tuple[Type, ...], ...]
    build: Callable[..., Part]
    more: bool = False


_VALUE: Final = (Type.TEXT, Type.TEXTS)
_NAMES: Final = {Type.TEXT_MAP: Type.TEXT, Type.TEXTS_MAP: Type.TEXTS}


def texts(value: Any) -> tuple[str, ...]:
    """Return the texts of a value of either type."""
    return (value,) if isinstance(value, str) else tuple(value)


def _mapped(part: Part, change: Callable[[str], str | None]) -> Part:
    """Change each text of ``part``; what becomes None is left out, or empty."""

    def several(facts: Facts) -> tuple[str, ...]:
        changed = (change(each) for each in part.read(facts))
        return tuple(each for each in changed if each is not None)

    if part.type is Type.TEXTS:
        return Part(Type.TEXTS, several)
    return Part(Type.TEXT, lambda facts: change(part.read(facts)) or "")


def _written(part: Part, what: str) -> str:
    """Return what has to be written as it is: it is checked when the role is."""
    if part.literal is None:
        raise InvalidInput(f"{what} has to be written in quotes")
    return part.literal


def _local(text: str) -> str | None:
    """Return the part of a mail address before its last @; None for what is no address."""
    local, at, domain = text.rpartition("@")
    return local if at and local and domain else None


def _contains(several: Part, one: Part) -> Part:
    return Part(Type.CONDITION, lambda facts: one.read(facts) in texts(several.read(facts)))


def _contains_any(several: Part, others: Part) -> Part:
    def read(facts: Facts) -> bool:
        return not {*texts(several.read(facts))}.isdisjoint(texts(others.read(facts)))

    return Part(Type.CONDITION, read)


def _contains_all(several: Part, others: Part) -> Part:
    def read(facts: Facts) -> bool:
        wanted = {*texts(others.read(facts))}
        return bool(wanted) and wanted <= {*texts(several.read(facts))}

    return Part(Type.CONDITION, read)


def _set(*parts: Part) -> Part:
    return Part(
        Type.TEXTS, lambda facts: tuple(text for each in parts for text in texts(each.read(facts)))
    )


def _match(value: Part, pattern: Part) -> Part:
    covers = expression(_written(pattern, "a regular expression")).covers
    return Part(Type.CONDITION, lambda facts: any(map(covers, texts(value.read(facts)))))


def _glob(value: Part, pattern: Part) -> Part:
    glob = _written(pattern, "a pattern")
    if len(glob) > PATTERN_LIMIT:
        raise InvalidInput(f"{quoted(glob)} has more than {PATTERN_LIMIT} characters")
    return Part(
        Type.CONDITION,
        lambda facts: any(matches(glob, each) for each in texts(value.read(facts))),
    )


def _replace(value: Part, pattern: Part, by: Part) -> Part:
    change = replacement(
        _written(pattern, "a regular expression"), _written(by, "what replaces it")
    )
    return _mapped(value, change)


_FUNCTIONS: Final[dict[str, _Function]] = {
    "contains": _Function((_VALUE, (Type.TEXT,)), _contains),
    "contains_any": _Function((_VALUE, _VALUE), _contains_any),
    "contains_all": _Function((_VALUE, _VALUE), _contains_all),
    "set": _Function((_VALUE,), _set, more=True),
    "glob.match": _Function((_VALUE, (Type.TEXT,)), _glob),
    "regexp.match": _Function((_VALUE, (Type.TEXT,)), _match),
    "regexp.replace": _Function((_VALUE, (Type.TEXT,), (Type.TEXT,)), _replace),
    "email.local": _Function((_VALUE,), lambda part: _mapped(part, _local)),
    "strings.lower": _Function((_VALUE,), lambda part: _mapped(part, str.lower)),
    "strings.upper": _Function((_VALUE,), lambda part: _mapped(part, str.upper)),
}


class _Parser:
    """Reads one expression, from left to right, without going back."""

    def __init__(self, text: str, vocabulary: Vocabulary) -> None:
        self._text = text
        self._known = dict(vocabulary)
        self._at = 0
        self._depth = 0
        self._size = 0
        self._kind = self._token = ""
        self._begin = 0
        self._advance()

    # -- tokens -----------------------------------------------------------------------
    def _advance(self) -> None:
        found = _TOKEN.match(self._text, self._at)
        if found is not None:
            self._kind = found.lastgroup or ""
            self._token = found[self._kind]
            self._begin, self._at = found.start(self._kind), found.end()
            self._size += 1
            if self._size > SIZE_LIMIT:
                raise InvalidInput(f"it has more than {SIZE_LIMIT} words and signs")
            return
        rest = self._text[self._at :].lstrip()
        if rest:
            raise InvalidInput(f"unexpected {rest[0]!r} at {len(self._text) - len(rest)}")
        self._kind, self._token, self._begin = "end", "", len(self._text)

    def _skip(self, sign: str) -> bool:
        if self._kind != "sign" or self._token != sign:
            return False
        self._advance()
        return True

    def _need(self, sign: str) -> None:
        if not self._skip(sign):
            raise self._unexpected(repr(sign))

    def _unexpected(self, what: str) -> InvalidInput:
        if self._kind == "end":
            return InvalidInput(f"it ends where {what} is expected")
        return InvalidInput(f"{what} is expected at {self._begin}, not {quoted(self._token)}")

    # -- grammar ----------------------------------------------------------------------
    def whole(self, *types: Type) -> Part:
        """Read all of it; it has to be of one of ``types``."""
        found = self._either()
        if self._kind != "end":
            raise InvalidInput(f"unexpected {quoted(self._token)} at {self._begin}")
        return _typed(found, types, "it")

    def _either(self) -> Part:
        self._depth += 1
        if self._depth > DEPTH_LIMIT:
            raise InvalidInput(f"it is nested more than {DEPTH_LIMIT} deep")
        parts = [self._all()]
        while self._skip("||"):
            parts.append(self._all())
        self._depth -= 1
        if len(parts) == 1:
            return parts[0]
        reads = _conditions(parts, "||")
        return Part(Type.CONDITION, lambda facts: any(read(facts) for read in reads))

    def _all(self) -> Part:
        parts = [self._compared()]
        while self._skip("&&"):
            parts.append(self._compared())
        if len(parts) == 1:
            return parts[0]
        reads = _conditions(parts, "&&")
        return Part(Type.CONDITION, lambda facts: all(read(facts) for read in reads))

    def _compared(self) -> Part:
        one = self._negated()
        equal = self._skip("==")
        if not equal and not self._skip("!="):
            return one
        other = self._negated()
        for each in (one, other):
            _typed(each, (Type.TEXT,), "what is compared with == or !=")
        left, right = one.read, other.read
        return Part(Type.CONDITION, lambda facts: (left(facts) == right(facts)) is equal)

    def _negated(self) -> Part:
        negations = 0
        while self._skip("!"):
            negations += 1
        part = self._operand()
        if not negations:
            return part
        read = _typed(part, (Type.CONDITION,), "what stands after !").read
        return Part(Type.CONDITION, lambda facts: bool(read(facts)) is (negations % 2 == 0))

    def _operand(self) -> Part:
        if self._skip("("):
            inside = self._either()
            self._need(")")
            return inside
        if self._kind == "text":
            literal = _ESCAPE.sub(r"\1", self._token[1:-1])
            self._advance()
            return Part(Type.TEXT, lambda _: literal, literal)
        if self._kind != "name":
            raise self._unexpected("a name, a text in quotes or (")
        return self._named()

    def _named(self) -> Part:
        name, begin = self._token, self._begin
        self._advance()
        while name not in self._known and name not in _FUNCTIONS and self._skip("."):
            name += f".{self._name()}"
        if name in _FUNCTIONS:
            return self._call(name)
        kind = self._known.get(name)
        if kind is None:
            known = ", ".join((*self._known, *(f"{each}()" for each in _FUNCTIONS)))
            raise InvalidInput(f"unknown name {quoted(name)} at {begin}: there are {known}")
        if kind not in _NAMES:
            return Part(kind, lambda facts: facts[name])
        key = self._key(name)
        missing: Any = "" if kind is Type.TEXT_MAP else ()
        return Part(_NAMES[kind], lambda facts: facts[name].get(key, missing))

    def _key(self, name: str) -> str:
        """Read ``.key`` or ``["key"]``."""
        if self._skip("."):
            return self._name()
        if not self._skip("["):
            raise self._unexpected(f'a key, as in {name}.key or {name}["key"],')
        if self._kind != "text":
            raise self._unexpected("a text in quotes")
        key = _ESCAPE.sub(r"\1", self._token[1:-1])
        self._advance()
        self._need("]")
        return key

    def _name(self) -> str:
        if self._kind != "name":
            raise self._unexpected("a name")
        name = self._token
        self._advance()
        return name

    def _call(self, name: str) -> Part:
        function = _FUNCTIONS[name]
        self._need("(")
        arguments: list[Part] = []
        while not self._skip(")"):
            if arguments:
                self._need(",")
            arguments.append(self._either())
        count = len(function.parameters)
        if len(arguments) != count and not (function.more and arguments):
            raise InvalidInput(f"{name}() takes {count} arguments, not {len(arguments)}")
        for number, argument in enumerate(arguments):
            types = function.parameters[min(number, count - 1)]
            _typed(argument, types, f"argument {number + 1} of {name}()")
        return function.build(*arguments)


def _typed(part: Part, types: tuple[Type, ...], what: str) -> Part:
    if part.type not in types:
        expected = " or ".join(each.value for each in types)
        raise InvalidInput(f"{what} has to be {expected}, and is {part.type.value}")
    return part


def _conditions(parts: list[Part], sign: str) -> list[_Read]:
    return [_typed(each, (Type.CONDITION,), f"each side of {sign}").read for each in parts]


def _parse(text: str, vocabulary: Vocabulary, *types: Type) -> Part:
    try:
        if len(text) > LENGTH_LIMIT:
            raise InvalidInput(f"it has more than {LENGTH_LIMIT} characters")
        return _Parser(text, vocabulary).whole(*types)
    except InvalidInput as error:
        raise InvalidInput(f"{quoted(text)} is no expression: {error}") from None


@lru_cache(maxsize=2048)
def condition(text: str, vocabulary: Vocabulary) -> Callable[[Facts], bool]:
    """Parse a condition. Raises :class:`InvalidInput` with the place of the mistake."""
    return _parse(text, vocabulary, Type.CONDITION).read


@lru_cache(maxsize=2048)
def value(text: str, vocabulary: Vocabulary) -> Callable[[Facts], tuple[str, ...]]:
    """Parse a value, which is read as several texts. Raises :class:`InvalidInput`."""
    read = _parse(text, vocabulary, *_VALUE).read
    return lambda facts: texts(read(facts))
