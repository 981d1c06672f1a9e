"""How does a value become JSON, and how does JSON become a value again?

Invariants:

* Strict both ways: an unknown key, a missing key or a wrong type is
  :class:`tele.errors.InvalidInput` whose text names the place (``spec.logins[0]``).
* No coercion: ``"1"`` is not ``1`` and ``1`` is not ``true``.
* Reading takes linear time: no step reads a byte twice, nesting and numbers are bounded, and an
  error lists a bounded number of mistakes.
* Numbers, times, durations and bytes are written as in :mod:`tele.model.scalars`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from enum import Enum, EnumType
from heapq import nsmallest
from itertools import accumulate, islice
from typing import Annotated, Any, Final, TypeVar, get_args, get_origin

import attrs
from cattrs import Converter
from cattrs.errors import AttributeValidationNote, ClassValidationError, ForbiddenExtraKeysError
from cattrs.gen import make_dict_unstructure_fn, override

from tele.errors import InvalidInput, quoted
from tele.model.bounds import ONE_OR_MORE, Unacceptable
from tele.model.scalars import (
    SCALAR_LIMIT,
    check_integer,
    format_base64,
    parse_base64,
)
from tele.model.scalars import format_duration as format_duration
from tele.model.scalars import format_time as format_time
from tele.model.scalars import parse_duration as parse_duration
from tele.model.scalars import parse_time as parse_time
from tele.model.sizes import Size, read_size

T = TypeVar("T")

#: Levels of nested lists and objects.
DEPTH_LIMIT: Final = 64
#: Mistakes that an error lists, and characters of each.
PROBLEMS_LIMIT: Final = 20
PROBLEM_LENGTH: Final = 512

#: Items of a list that are written at once, and levels of objects that are looked into.
PIECE: Final = 500
PIECES_DEPTH: Final = 3
#: Characters of JSON that one call of a regular expression reads.
TEXT_PIECE: Final = 256 * 1024

# A string without an end matches, too, so that no byte is read twice.
_STRING = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
_BRACKET = re.compile(r"[\[{\]}]")
_TOKEN = re.compile(f"{_STRING.pattern}|{_BRACKET.pattern}", re.DOTALL)
_STEP = {"[": 1, "{": 1, "]": -1, "}": -1}


def _unknown(cls: EnumType) -> object:
    """Return the value that stands for those of newer peers, or None: it is not one to give."""
    member = cls.__members__.get("UNKNOWN")
    return member.value if isinstance(member, Enum) else None


def _strictly(*types: type) -> Callable[[Any, Any], Any]:
    def structure(value: Any, cls: Any) -> Any:
        if isinstance(cls, EnumType):  # one of the subclasses of str and int
            values = [member.value for member in list[Enum](cls)]
            if type(value) in (*types, cls) and value in values:
                return cls(value)
            # A value of a newer peer becomes UNKNOWN where the type has that.
            if type(value) is str and "UNKNOWN" in cls.__members__:
                return cls["UNKNOWN"]
            known = ", ".join(str(each) for each in values if each != _unknown(cls))
            raise ValueError(f"{quoted(value)} is none of {known}")
        if type(value) not in types:
            wrong = f"expected {types[0].__name__}, got {type(value).__name__}"
            if types[0] is int and type(value) is float:
                wrong += f" {value!r}: write it without a point and an exponent"
            raise ValueError(wrong)
        if type(value) is int:
            check_integer(value)
        return value

    return structure


def _from_text(read: Callable[[str], Any]) -> Callable[[Any, Any], Any]:
    def structure(value: Any, cls: Any) -> Any:
        if isinstance(value, cls):
            return value
        if type(value) is not str:
            raise ValueError(f"expected a string, got {type(value).__name__}")
        return read(value)

    return structure


def _plain_text(value: str) -> Any:
    return value.value if isinstance(value, Enum) else value


def _make_converter() -> Converter:
    converter = Converter(forbid_extra_keys=True)
    for plain in (str, int, bool):
        converter.register_structure_hook(plain, _strictly(plain))
    converter.register_structure_hook(float, _strictly(float, int))
    converter.register_structure_hook(bytes, _from_text(parse_base64))
    converter.register_structure_hook(datetime, _from_text(parse_time))
    converter.register_structure_hook(timedelta, _from_text(parse_duration))
    converter.register_structure_hook(Size, _from_text(read_size))
    # cattrs would leave enumerations that are strings as they are; YAML cannot write them.
    converter.register_unstructure_hook(str, _plain_text)
    converter.register_unstructure_hook(bytes, format_base64)
    converter.register_unstructure_hook(datetime, format_time)
    converter.register_unstructure_hook(timedelta, format_duration)
    converter.register_unstructure_hook(Size, str)

    def without_omitted(cls: Any) -> Callable[[Any], Any]:
        omitted: dict[str, Any] = {name: override(omit_if_default=True) for name in _omitted(cls)}
        return make_dict_unstructure_fn(cls, converter, **omitted)

    converter.register_unstructure_hook_factory(lambda cls: bool(_omitted(cls)), without_omitted)

    # cattrs would take the characters of a string for the elements of a list.
    converter.register_structure_hook_func(_is_any, lambda v, _: _checked(v))
    converter.register_structure_hook_func(_is_tuple, lambda v, cls: _tuple_of(converter, v, cls))
    converter.register_structure_hook_func(
        _is_one_or_more, lambda v, cls: _one_or_more(converter, v, cls)
    )
    converter.register_structure_hook_func(
        _is_mapping, lambda v, cls: _mapping_of(converter, v, cls)
    )
    return converter


def _omitted(cls: Any) -> list[str]:
    """Return the fields that are left out if they have their default, see ``OMITTED``."""
    fields = attrs.fields(cls) if isinstance(cls, type) and attrs.has(cls) else ()
    return [each.name for each in fields if each.metadata.get("omitted")]


def _is_any(cls: Any) -> bool:
    return cls is Any


def _checked(value: Any) -> Any:
    """Return a value of any type whose integers have at most 64 bits."""
    if type(value) is int:
        check_integer(value)
    elif isinstance(value, Mapping):
        for element in value.values():
            _checked(element)
    elif isinstance(value, list | tuple):
        for element in value:
            _checked(element)
    return value


def _is_tuple(cls: Any) -> bool:
    return get_origin(cls) is tuple and get_args(cls)[-1] is Ellipsis


def _is_one_or_more(cls: Any) -> bool:
    return get_origin(cls) is Annotated and ONE_OR_MORE in cls.__metadata__


def _one_or_more(converter: Converter, value: Any, cls: Any) -> tuple[Any, ...]:
    several, *_ = get_args(cls)
    return _tuple_of(converter, [value] if type(value) is str else value, several)


def _is_mapping(cls: Any) -> bool:
    return get_origin(cls) is Mapping


def _tuple_of(converter: Converter, value: Any, cls: Any) -> tuple[Any, ...]:
    if type(value) not in (list, tuple):
        raise ValueError(f"expected a list, got {type(value).__name__}")
    items = []
    for index, element in enumerate(value):
        try:
            items.append(converter.structure(element, get_args(cls)[0]))
        except Exception as error:
            raise _Within(f"[{index}]", error) from error
    return tuple(items)


def _mapping_of(converter: Converter, value: Any, cls: Any) -> dict[Any, Any]:
    if not isinstance(value, Mapping):
        raise ValueError(f"expected a mapping, got {type(value).__name__}")
    key_type, value_type = get_args(cls)
    items = {}
    for key, element in value.items():
        try:
            items[converter.structure(key, key_type)] = converter.structure(element, value_type)
        except Exception as error:
            raise _Within(f"[{quoted(key)}]", error) from error
    return items


class _Within(Exception):
    """An error in an element, with the element's place."""

    def __init__(self, place: str, error: Exception) -> None:
        super().__init__(place, error)
        self.place = place
        self.error = error


