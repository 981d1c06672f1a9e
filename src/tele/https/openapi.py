"""How is the API described to those who are not tele? As an OpenAPI 3.1 document.

Made from the table of operations, the attrs types with their validators
(:mod:`tele.model.bounds`) and the rules by which values are read
(:mod:`tele.model.scalars`), so that it cannot be wrong about a name, a type, a bound or who
may call. A rule about more than one value is not in it: a response with status 400 states it.
"""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Iterable, Mapping
from enum import Enum
from types import MethodType
from typing import Any, Final

import attrs

from tele._version import VERSION
from tele.https.api_errors import KINDS_OF
from tele.https.encoding import JSON, LINES, OCTETS, Kind, gives_octets, shape_of
from tele.model.api.operation import Anyone, Hosts, Operation, Permitted, Users, Who
from tele.model.bounds import bounds_of
from tele.model.event import Event
from tele.model.names import NAME_PATTERN
from tele.model.scalars import SCHEMAS, whole
from tele.model.sizes import SIZE_SCHEMA, Size

_NULL: Final[Mapping[str, Any]] = {"type": "null"}
#: Which bounds count for values of which type.
_BOUNDS: Final[Mapping[str, frozenset[str]]] = {
    "string": frozenset({"maxLength", "pattern", "enum"}),
    "array": frozenset({"maxItems"}),
    "object": frozenset({"maxProperties"}),
    "integer": frozenset({"minimum", "maximum"}),
}
#: Statuses that only a request with a body has.
_OF_BODIES: Final = frozenset({411, 413, 415})
#: A status that no operation has: there is none for this method.
_OF_PATHS: Final = frozenset({405})


def who_may(who: Who) -> str:
    """Say in words who may call."""
    match who:
        case Anyone():
            return "anyone"
        case Hosts(roles):
            return " or ".join(role.value for role in roles)
        case Users():
            return "any user"
        case Permitted(resource, verb):
            return f"users who may {verb} {resource}"


def describe(table: Iterable[Operation[Any, Any]]) -> dict[str, Any]:
    """Return the document, ready for JSON."""
    schemas: dict[str, Any] = {}
    paths: dict[str, dict[str, Any]] = {}
    for operation in table:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(
            operation, schemas
        )
    return {
        "openapi": "3.1.0",
        "info": {"title": "tele auth", "version": VERSION},
        "paths": paths,
        "components": {
            "schemas": schemas,
            "responses": _failures(schemas),
            "securitySchemes": {"certificate": {"type": "mutualTLS"}},
        },
    }


def _operation(operation: Operation[Any, Any], schemas: dict[str, Any]) -> dict[str, Any]:
    may = "; ".join(who_may(who) for who in operation.who)
    open_to_all = any(isinstance(who, Anyone) for who in operation.who)
    described: dict[str, Any] = {
        "operationId": operation.name,
        "summary": operation.summary,
        "description": f"For {may}.",
        "security": [] if open_to_all else [{"certificate": []}],
    }
    if parameters := list(_parameters(operation, schemas)):
        described["parameters"] = parameters
    if body := _body(operation, schemas):
        named = shape_of(operation).body
        required = any(_is_required(operation.request, name) for name in named)
        described["requestBody"] = {"required": required, "content": body}
    statuses = [
        status
        for status in KINDS_OF
        if status not in _OF_PATHS and (body or status not in _OF_BODIES)
    ]
    answers = {"200": "Done"} | ({"206": "A part of it"} if operation.ranges else {})
    described["responses"] = {
        **{
            status: {"description": text, "content": _answer(operation, schemas)}
            for status, text in answers.items()
        },
        **({"416": {"description": "It is not so long"}} if operation.ranges else {}),
        **{str(each): {"$ref": f"#/components/responses/{_failure(each)}"} for each in statuses},
    }
    return described


def _failure(status: int) -> str:
    return f"Error{status}"


def _failures(schemas: dict[str, Any]) -> dict[str, Any]:
    """Describe what is answered to a request that failed, by name."""
    return {
        _failure(status): {
            "description": f"It failed; the kind is {' or '.join(kinds)}",
            "content": {JSON: {"schema": _error(schemas)}},
        }
        for status, kinds in KINDS_OF.items()
    }


def _answer(operation: Operation[Any, Any], schemas: dict[str, Any]) -> dict[str, Any]:
    if gives_octets(operation):
        return {OCTETS: {"schema": {"type": "string", "format": "binary"}}}
    return {(LINES if operation.streams else JSON): {"schema": _of(operation.response, schemas)}}


