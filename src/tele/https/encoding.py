"""How do the request and the response of an operation become HTTP, and back?

Invariants:

* One description of a request type (:class:`Shape`) drives client and server, so
  that they cannot disagree. See :mod:`tele.model.api.operation` for the rules.
* What a peer sent is checked in full before a value exists; every mistake is
  :class:`tele.errors.InvalidInput` with the name of the place.
* A path holds names and numbers only: nothing in it can climb out of a folder.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from functools import cache
from types import NoneType, UnionType
from typing import Any, Final, Union, get_args, get_origin, get_type_hints
from urllib.parse import parse_qsl, quote, unquote_to_bytes, urlencode

import attrs
from attrs import frozen

from tele.errors import InvalidInput, quoted
from tele.https.api_errors import unreadable
from tele.https.ranges import RANGE_FIELDS, range_header
from tele.model.api.operation import Operation, Written
from tele.model.codec import (
    decode,
    encode,
    encode_large,
    encode_plain,
    from_json,
    read_json,
    to_json,
)
from tele.model.names import NAME_PATTERN
from tele.model.scalars import SCALAR_LIMIT

JSON: Final = "application/json"
OCTETS: Final = "application/octet-stream"
LINES: Final = "application/x-ndjson"

#: Attributes in a query, at most; also bounds the elements of a list there.
QUERY_LIMIT: Final = 200

_NAME = re.compile(NAME_PATTERN, re.ASCII)
_NUMBER = re.compile(r"0|-?[1-9][0-9]*", re.ASCII)


class Kind(Enum):
    """How one attribute is written in a path or a query."""

    TEXT = "text"  # strings, enumerations, times, lengths of time
    NUMBER = "number"
    FLAG = "flag"
    TEXTS = "texts"  # a repeated parameter


@frozen
class Shape:
    """Where each attribute of a request goes. ``octets``: the body is ``data``."""

    path: tuple[tuple[str, Kind], ...]
    query: Mapping[str, Kind]
    body: tuple[str, ...]
    octets: bool


@cache
def shape_of(operation: Operation[Any, Any]) -> Shape:
    """Return where the attributes of the operation's request go."""
    hints = get_type_hints(operation.request)
    names = [a.name for a in attrs.fields(operation.request)]
    if operation.ranges:
        names = [name for name in names if name not in RANGE_FIELDS]
    path = tuple((name, _kind(hints[name])) for name in operation.path_fields)
    octets = "data" in names and hints["data"] is bytes
    rest = [n for n in names if n not in operation.path_fields and not (octets and n == "data")]
    in_query = octets or operation.method in ("GET", "DELETE")
    return Shape(
        path=path,
        query={name: _kind(hints[name]) for name in rest} if in_query else {},
        body=() if in_query else tuple(rest),
        octets=octets,
    )


def takes_octets(operation: Operation[Any, Any]) -> bool:
    """Whether the body is one attribute ``data`` of bytes, sent as it is."""
    return shape_of(operation).octets


def gives_octets(operation: Operation[Any, Any]) -> bool:
    """Whether the response is one attribute ``data`` of bytes, sent as it is."""
    return operation.ranges or [a.name for a in attrs.fields(operation.response)] == ["data"]


def _kind(hint: Any) -> Kind:
    if get_origin(hint) in (UnionType, Union):
        (hint,) = (a for a in get_args(hint) if a is not NoneType)
    if hint is int:
        return Kind.NUMBER
    if hint is bool:
        return Kind.FLAG
    if get_origin(hint) is tuple:
        return Kind.TEXTS
    return Kind.TEXT


# -- requests -------------------------------------------------------------------------
@frozen
class Encoded:
    """A request ready to be sent. ``target`` is path and query, ASCII."""

    target: str
    body: bytes
    content_type: str
    range: str = ""


def encode_request(operation: Operation[Any, Any], request: Any) -> Encoded:
    """Write ``request`` down. Raises :class:`InvalidInput` if the body is over the limit."""
    if isinstance(request, Written):
        body = request.body
        _check_size(operation, body)
        return Encoded(operation.path, body, JSON)
    shape = shape_of(operation)
    # Octets are sent as they are: they have no form in JSON.
    plain = to_json(attrs.evolve(request, data=b"") if shape.octets else request)
    for name, kind in shape.path:
        _checked_segment(name, kind, str(plain[name]))
    target = re.sub(r"\{(\w+)\}", lambda m: quote(str(plain[m[1]]), safe=""), operation.path)
    # An attribute that has its default is left out: old servers need not know it.
    query = [
        (name, text)
        for name, kind in shape.query.items()
        if getattr(request, name) != _default(operation.request, name)
        for text in _texts(kind, plain[name])
    ]
    if query:
        target += "?" + urlencode(query)
    if shape.octets:
        body, content_type = request.data, OCTETS
    elif shape.body:
        given = {name: plain[name] for name in shape.body if name in plain}
        body, content_type = encode_plain(given), JSON
    else:
        body, content_type = b"", ""
    _check_size(operation, body)
    wanted = range_header(request) if operation.ranges else ""
    return Encoded(target, body, content_type, wanted)