CONVERTER: Final = _make_converter()


def _problems(error: BaseException, place: str) -> Iterator[str]:
    match error:
        case _Within():
            yield from _problems(error.error, place + error.place)
        case ForbiddenExtraKeysError():
            for name in nsmallest(PROBLEMS_LIMIT + 1, map(str, error.extra_fields)):
                yield f"{place or 'top level'}: unknown key {quoted(name)}"
        case ClassValidationError():
            for child in error.exceptions:
                notes = [
                    n
                    for n in getattr(child, "__notes__", ())
                    if isinstance(n, AttributeValidationNote)
                ]
                name = notes[0].name if notes else ""
                inner = f"{place}.{name}" if place and name else place or name
                if isinstance(child, KeyError):
                    yield f"{inner or 'top level'}: missing"
                else:
                    yield from _problems(child, inner)
        case BaseExceptionGroup():
            for each in error.exceptions:
                yield from _problems(each, place)
        case AttributeError():
            yield f"{place or 'top level'}: expected a mapping"
        case Unacceptable():
            yield f"{place}.{error}" if place else str(error)
        case _:
            yield f"{place or 'value'}: {error}"


def _report(error: Exception) -> str:
    """Return one line for each problem, up to :data:`PROBLEMS_LIMIT`."""
    lines = [
        line if len(line) <= PROBLEM_LENGTH else f"{line[:PROBLEM_LENGTH]}..."
        for line in islice(_problems(error, ""), PROBLEMS_LIMIT + 1)
    ]
    if len(lines) > PROBLEMS_LIMIT:
        lines[PROBLEMS_LIMIT] = "there are more mistakes: correct these first"
    return "\n".join(lines)


