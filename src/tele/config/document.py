"""Which values does a YAML text have, and on which lines?

Invariants:

* YAML 1.2, core schema only: strings, integers, floats, booleans, null, lists, mappings.
  ``no`` is a string, a date is a string, and there are no tags.
* A key twice, an alias and a key that is not a string are errors with their line; reading
  continues, so that all errors are reported.
"""

from __future__ import annotations

import re
from ast import literal_eval
from collections.abc import Iterator, Mapping
from typing import Any

from attrs import frozen
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from tele.errors import ConfigError, quoted

#: Deeper than any configuration; a file made to exhaust the stack ends here.
DEPTH_LIMIT = 50
SIZE_LIMIT = 4 * 1024 * 1024

#: The next part of where a field is, as errors name it: ``.name``, ``[0]`` or ``['key']``.
_STEP = re.compile(r"""\.?(\w+)|\[(\d+)\]|\[('(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")\]""", re.ASCII)
_UNKNOWN_KEY = re.compile(r"""unknown key ('(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")""")

_NULL = "tag:yaml.org,2002:null"
_BOOL = "tag:yaml.org,2002:bool"
_INT = "tag:yaml.org,2002:int"
_FLOAT = "tag:yaml.org,2002:float"
_TEXT = frozenset({"tag:yaml.org,2002:str", "tag:yaml.org,2002:timestamp"})
_TRUE = frozenset({"true", "True", "TRUE"})


@frozen
class Place:
    """A line of a file, counted from 1."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


@frozen
class Value:
    """A value and where it is. Elements of lists and mappings are values themselves."""

    value: str | int | float | bool | tuple[Value, ...] | Mapping[str, Value] | None
    place: Place
    keys: Mapping[str, Place] = {}

    @property
    def plain(self) -> Any:
        """The value as lists, dicts and scalars, without places."""
        if isinstance(self.value, tuple):
            return [each.plain for each in self.value]
        if isinstance(self.value, Mapping):
            return {key: each.plain for key, each in self.value.items()}
        return self.value

    def located(self, error: Exception) -> str:
        """Return the text of an error with the place of the field that each of its lines names."""
        return "\n".join(f"{self.place_of(line)}: {line}" for line in str(error).splitlines())

    def place_of(self, error: str) -> Place:
        """Return where the field is that an error of :mod:`tele.model.codec` begins with, such as
        ``spec.logins[0]: expected str``; or the nearest one that there is.
        """
        found, at = self, 0
        place = self.place
        while (step := _STEP.match(error, at)) is not None:
            key = step[1] or (literal_eval(step[3]) if step[3] else int(step[2]))
            inner = found._inner(key)
            if inner is None:
                break
            place = found.keys.get(str(key), inner.place)
            found, at = inner, step.end()
        unknown = _UNKNOWN_KEY.search(error, at)
        return place if unknown is None else found.keys.get(literal_eval(unknown[1]), place)

    def _inner(self, key: str | int) -> Value | None:
        if isinstance(self.value, Mapping):
            return self.value.get(str(key))
        if isinstance(self.value, tuple) and isinstance(key, int) and key < len(self.value):
            return self.value[key]
        return None


def read_documents(text: str, name: str) -> tuple[Value, ...]:
    """Read all documents of a YAML text; ``name`` is its name in messages.

    Raises :class:`ConfigError`.
    """
    problems: list[str] = []
    documents = find_documents(text, name, problems)
    if problems:
        raise ConfigError(problems)
    return documents


def find_documents(text: str, name: str, problems: list[str]) -> tuple[Value, ...]:
    """Read what can be read, and add what is wrong to ``problems``."""
    documents: list[Value] = []
    if len(text) > SIZE_LIMIT:
        problems.append(f"{name}: larger than {SIZE_LIMIT} bytes")
        return ()
    try:
        for node in _nodes(text):
            documents.append(_convert(node, name, problems, 0))
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = "" if mark is None else f":{mark.line + 1}"
        problems.append(f"{name}{line}: not YAML: {error.problem or error.context}")
    except (YAMLError, ValueError) as error:
        problems.append(f"{name}: not YAML: {str(error).splitlines()[0]}")
    except RecursionError:
        problems.append(f"{name}: nested too deeply")
    return tuple(documents)


def _nodes(text: str) -> Iterator[Node]:
    yaml = YAML(typ="safe", pure=True)
    yaml.version = (1, 2)
    yaml.max_depth = DEPTH_LIMIT
    for node in yaml.compose_all(text):
        if node is not None:
            yield node


def _convert(node: Node, name: str, problems: list[str], depth: int) -> Value:
    place = Place(name, node.start_mark.line + 1)
    if depth > DEPTH_LIMIT:
        problems.append(f"{place}: nested too deeply")
        return Value(None, place)
    if node.anchor is not None:
        problems.append(f"{place}: anchors and aliases (&, *) are not allowed here")
        return Value(None, place)
    match node:
        case MappingNode():
            return _mapping(node, place, problems, depth)
        case SequenceNode():
            inner = tuple(_convert(each, name, problems, depth + 1) for each in node.value)
            return Value(inner, place)
        case ScalarNode():
            if not _joined(node):
                problems.append(f"{place}: half of a surrogate pair is no character")
                return Value(None, place)
            return Value(_scalar(node, place, problems), place)
    problems.append(f"{place}: not a value")
    return Value(None, place)


def _joined(node: ScalarNode) -> bool:
    """Make characters of surrogate pairs, as JSON escapes them; False if there is half a pair."""
    try:
        node.value = str(node.value).encode("utf-16", "surrogatepass").decode("utf-16")
    except UnicodeDecodeError:
        return False
    return True


def _mapping(node: MappingNode, place: Place, problems: list[str], depth: int) -> Value:
    found: dict[str, Value] = {}
    keys: dict[str, Place] = {}
    for key_node, value_node in node.value:
        where = Place(place.file, key_node.start_mark.line + 1)
        value = _convert(value_node, place.file, problems, depth + 1)
        if not isinstance(key_node, ScalarNode) or str(key_node.tag) not in _TEXT:
            problems.append(f"{where}: a key has to be a string (quote it)")
            continue
        if not _joined(key_node):
            problems.append(f"{where}: half of a surrogate pair is no character")
            continue
        key = key_node.value
        if key in found:
            problems.append(
                f"{where}: key {quoted(key)} is given twice, first on line {keys[key].line}"
            )
            continue
        found[key] = value
        keys[key] = where
    return Value(found, place, keys)


def _scalar(node: ScalarNode, place: Place, problems: list[str]) -> str | int | float | bool | None:
    tag, text = str(node.tag), str(node.value)
    if tag in _TEXT:
        return text
    if tag == _NULL:
        return None
    if tag == _BOOL:
        return text in _TRUE
    try:
        if tag == _INT:
            return int(text, 0 if text[:2] in ("0x", "0o") else 10)
        if tag == _FLOAT:
            return float(text)
    except ValueError:
        problems.append(f"{place}: {quoted(text)} is not a number")
        return None
    problems.append(f"{place}: tag {quoted(tag)} is not allowed here")
    return None