def _check_size(operation: Operation[Any, Any], body: bytes) -> None:
    if len(body) > operation.limit:
        raise InvalidInput(
            f"{operation.name}: a request of {len(body)} bytes is over the limit of "
            f"{operation.limit}"
        )


def _default(cls: type, name: str) -> Any:
    default: Any = attrs.fields_dict(cls)[name].default
    return default.factory() if hasattr(default, "factory") else default


def _texts(kind: Kind, value: Any) -> Sequence[str]:
    if kind is Kind.TEXTS:
        return [str(v) for v in value]
    if kind is Kind.FLAG:
        return ["true" if value else "false"]
    return [] if value is None else [str(value)]


def decode_request(
    operation: Operation[Any, Any], path: Mapping[str, str], query: bytes, body: bytes
) -> Any:
    """Read a request; ``path`` holds the path's fields as :mod:`tele.https.routes` found them."""
    shape = shape_of(operation)
    plain: dict[str, Any] = {
        name: _checked_segment(name, kind, path[name]) for name, kind in shape.path
    }
    plain.update(_read_query(shape, query))
    if shape.octets:
        plain["data"] = body
    elif shape.body:
        sent = read_json(body) if body else {}
        if not isinstance(sent, dict):
            raise InvalidInput(f"top level: expected a mapping, got {type(sent).__name__}")
        if clash := sorted(set(sent) & set(plain)):
            raise InvalidInput(f"{clash[0]}: is part of the path, not of the body")
        plain.update(sent)
    elif body:
        raise InvalidInput("this operation takes no body")
    return from_json(operation.request, plain)


def unreadable_body(
    operation: Operation[Any, Any], headers: Callable[[str], Sequence[str] | None]
) -> str:
    """Return what is wrong with how a body is announced, or nothing.

    ``headers(name)`` are the values of a header. JSON has to be called so: a page in a browser
    could send other types without being asked.
    """
    wanted = OCTETS if shape_of(operation).octets else JSON
    sent = (headers("content-type") or [""])[-1].partition(";")[0].strip().lower()
    if sent != wanted and (sent or wanted == JSON):
        return f"the body has to be {wanted}, and its content-type to say so"
    if headers("content-encoding"):
        return "the body has to come as it is, without a content-encoding"
    return ""


def _checked_segment(name: str, kind: Kind, text: str) -> str | int:
    if kind is Kind.NUMBER:
        return _number(name, text)
    if _NAME.fullmatch(text) is None:
        raise InvalidInput(
            f"{name}: {quoted(text)} is not a name (letters, digits and ._@- between them, "
            "128 at most)"
        )
    return text


def _number(name: str, text: str) -> int:
    if _NUMBER.fullmatch(text) is None:
        raise InvalidInput(f"{name}: {quoted(text)} is not a whole number such as 12")
    if len(text) > SCALAR_LIMIT:
        raise InvalidInput(f"{name}: {quoted(text)} is out of range")
    return int(text)


def _read_query(shape: Shape, query: bytes) -> dict[str, Any]:
    try:
        pairs = parse_qsl(
            query.decode("ascii"),
            keep_blank_values=True,
            strict_parsing=True,
            errors="strict",
            max_num_fields=QUERY_LIMIT,
        ) if query else []  # fmt: skip
    except ValueError as error:
        raise InvalidInput(f"the query cannot be read: {error}") from None
    plain: dict[str, Any] = {}
    for name, text in pairs:
        kind = shape.query.get(name)
        if kind is None:
            raise InvalidInput(f"query: unknown key {quoted(name)}")
        if kind is Kind.TEXTS:
            plain.setdefault(name, []).append(text)
            continue
        if name in plain:
            raise InvalidInput(f"{name}: given twice")
        if kind is Kind.NUMBER:
            plain[name] = _number(name, text)
        elif kind is Kind.FLAG:
            if text not in ("true", "false"):
                raise InvalidInput(f"{name}: {quoted(text)} is neither true nor false")
            plain[name] = text == "true"
        else:
            plain[name] = text
    return plain


def unquote_segment(segment: str) -> str:
    """Return a path segment without its percent signs; raises :class:`InvalidInput`."""
    try:
        return unquote_to_bytes(segment).decode("utf-8")
    except UnicodeDecodeError:
        raise InvalidInput(f"the path has a part {quoted(segment)} that is not UTF-8") from None


# -- responses ------------------------------------------------------------------------
def encode_response(operation: Operation[Any, Any], response: Any) -> tuple[bytes, str]:
    """Return the body and its type."""
    if gives_octets(operation):
        data: bytes = response.data
        return data, OCTETS
    return encode(response), JSON


def encode_large_response(response: Any) -> tuple[bytes, str]:
    """Return what :func:`encode_response` does for JSON, in a thread."""
    return encode_large(response), JSON


def decode_response(operation: Operation[Any, Any], body: bytes) -> Any:
    """Read what :func:`encode_response` wrote; raises :class:`TeleError`."""
    if gives_octets(operation):
        return operation.response(data=body)
    try:
        return decode(operation.response, body)
    except InvalidInput as error:
        raise unreadable(operation, error) from None