def to_json(value: Any) -> Any:
    """Return a value that :mod:`json` can write: dicts, lists, strings, numbers, booleans, None."""
    return CONVERTER.unstructure(value)


def from_json(cls: type[T], value: Any) -> T:
    """Build a ``cls`` from a value that :mod:`json` or YAML returned.

    Raises :class:`InvalidInput`; its text has one line for each problem.
    """
    try:
        return CONVERTER.structure(value, cls)
    except Exception as error:
        raise InvalidInput(_report(error)) from None


_CANONICAL: Final = json.JSONEncoder(
    sort_keys=True, separators=(",", ":"), ensure_ascii=False
).encode


def encode(value: Any) -> bytes:
    """Return canonical JSON: sorted keys, no spaces, UTF-8. Equal values, equal bytes."""
    return encode_plain(to_json(value))


def encode_plain(plain: Any) -> bytes:
    """Return the canonical JSON of what :func:`to_json` returned, without converting it again."""
    return _CANONICAL(plain).encode("utf-8")


def encode_large(value: Any) -> bytes:
    """Return what :func:`encode` does, for a thread: others run meanwhile.

    The encoder is C, which lets no other thread run.
    """
    return "".join(_pieces(to_json(value), PIECES_DEPTH)).encode("utf-8")


def _pieces(plain: Any, depth: int) -> Iterator[str]:
    if depth and type(plain) is dict and len(plain) <= PIECE and set(map(type, plain)) == {str}:
        for number, (name, value) in enumerate(sorted(plain.items())):
            yield f"{',' if number else '{'}{_CANONICAL(name)}:"
            yield from _pieces(value, depth - 1)
        yield "}"
    elif type(plain) in (list, tuple) and len(plain) > PIECE:
        for at in range(0, len(plain), PIECE):
            yield f"{',' if at else '['}{_CANONICAL(plain[at : at + PIECE])[1:-1]}"
        yield "]"
    else:
        yield _CANONICAL(plain)


def _object(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise ValueError(f"key {quoted(name)} is given twice")
            seen.add(name)
    return value


def _check_depth(text: str) -> None:
    if text.count("[") + text.count("{") <= DEPTH_LIMIT:
        return
    if len(text) <= TEXT_PIECE:
        found: Iterable[str] = _BRACKET.findall(_STRING.sub("", text))
    else:  # slower, but other threads run in between
        found = (each[0] for each in _TOKEN.finditer(text) if each[0][0] != '"')
    steps = map(_STEP.__getitem__, found)
    if max(accumulate(steps), default=0) > DEPTH_LIMIT:
        raise ValueError(f"lists and objects lie more than {DEPTH_LIMIT} deep in each other")


def _integer(text: str) -> int:
    # Python would read thousands of digits. Shorter ones of more than 64 bits are refused later,
    # with the name of the attribute.
    if len(text) > SCALAR_LIMIT:
        raise ValueError(f"number {quoted(text)} is out of range")
    return int(text)


def _float(text: str) -> float:
    if len(text) > SCALAR_LIMIT or not math.isfinite(value := float(text)):
        raise ValueError(f"number {quoted(text)} is out of range")
    return value


def _refuse_constant(text: str) -> Any:
    raise ValueError(f"{text} is not a number")


def read_json(data: bytes) -> Any:
    """Read JSON (RFC 8259), strictly where readers differ.

    UTF-8 only, no duplicate keys, no NaN, short numbers, at most :data:`DEPTH_LIMIT` levels, no
    unpaired surrogates (they could not be written again). Raises :class:`InvalidInput`.
    """
    try:
        text = data.decode("utf-8")
        _check_depth(text)
        value = json.loads(
            text,
            object_pairs_hook=_object,
            parse_int=_integer,
            parse_float=_float,
            parse_constant=_refuse_constant,
        )
        if "\\ud" in text.lower():
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"not JSON: {error}") from None
    return value


def decode(cls: type[T], data: bytes) -> T:
    """Build a ``cls`` from JSON text; raises :class:`InvalidInput`."""
    return from_json(cls, read_json(data))
