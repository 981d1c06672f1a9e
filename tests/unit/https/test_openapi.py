"""The published description says what the server enforces: each bound of it is tried."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlencode

import pytest
from attrs import field, fields, frozen
from attrs.validators import max_len

from tele.errors import InvalidInput
from tele.https.api_errors import KINDS_OF, status_of
from tele.https.encoding import decode_request, shape_of
from tele.https.openapi import describe
from tele.model.api import table
from tele.model.api.hosts import ListHosts
from tele.model.api.operation import Operation
from tele.model.api.table import OPERATIONS
from tele.model.bounds import bounds_of
from tele.model.codec import decode, format_duration, parse_duration, parse_time, read_json
from tele.model.names import HOST_NAME_PATTERN, NAME_PATTERN
from tele.model.resources import Metadata, Role
from tele.model.scalars import SCHEMAS, whole
from tele.model.sizes import SIZE_SCHEMA

DOCUMENT = describe(OPERATIONS.values())
SCHEMAS_OF = DOCUMENT["components"]["schemas"]
BIG = 2**63 - 1
#: Texts that match each pattern of the document, and texts that do not.
TEXTS: Mapping[str, tuple[list[str], list[str]]] = {
    whole(NAME_PATTERN): (
        ["a", "a" * 128, "a.b_c@d-e", "0"], ["", "-a", "a" * 129, "a/b", "ä", "a\n"],
    ),
    whole(HOST_NAME_PATTERN): (["a", "a" * 128, "a.b_c-e"], ["", "-a", "a@b", "a" * 129, "a\n"]),
    SCHEMAS[bytes]["pattern"]: (
        ["", "AA==", "AAA=", "AAAA"], ["A", "AA=", "AAAA==", "A A=", "A\n"],
    ),
    SIZE_SCHEMA["pattern"]: (
        ["1MiB", "0", "999999TiB"], ["", "1", "1MB", "1 MiB", "1.5MiB", "1234567KiB", "1MiB\n"],
    ),
    DOCUMENT["components"]["schemas"]["TimeWindow"]["properties"]["start"]["pattern"]: (
        ["00:00", "23:59", "24:00"], ["", "24:01", "9:00", "09:60", "09:00\n", "0900"],
    ),
    SCHEMAS[timedelta]["pattern"]: (
        ["1h30m", "0s", "99999999d999999999h999999999m", "1.5s", "0.000001s"],
        ["", "h", "1", "-1h", "1w", "1h1d", "1.5h", "100000000d", "1.0000001s", "1h\n", "1H"],
    ),
    SCHEMAS[datetime]["pattern"]: (
        ["2026-11-24T12:00:00Z", "2026-11-24t12:00:00.25+01:00", "0001-01-01T00:00:00Z"],
        ["", "2026-11-24", "2026-11-24T12:00:00", "20261124T120000Z", "2026-W48-2T00:00:00Z",
         "2026-11-24 12:00:00Z", "2026-11-24T12:00:00Z\n", "2026-11-24T12:00Z"],
    ),
}  # fmt: skip


def resolved(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """Follow references."""
    while "$ref" in schema:
        schema = SCHEMAS_OF[schema["$ref"].rpartition("/")[2]]
    return schema


def good(schema: Mapping[str, Any]) -> list[Any]:
    """Values that the document allows, those at the edges of it first."""
    schema = resolved(schema)
    if "oneOf" in schema:  # exactly one of its attributes
        return [{name: "x"} for branch in schema["oneOf"] for name in branch["required"]]
    if "anyOf" in schema:
        values = [value for each in schema["anyOf"] for value in good(each)]
        return [None, *values] if None in values else values
    if "enum" in schema:
        return list(schema["enum"])
    match schema.get("type"):
        case "integer":
            return [schema["minimum"], schema["maximum"]]
        case "boolean":
            return [True, False]
        case "null":
            return [None]
        case "string" if "pattern" in schema:
            return TEXTS[schema["pattern"]][0]
        case "string":
            return ["x" * schema.get("maxLength", 8), "", 'ä\0"\n']
        case "array":
            (element, *_) = good(schema["items"])
            return [[element] * min(schema.get("maxItems", 3), 40), []]
        case "object" if isinstance(schema.get("additionalProperties"), Mapping):
            element, *_ = good(schema["additionalProperties"])
            many = {f"k{at}": element for at in range(schema.get("maxProperties", 2))}
            return [many, {}]
        case "object":
            whole_of = {name: good(each)[0] for name, each in schema["properties"].items()}
            least = {name: whole_of[name] for name in schema.get("required", ())}
            return [whole_of, least]
    assert schema == {}, schema
    return [1, "x", None, [1], {"a": BIG}]


def bad(schema: Mapping[str, Any]) -> Iterator[Any]:
    """Values that the document does not allow, each for one reason."""
    schema = resolved(schema)
    if "anyOf" in schema:
        types = {each.get("type") for each in schema["anyOf"]}
        # What one of them allows, and another does not.
        allowed = ["x", ["x"]] if types == {"array", "string"} else [None]
        yield from (
            value for each in schema["anyOf"] for value in bad(each) if value not in allowed
        )
        return
    if "oneOf" in schema:
        names = [branch["required"][0] for branch in schema["oneOf"]]
        yield {}
        yield {names[0]: "x", names[1]: "y"}
        yield {names[0]: ""}
        yield {names[0]: None}
        yield {"nothing": "x"}
        return
    match schema.get("type"):
        case "integer":
            yield from (schema["minimum"] - 1, schema["maximum"] + 1, 10**40, 1.5, 1e3, True, "1")
        case "boolean":
            yield from (0, 1, "true", None)
        case "string":
            yield from (1, True, None, ["x"], {})
            if "enum" in schema:
                yield "no such value"
            if "pattern" in schema:
                yield from TEXTS[schema["pattern"]][1]
            if "maxLength" in schema:
                yield "x" * (schema["maxLength"] + 1)
        case "array":
            element, *_ = good(schema["items"])
            yield from ("x", {}, None, 1)
            if "maxItems" in schema:
                yield [element] * (schema["maxItems"] + 1)
            yield from ([element, each] for each in bad(schema["items"]))
        case "object" if isinstance(schema.get("additionalProperties"), Mapping):
            yield from ([], "x", None)
            element, *_ = good(schema["additionalProperties"])
            if "maxProperties" in schema:
                yield {f"k{at}": element for at in range(schema["maxProperties"] + 1)}
            yield from ({"k": each} for each in bad(schema["additionalProperties"]))
        case "object":
            yield from ([], "x", None)
            most, least = good(schema)
            if schema["additionalProperties"] is False:
                yield {**most, "no-such-key": 1}
            for name in schema.get("required", ()):
                yield {key: value for key, value in most.items() if key != name}
            for name, each in schema["properties"].items():
                yield from ({**least, name: value} for value in bad(each))


def described(operation: Operation[Any, Any]) -> Mapping[str, Any]:
    found: Mapping[str, Any] = DOCUMENT["paths"][operation.path][operation.method.lower()]
    return found


def parameters(operation: Operation[Any, Any], where: str) -> dict[str, Mapping[str, Any]]:
    return {
        each["name"]: each["schema"]
        for each in described(operation).get("parameters", ())
        if each["in"] == where
    }


def body_of(operation: Operation[Any, Any]) -> Mapping[str, Any] | None:
    content = described(operation).get("requestBody", {}).get("content", {})
    schema: Mapping[str, Any] | None = content.get("application/json", {}).get("schema")
    return schema


def written(value: Any) -> list[str]:
    """A value as a query says it."""
    if isinstance(value, list):
        return [text for each in value for text in written(each)]
    return [json.dumps(value) if isinstance(value, bool) else str(value)]


def query_of(values: Mapping[str, Any]) -> bytes:
    pairs = [(name, text) for name, value in values.items() for text in written(value)]
    return urlencode(pairs).encode()


def path_of(operation: Operation[Any, Any]) -> dict[str, str]:
    return {name: written(good(each)[0])[0] for name, each in parameters(operation, "path").items()}


ALL = list(OPERATIONS.values())
WITH_BODY = [each for each in ALL if body_of(each) is not None]


@pytest.mark.parametrize("operation", WITH_BODY, ids=lambda o: o.name)
def test_every_body_that_the_document_allows_is_read(operation: Operation[Any, Any]) -> None:
    """All attributes at the edges of their bounds, and the required ones alone."""
    schema = body_of(operation)
    assert schema is not None
    for value in good(schema):
        decode_request(operation, path_of(operation), b"", json.dumps(value).encode())
    whole_of, _ = good(schema)
    for name, each in resolved(schema)["properties"].items():
        for value in good(each):
            body = json.dumps({**whole_of, name: value}).encode()
            decode_request(operation, path_of(operation), b"", body)


@pytest.mark.parametrize("operation", WITH_BODY, ids=lambda o: o.name)
def test_no_body_that_the_document_forbids_is_read(operation: Operation[Any, Any]) -> None:
    """One wrong type, bound, pattern, missing or unknown key at a time, at any depth."""
    schema = body_of(operation)
    assert schema is not None
    tried = 0
    for value in bad(schema):
        with pytest.raises(InvalidInput):
            decode_request(operation, path_of(operation), b"", json.dumps(value).encode())
            pytest.fail(f"{operation.name} took {value!r}")
        tried += 1
    assert tried > 3


@pytest.mark.parametrize("operation", WITH_BODY, ids=lambda o: o.name)
def test_a_body_is_required_where_it_is_missed(operation: Operation[Any, Any]) -> None:
    """Without a body a request is read exactly where the document says that it may be left out."""
    if described(operation)["requestBody"]["required"]:
        with pytest.raises(InvalidInput, match="missing"):
            decode_request(operation, path_of(operation), b"", b"")
    else:
        decode_request(operation, path_of(operation), b"", b"")


@pytest.mark.parametrize("operation", ALL, ids=lambda o: o.name)
def test_parameters_are_read_as_described(operation: Operation[Any, Any]) -> None:
    """In the path and in the query each value at the edge is read and each beyond it refused."""
    body = (
        b""
        if body_of(operation) is None
        else json.dumps(good(body_of(operation) or {})[0]).encode()
    )
    path, query = parameters(operation, "path"), parameters(operation, "query")
    assert set(query) == set(shape_of(operation).query)
    required = {
        name: good(schema)[0]
        for name, schema in query.items()
        if name in {p["name"] for p in described(operation).get("parameters", ()) if p["required"]}
    }
    for name, schema in path.items():
        for value in good(schema):
            sent = path_of(operation) | {name: written(value)[0]}
            decode_request(operation, sent, query_of(required), body)
        for value in bad(schema):
            if isinstance(value, str | int | float) and not isinstance(value, bool):
                sent = path_of(operation) | {name: str(value)}
                if resolved(schema).get("type") == "integer" and str(value) == "1":
                    continue  # in a path a number is a text
                if resolved(schema).get("type") == "string" and str(value) == "1":
                    continue
                with pytest.raises(InvalidInput):
                    decode_request(operation, sent, query_of(required), body)
    for name, schema in query.items():
        for value in good(schema):
            decode_request(operation, path_of(operation), query_of({**required, name: value}), body)
        kind = resolved(schema)
        for value in bad(schema):
            if kind.get("type") == "integer" and isinstance(value, int | float) and value != 1:
                with pytest.raises(InvalidInput, match=name):
                    decode_request(
                        operation, path_of(operation), query_of({**required, name: value}), body
                    )
            if ("pattern" in kind or "enum" in kind) and isinstance(value, str):
                with pytest.raises(InvalidInput, match=name):
                    decode_request(
                        operation, path_of(operation), query_of({**required, name: value}), body
                    )


@pytest.mark.parametrize("operation", ALL, ids=lambda o: o.name)
def test_every_answer_to_a_failure_is_described(operation: Operation[Any, Any]) -> None:
    """All statuses that an error can have are there, with the kinds that come with them."""
    answers = described(operation)["responses"]
    has_body = "requestBody" in described(operation)
    wanted = {str(each) for each in KINDS_OF if each != 405} - (
        set() if has_body else {"411", "413", "415"}
    )
    done = {"200", "206", "416"} if operation.ranges else {"200"}
    assert set(answers) == done | wanted
    for status in wanted:
        name = answers[status]["$ref"].rpartition("/")[2]
        text = DOCUMENT["components"]["responses"][name]["description"]
        assert all(kind in text for kind in KINDS_OF[int(status)])
    assert str(status_of(InvalidInput("x"))) in answers


def test_what_cannot_be_described_does_not_exist() -> None:
    """A validator of another kind is an error in the program, not an undocumented bound."""

    @frozen
    class Odd:
        name: str = field(default="", validator=max_len(3))

    with pytest.raises(TypeError, match="cannot be described"):
        bounds_of(fields(Odd).name)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "9223372036854775808",
            "metadata.revision: 9223372036854775808 is out of range: from",
        ),
        ("1234567890123456789012345", "metadata.revision: .* is out of range"),
        ("9" * 65, "not JSON: number .* is out of range"),
        ("-1", "metadata.revision: -1 is out of range: from 0 to 9223372036854775807"),
        ("1e3", "metadata.revision: expected int, got float 1000.0: write it without a point"),
        ("1.0", "metadata.revision: expected int, got float 1.0"),
        ("-0.0", "metadata.revision: expected int, got float -0.0"),
        ("1e999", "not JSON: number '1e999' is out of range"),
        ("1e" + "9" * 70, "not JSON: number .* is out of range"),
        ("NaN", "not JSON: NaN is not a number"),
        ("-Infinity", "not JSON: -Infinity is not a number"),
        ("true", "metadata.revision: expected int, got bool"),
        ("null", "metadata.revision: expected int, got NoneType"),
        ('"1"', "metadata.revision: expected int, got str"),
        ('1, "revision": 2', "not JSON: key 'revision' is given twice"),
        ("01", "not JSON"),
        ("+1", "not JSON"),
        ("0x10", "not JSON"),
    ],
)
def test_each_wrong_number_has_its_error(text: str, said: str) -> None:
    """Out of range, not whole, not finite, no number, given twice: each says which, and where."""
    data = b'{"metadata": {"name": "x", "revision": %b}}' % text.encode()
    with pytest.raises(InvalidInput, match=said):
        decode(Role, data)


@pytest.mark.parametrize("text", ["0", "-0", "1000000000000000000", "9223372036854775807"])
def test_every_number_of_64_bits_is_read(text: str) -> None:
    """Also those of 19 digits."""
    assert decode(Metadata, b'{"name": "x", "revision": %b}' % text.encode()).revision == int(text)


def test_numbers_in_what_may_be_anything_are_bounded() -> None:
    """An event's own keys hold no number that another reader could not hold, at any depth."""
    start = (
        b'{"id": "1", "time": "2026-11-24T12:00:00Z", "event": "exec", "code": "c", "cluster": "c"'
    )
    events = b'{"events": [%b, "x": [{"y": %d}]}]}'
    decode_request(table.EMIT_EVENTS, {}, b"", events % (start, BIG))
    with pytest.raises(InvalidInput, match="out of range"):
        decode_request(table.EMIT_EVENTS, {}, b"", events % (start, BIG + 1))
    assert read_json(b"[9223372036854775808]") == [BIG + 1]


