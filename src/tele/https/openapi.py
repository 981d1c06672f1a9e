"""How is the API described to those who are not tele? As an OpenAPI 3.1 document.

Made from the table of operations and the attrs types, so that it cannot be wrong
about a name, a type or who may call.
"""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from enum import Enum
from typing import Any, Final

import attrs

from tele._version import VERSION
from tele.https.encoding import JSON, LINES, OCTETS, Kind, gives_octets, shape_of
from tele.model.api.operation import Anyone, Hosts, Operation, Permitted, Users, Who
from tele.model.event import Event

_PLAIN: Final[Mapping[Any, dict[str, Any]]] = {
    str: {"type": "string"},
    int: {"type": "integer", "format": "int64"},
    float: {"type": "number"},
    bool: {"type": "boolean"},
    bytes: {"type": "string", "contentEncoding": "base64"},
    datetime: {"type": "string", "format": "date-time"},
    timedelta: {"type": "string", "description": "a length of time such as 12h or 1h30m"},
    Any: {},
}


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
        "responses": {
            "200": {"description": "Done", "content": _answer(operation, schemas)},
            "default": {
                "description": "It failed",
                "content": {JSON: {"schema": _error(schemas)}},
            },
        },
    }
    if parameters := list(_parameters(operation, schemas)):
        described["parameters"] = parameters
    if body := _body(operation, schemas):
        described["requestBody"] = {"required": True, "content": body}
    return described


def _answer(operation: Operation[Any, Any], schemas: dict[str, Any]) -> dict[str, Any]:
    if gives_octets(operation):
        return {OCTETS: {"schema": {"type": "string", "format": "binary"}}}
    return {(LINES if operation.streams else JSON): {"schema": _of(operation.response, schemas)}}


def _parameters(
    operation: Operation[Any, Any], schemas: dict[str, Any]
) -> Iterable[dict[str, Any]]:
    shape = shape_of(operation)
    hints = typing.get_type_hints(operation.request)
    for name, _ in shape.path:
        yield {"name": name, "in": "path", "required": True, "schema": _of(hints[name], schemas)}
    for name, kind in shape.query.items():
        parameter = {
            "name": name,
            "in": "query",
            "required": _is_required(operation.request, name),
            "schema": _of(hints[name], schemas),
        }
        if kind is Kind.TEXTS:
            parameter["style"], parameter["explode"] = "form", True
        yield parameter


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


def _of(hint: Any, schemas: dict[str, Any]) -> dict[str, Any]:
    if hint in _PLAIN:
        return dict(_PLAIN[hint])
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is tuple:
        return {"type": "array", "items": _of(arguments[0], schemas)}
    if origin in (Mapping, dict):
        return {"type": "object", "additionalProperties": _of(arguments[1], schemas)}
    if origin in (types.UnionType, typing.Union):
        choices = [_of(a, schemas) for a in arguments if a is not types.NoneType]
        return {"anyOf": [*choices, {"type": "null"}]}
    name = hint.__name__
    if name not in schemas:
        schemas[name] = {}  # stands in while the type itself is being described
        if issubclass(hint, Enum):
            schemas[name] = {"type": "string", "enum": [member.value for member in hint]}
        else:
            fields = tuple(a.name for a in attrs.fields(hint))
            schemas[name] = {
                "description": inspect.cleandoc(hint.__doc__ or ""),
                **_object(hint, fields, schemas),
            }
    return {"$ref": f"#/components/schemas/{name}"}


def _object(cls: type, names: Iterable[str], schemas: dict[str, Any]) -> dict[str, Any]:
    hints = typing.get_type_hints(cls)
    described: dict[str, Any] = {
        "type": "object",
        "properties": {name: _of(hints[name], schemas) for name in names},
        "additionalProperties": False,
    }
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
