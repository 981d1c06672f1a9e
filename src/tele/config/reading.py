"""How does a configuration file become values, with all its errors reported at once?

Invariants:

* The types of :mod:`tele.config.values` decide; nothing is coerced but what a type requires
  (an address, a length of time, a path).
* Every problem is one line: ``file:line: key: what is wrong``.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Callable, Collection, Mapping
from datetime import timedelta
from difflib import get_close_matches
from enum import EnumType
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Final, get_args, get_origin, get_type_hints

import attrs
from attrs import frozen

from tele.certs.pins import read_pin
from tele.config.document import Place, Value, find_documents
from tele.config.values import (
    Address,
    Chosen,
    FileConfig,
    MetricsAddress,
    Network,
    Pins,
    Size,
)
from tele.errors import ConfigError, InvalidInput, quoted
from tele.model.addresses import plain_network
from tele.model.codec import parse_duration
from tele.model.sizes import read_size
from tele.outbound.egress import EgressProxy, parse_proxy

_KIND = re.compile(r"[a-z][a-z0-9+.-]*", re.ASCII)
_HOST = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,252}[A-Za-z0-9])?", re.ASCII)

#: The value of a key that could not be read.
_BAD: Final = object()


@frozen
class Loaded:
    """A configuration, and where each of its keys is (``auth.listen``)."""

    config: FileConfig
    places: Mapping[str, Place]
    file: str

    def problem(self, key: str, text: str) -> ConfigError:
        """Return an error about ``key``, or about what it should be in."""
        parts = key.split(".")
        while parts and ".".join(parts) not in self.places:
            parts.pop()
        where = self.places[".".join(parts)] if parts else self.file
        return ConfigError([f"{where}: {key}: {text}"])


def load(path: Path, kinds: Mapping[str, Collection[str]] | None = None) -> Loaded:
    """Read the file; raises :class:`ConfigError` with all problems.

    ``kinds`` are the kinds of plugins that exist, by key (``auth.store``).
    Relative paths in the file count from its folder.
    """
    try:
        text = path.read_text("utf-8")
    except UnicodeDecodeError:
        raise ConfigError([f"{path}: not UTF-8"]) from None
    except OSError as error:
        raise ConfigError([f"{path}: {error.strerror}"]) from None
    return parse(text, str(path), path.absolute().parent, kinds)


def parse(
    text: str, name: str, folder: Path, kinds: Mapping[str, Collection[str]] | None = None
) -> Loaded:
    """Read a configuration from ``text``; see :func:`load`."""
    problems: list[str] = []
    documents = find_documents(text, name, problems)
    if len(documents) != 1:
        if not problems:
            problems.append(f"{name}: expected one YAML document, found {len(documents)}")
        raise ConfigError(problems)
    reader = _Reader(folder, kinds or {}, problems)
    config = reader.section(FileConfig, documents[0], "")
    _check_whole(documents[0], reader, name)
    if problems:
        raise ConfigError(sorted(problems, key=_line_of))
    return Loaded(config, reader.places, name)


def _line_of(problem: str) -> int:
    match = re.match(r".*?:(\d+): ", problem)
    return int(match[1]) if match else 0


class _Reader:
    """Builds values; collects places and problems."""

    def __init__(
        self, folder: Path, kinds: Mapping[str, Collection[str]], problems: list[str]
    ) -> None:
        self._folder = folder
        self._kinds = kinds
        self._problems = problems
        self.places: dict[str, Place] = {}

    def fail(self, place: object, key: str, text: str) -> Any:
        """Note a problem and return the mark of a bad value."""
        self._problems.append(f"{place}: {key}: {text}" if key else f"{place}: {text}")
        return _BAD

    def section(self, cls: type[Any], value: Value, key: str) -> Any:
        """Build an attrs class from a mapping."""
        if value.value is None:  # ``node:`` with nothing under it means all defaults
            value = Value({}, value.place)
        if not isinstance(value.value, Mapping):
            return self.fail(value.place, key, f"expected keys and values, got {_called(value)}")
        hints = get_type_hints(cls)
        fields = attrs.fields_dict(cls)
        prefix = f"{key}." if key else ""
        for name in value.value:
            if name not in fields:
                near = get_close_matches(name, list(fields), 1)
                hint = f"; did you mean {near[0]}?" if near else ""
                self.fail(value.keys[name], f"{prefix}{_shown(name)}", f"unknown key{hint}")
        arguments: dict[str, Any] = {}
        for name, attribute in fields.items():
            full = prefix + name
            if name in value.value:
                self.places[full] = value.keys[name]
                given = value.value[name]
                arguments[name] = self._one(hints[name], attribute, given, full)
            elif attribute.default is attrs.NOTHING:
                arguments[name] = self.fail(self.places.get(key, value.place), full, "missing")
        if any(each is _BAD for each in arguments.values()):
            return _BAD
        return cls(**arguments)

    def _one(self, hint: Any, attribute: Any, value: Value, key: str) -> Any:
        built = self._read(hint, attribute, value, key)
        check = attribute.metadata.get("check")
        if built is not _BAD and built is not None and check and (wrong := check(built)):
            return self.fail(value.place, key, f"{_shown(str(value.plain))}: {wrong}")
        return built

    def _read(self, hint: Any, attribute: Any, value: Value, key: str) -> Any:
        if get_origin(hint) is UnionType:
            (hint,) = (each for each in get_args(hint) if each is not NoneType)
        if attrs.has(hint) and hint not in _SCALARS:
            return self.section(hint, value, key)
        if get_origin(hint) is tuple:
            return self._list(get_args(hint)[0], attribute, value, key)
        if get_origin(hint) is Mapping:
            return self._mapping(get_args(hint)[1], attribute, value, key)
        if isinstance(hint, EnumType):
            members: list[Any] = list(hint)
            if value.value not in [member.value for member in members]:
                usable = attribute.metadata.get("values", members)
                listed = ", ".join(member.value for member in usable)
                text = f"expected one of {listed}, got {_called(value)}"
                return self.fail(value.place, key, text)
            return hint(value.value)
        if hint is Path:
            return self._path(value, key)
        try:
            built = _SCALARS[hint](value, attribute.metadata.get("port", 0))
        except (ValueError, InvalidInput) as error:
            return self.fail(value.place, key, str(error))
        if isinstance(built, Chosen) and built.kind not in self._kinds.get(key, (built.kind,)):
            known = sorted(self._kinds[key])
            return self.fail(
                value.place,
                key,
                f"no plugin for {_shown(built.kind)}; there are {', '.join(known)}",
            )
        return built

    def _list(self, hint: Any, attribute: Any, value: Value, key: str) -> Any:
        if attribute.metadata.get("single") and isinstance(value.value, str):
            item = self._read(hint, attribute, value, key)
            return item if item is _BAD else (item,)
        if not isinstance(value.value, tuple):
            return self.fail(value.place, key, f"expected a list, got {_called(value)}")
        items = tuple(self._read(hint, attribute, each, key) for each in value.value)
        return _BAD if any(each is _BAD for each in items) else items

    def _mapping(self, hint: Any, attribute: Any, value: Value, key: str) -> Any:
        if not isinstance(value.value, Mapping):
            return self.fail(value.place, key, f"expected keys and values, got {_called(value)}")
        items = {
            name: self._read(hint, attribute, each, f"{key}.{_shown(name)}")
            for name, each in value.value.items()
        }
        return _BAD if any(each is _BAD for each in items.values()) else items

    def _path(self, value: Value, key: str) -> Any:
        if not isinstance(value.value, str) or not value.value or "\0" in value.value:
            return self.fail(value.place, key, f"expected a path, got {_called(value)}")
        return Path(os.path.normpath(self._folder / value.value))


def _shown(text: str) -> str:
    return text if _KIND.fullmatch(text.lower().replace("_", "-")) else quoted(text)


def _called(value: Value) -> str:
    """Describe a value, for "expected ..., got ..."."""
    match value.value:
        case None:
            return "nothing"
        case tuple():
            return "a list"
        case Mapping():
            return "keys and values"
        case bool():
            return f"{str(value.value).lower()} (quote it to make it a string)"
        case int() | float():
            return f"the number {value.value} (quote it to make it a string)"
    return quoted(value.value)


def _text(value: Value, _: int) -> str:
    if not isinstance(value.value, str):
        raise ValueError(f"expected a string, got {_called(value)}")
    return value.value


def _flag(value: Value, _: int) -> bool:
    if not isinstance(value.value, bool):
        raise ValueError(f"expected true or false, got {_called(value)}")
    return value.value


def _number(value: Value, _: int) -> int:
    if not isinstance(value.value, int) or isinstance(value.value, bool):
        raise ValueError(f"expected a number, got {_called(value)}")
    return value.value


def _network(value: Value, _: int) -> Network:
    text = _text(value, 0)
    try:
        ipaddress.ip_network(text)  # one without bits beside the network
        return Network(plain_network(text))
    except ValueError:
        raise ValueError(f"{quoted(text)} is not an address or a network") from None


def _duration(value: Value, _: int) -> timedelta:
    return parse_duration(_text(value, 0))


def _size(value: Value, _: int) -> Size:
    if value.value == 0 and not isinstance(value.value, bool):
        return Size(0)
    return read_size(_text(value, 0))


def _metrics(value: Value, default_port: int) -> MetricsAddress:
    text = _text(value, 0)
    if text == "off":
        return MetricsAddress(None)
    try:
        return MetricsAddress(read_address(text, default_port))
    except ValueError:
        raise ValueError(f"{quoted(text)} is not host:port or off") from None


def _address(value: Value, default_port: int) -> Address:
    return read_address(_text(value, 0), default_port)


def read_address(text: str, default_port: int = 0) -> Address:
    """Read ``host:port``, ``[v6]:port`` or, where there is a default, ``host``.

    Raises ValueError.
    """
    try:
        address = Address.parse(text, default_port or None, lowest_port=0)
    except InvalidInput:
        raise ValueError(f"{quoted(text)} is not host:port") from None
    if not _is_host(address.host):
        raise ValueError(f"{quoted(text)} is not host:port")
    return address


def _is_host(text: str) -> bool:
    if ":" not in text:
        return _HOST.fullmatch(text) is not None
    try:
        return ipaddress.ip_address(text).version == 6
    except ValueError:
        return False


def _chosen(value: Value, _: int) -> Chosen:
    text = _text(value, 0)
    kind, colon, arguments = text.partition(":")
    if _KIND.fullmatch(kind) is None or (colon and not arguments):
        raise ValueError(f"{quoted(text)} is not kind or kind:arguments")
    return Chosen(kind, arguments)


def _pins(value: Value, _: int) -> Pins:
    given = value.value if isinstance(value.value, tuple) else (value,)
    if not given:
        raise ValueError("expected at least one pin")
    return Pins(tuple(read_pin(_text(each, 0)) for each in given))


def _via(value: Value, _: int) -> EgressProxy:
    via = parse_proxy(_text(value, 0))
    if via.login is not None:
        raise ValueError("no user and password here: put them into a file, via_login_file")
    return via


_SCALARS: Final[Mapping[Any, Callable[[Value, int], Any]]] = {
    str: _text,
    bool: _flag,
    int: _number,
    timedelta: _duration,
    Size: _size,
    Address: _address,
    MetricsAddress: _metrics,
    Network: _network,
    Chosen: _chosen,
    Pins: _pins,
    EgressProxy: _via,
}


def _check_whole(document: Value, reader: _Reader, name: str) -> None:
    """Check rules about more than one key."""
    sections = _keys(document)
    if not {"auth", "proxy", "node"} & set(sections):
        reader.fail(name, "", "none of the sections auth, proxy and node: nothing to run")
    if "node" in sections:
        _check_node(sections["node"], reader)
    for key in ("proxy", "node"):
        if key not in sections:
            continue
        place, keys = document.keys[key], _keys(sections[key])
        if "join" not in keys:
            if "auth" not in sections:
                reader.fail(place, f"{key}.join", "missing: where is auth?")
            continue
        place, join = sections[key].keys["join"], _keys(keys["join"])
        if ("auth" in join) == ("proxy" in join):
            reader.fail(place, f"{key}.join", "give one of auth and proxy")
        if "token_file" in join and "ca_pin" not in join:
            reader.fail(place, f"{key}.join", "a token goes to a verified auth only: give ca_pin")
        if "via_login_file" in join and "via" not in join:
            reader.fail(place, f"{key}.join", "via_login_file is for via, which is missing")


def _check_node(node: Value, reader: _Reader) -> None:
    """Refuse keys of a node that have no effect beside others."""
    keys = _keys(node)
    tunnelled = "join" in keys and "proxy" in _keys(keys["join"])
    if "tunnels" in keys and not tunnelled:
        reader.fail(node.keys["tunnels"], "node.tunnels", "there are none without join.proxy")
    if "public_addr" in keys and tunnelled and "listen" not in keys:
        text = "nothing is bound without listen: remove it, or give listen"
        reader.fail(node.keys["public_addr"], "node.public_addr", text)
    if "labels" in keys and "commands" in keys:
        for name in _keys(keys["commands"]):
            if name in _keys(keys["labels"]):
                text = "this label is given in labels, too: remove one of them"
                place = keys["commands"].keys[name]
                reader.fail(place, f"node.commands.{_shown(name)}", text)


def _keys(value: Value) -> Mapping[str, Value]:
    return value.value if isinstance(value.value, Mapping) else {}