@pytest.mark.parametrize(
    ("query", "said"),
    [
        (b"limit=1001", "limit: 1001 is out of range: from 1 to 1000"),
        (b"limit=0", "limit: 0 is out of range"),
        (b"limit=9223372036854775808", "limit: 9223372036854775808 is out of range"),
        (b"limit=" + b"9" * 5000, "limit: .* is out of range"),
        (b"limit=1e2", "limit: '1e2' is not a whole number"),
        (b"limit=1.0", "limit: '1.0' is not a whole number"),
        (b"limit=-0", "limit: '-0' is not a whole number"),
        (b"limit=007", "limit: '007' is not a whole number"),
        (b"limit=%D9%A3", "limit: .* is not a whole number"),
        (b"limit=", "limit: '' is not a whole number"),
        (b"limit=true", "limit: 'true' is not a whole number"),
        (b"limit=1&limit=1", "limit: given twice"),
        (b"labels=a=b&" * 32 + b"labels=a=b", "labels: 33 elements are too many: 32 at most"),
    ],
)
def test_each_wrong_query_has_its_error(query: bytes, said: str) -> None:
    """The same of numbers in a query."""
    with pytest.raises(InvalidInput, match=said) as caught:
        decode_request(table.LIST_HOSTS, {}, query, b"")
    assert len(str(caught.value)) < 400


def test_a_bound_holds_for_all_that_make_a_request() -> None:
    """Not only for what comes as JSON."""
    with pytest.raises(InvalidInput, match=r"^limit: 0 is out of range: from 1 to 1000$"):
        ListHosts(limit=0)


@pytest.mark.parametrize("micro", [1, 10, 123_456, 500_000, 59_999_999, 86_400_000_001])
def test_fractions_of_seconds_round_trip(micro: int) -> None:
    """What is printed of a length of time is what is read, to the microsecond."""
    value = timedelta(microseconds=micro)
    assert parse_duration(format_duration(value)) == value


@pytest.mark.parametrize(
    "text", ["2026-02-30T00:00:00Z", "2026-01-01T24:00:01Z", "0001-01-01T00:00:00+23:59",
             "9999-12-31T23:59:59-23:59", "0000-01-01T00:00:00Z", "2026-01-01T00:00:00+99:00"],
)  # fmt: skip
def test_times_that_do_not_exist_are_refused(text: str) -> None:
    """Days, hours and years that there are not are errors, not another exception."""
    with pytest.raises(ValueError, match=r"range|must be|hour|offset|time"):
        parse_time(text)