def _parameters(
    operation: Operation[Any, Any], schemas: dict[str, Any]
) -> Iterable[dict[str, Any]]:
    shape = shape_of(operation)
    hints = typing.get_type_hints(operation.request)
    for name, kind in shape.path:
        described = _attribute(operation.request, name, hints[name], schemas)
        if kind is not Kind.NUMBER:
            described |= {"pattern": whole(NAME_PATTERN)}
        yield {"name": name, "in": "path", "required": True, "schema": described}
    for name, kind in shape.query.items():
        described = _attribute(operation.request, name, hints[name], schemas)
        if "anyOf" in described:  # what is not there is None
            described = next(each for each in described["anyOf"] if each != _NULL)
        parameter = {
            "name": name,
            "in": "query",
            "required": _is_required(operation.request, name),
            "schema": described,
        }
        if kind is Kind.TEXTS:
            parameter["style"], parameter["explode"] = "form", True
        yield parameter
    for name in ("Range", "If-Range") if operation.ranges else ():
        yield {"name": name, "in": "header", "required": False, "schema": {"type": "string"}}


def _body(operation: Operation[Any, Any], schemas: dict[str, Any]) -> dict[str, Any]:
    shape = shape_of(operation)
    if shape.octets:
        return {OCTETS: {"schema": {"type": "string", "format": "binary"}}}
    if not shape.body:
        return {}
    if len(shape.body) == len(attrs.fields(operation.request)):
        return {JSON: {"schema": _of(operation.request, schemas)}}
    return {JSON: {"schema": _object(operation.request, shape.body, schemas)}}


def _is_required(cls: type, name: str) -> bool:
    return attrs.fields_dict(cls)[name].default is attrs.NOTHING


def _attribute(cls: type, name: str, hint: Any, schemas: dict[str, Any]) -> dict[str, Any]:
    """Describe an attribute: its type, and what its validator demands of such a type."""
    described = _of(hint, schemas)
    bounds = bounds_of(attrs.fields_dict(cls)[name])
    own = _BOUNDS.get(described.get("type", ""), frozenset())
    return described | {key: value for key, value in bounds.items() if key in own}


def _of(hint: Any, schemas: dict[str, Any]) -> dict[str, Any]:
    if hint is Any:
        return {}
    if hint is Size:
        return dict(SIZE_SCHEMA)
    if hint in SCHEMAS:
        return dict(SCHEMAS[hint])
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:  # ONE_OR_MORE
        several = _of(arguments[0], schemas)
        return {"anyOf": [several, several["items"]]}
    if origin is tuple:
        return {"type": "array", "items": _of(arguments[0], schemas)}
    if origin in (Mapping, dict):
        return {"type": "object", "additionalProperties": _of(arguments[1], schemas)}
    if origin in (types.UnionType, typing.Union):
        choices = [_of(a, schemas) for a in arguments if a is not types.NoneType]
        return {"anyOf": [*choices, dict(_NULL)]}
    name = hint.__name__
    if name not in schemas:
        schemas[name] = {}  # stands in while the type itself is being described
        if issubclass(hint, Enum):
            schemas[name] = {"type": "string"}
            if "UNKNOWN" not in hint.__members__:  # what a newer peer sends fits there
                schemas[name]["enum"] = [member.value for member in hint]
        else:
            fields = tuple(a.name for a in attrs.fields(hint))
            schemas[name] = {
                "description": inspect.cleandoc(hint.__doc__ or ""),
                **_object(hint, fields, schemas),
            }
    return {"$ref": f"#/components/schemas/{name}"}


def _object(cls: type, names: Iterable[str], schemas: dict[str, Any]) -> dict[str, Any]:
    hints = typing.get_type_hints(cls, include_extras=True)
    described: dict[str, Any] = {
        "type": "object",
        "properties": {name: _attribute(cls, name, hints[name], schemas) for name in names},
        "additionalProperties": False,
    }
    if isinstance(whole_value := getattr(cls, "schema", None), MethodType):
        described |= whole_value()
    if cls is Event:  # what belongs to one kind of event stands beside the rest
        del described["properties"]["fields"]
        described["additionalProperties"] = True
    if required := [name for name in names if _is_required(cls, name)]:
        described["required"] = required
    return described


def _error(schemas: dict[str, Any]) -> dict[str, Any]:
    text = {"type": "string"}
    schemas["Error"] = {
        "type": "object",
        "required": ["error"],
        "properties": {
            "error": {
                "type": "object",
                "required": ["kind", "message"],
                "properties": {"kind": text, "message": text, "reason": text},
            }
        },
    }
    return {"$ref": "#/components/schemas/Error"}
