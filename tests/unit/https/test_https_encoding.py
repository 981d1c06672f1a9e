"""Requests and responses encoded and decoded, errors included: pure, no sockets."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tele import errors
from tele.audit.chain import event
from tele.errors import BY_KIND, AccessDenied, BadCertificate, InvalidInput, TeleError
from tele.https.api_errors import decode_error, encode_error, read_line, status_of
from tele.https.encoding import (
    decode_request,
    decode_response,
    encode_request,
    encode_response,
    gives_octets,
    shape_of,
)
from tele.https.openapi import describe
from tele.https.ranges import RANGE_FIELDS
from tele.https.routes import NoRoute, Route, Routes
from tele.model.access import Reason
from tele.model.api import table
from tele.model.api.audit import EmitEvents, ListEvents, WrittenEvents
from tele.model.api.hosts import ListHosts
from tele.model.api.operation import Octets, Operation
from tele.model.api.paging import ById
from tele.model.api.recordings import GetChunk, PutChunk
from tele.model.api.table import OPERATIONS
from tele.model.codec import encode
from tele.model.identity import HostRole

ALL = list(OPERATIONS.values())
ROUTES = Routes(ALL)
AT = datetime(2026, 1, 1, tzinfo=UTC)


def carried(operation: Operation[Any, Any], request: Any) -> Any:
    """Send a request through encoding, routing and decoding."""
    encoded = encode_request(operation, request)
    path, _, query = encoded.target.partition("?")
    route = ROUTES.find(operation.method, path)
    assert isinstance(route, Route)
    assert route.operation is operation
    return decode_request(operation, route.path, query.encode("ascii"), encoded.body)


def test_spooled_events_are_sent_as_they_are() -> None:
    """A host sends lines of its spool without reading them, and auth reads the same events."""
    events = tuple(event("sftp", f"id-{n}", AT, "example", path="/\u00e9") for n in range(3))
    lines = [encode(each) for each in events]
    written = WrittenEvents(lines)
    assert encode_request(table.EMIT_EVENTS, written) == encode_request(
        table.EMIT_EVENTS, EmitEvents(events)
    )
    assert carried(table.EMIT_EVENTS, written) == EmitEvents(events)
    assert written.events == events


def test_spooled_events_over_the_limit_are_not_sent() -> None:
    """The limit of a request holds for one that was written down before, too."""
    line = encode(event("sftp", "id", AT, "example", path="x" * 200_000))
    with pytest.raises(InvalidInput, match="over the limit"):
        encode_request(table.EMIT_EVENTS, WrittenEvents([line] * 6))


def test_a_damaged_line_is_no_event() -> None:
    """Auth in this process refuses a line that it would refuse on the wire."""
    with pytest.raises(InvalidInput):
        _ = WrittenEvents([b"{}"]).events


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@given(st.sampled_from(list(HostRole)), st.lists(texts, max_size=5), st.integers(1, 1000), texts)
def test_any_query_is_decoded(role: HostRole, labels: list[str], limit: int, after: str) -> None:
    """Whatever texts hold, what the server reads is what the client meant."""
    request = ListHosts(role, tuple(labels), limit, after)
    assert carried(table.LIST_HOSTS, request) == request


@given(
    st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9._@-]{0,126}[A-Za-z0-9])?", fullmatch=True),
    st.integers(0, 9_999_999),
)
def test_any_path_is_decoded(name: str, number: int) -> None:
    """Names and numbers of a path too, with octets as the body."""
    request = PutChunk(name, number, b"\x00\xff")
    assert carried(table.PUT_CHUNK, request) == request


def test_optional_times_and_flags_in_a_query() -> None:
    """What has its default is left out; times and flags are read back."""
    request = ListEvents(since=datetime(2026, 11, 24, 12, tzinfo=UTC), newest=True)
    assert carried(table.LIST_EVENTS, request) == request
    assert encode_request(table.LIST_EVENTS, ListEvents()).target == "/v1/events"


@pytest.mark.parametrize("operation", ALL, ids=lambda o: o.name)
def test_every_row_can_travel(operation: Operation[Any, Any]) -> None:
    """Each attribute of each request type has exactly one place, of a kind that can be written."""
    shape = shape_of(operation)
    placed = [name for name, _ in shape.path] + list(shape.query) + list(shape.body)
    names = [a.name for a in attrs.fields(operation.request)]
    in_headers = list(RANGE_FIELDS) * operation.ranges
    assert sorted(placed + in_headers + ["data"] * shape.octets) == sorted(names)
    assert not (shape.octets and shape.body)
    if gives_octets(operation):
        assert decode_response(operation, b"\x00").data == b"\x00"


@pytest.mark.parametrize("name", ["", "..", ".", "a/b", "a\\b", "-a", "a\n", "\u00e9", "a" * 129])
def test_the_client_sends_no_bad_names(name: str) -> None:
    """A name that the server would refuse does not become a path at all."""
    with pytest.raises(InvalidInput, match="is not a name"):
        encode_request(table.GET_RECORDING, ById(name))


@given(st.binary(max_size=300))
def test_no_query_and_no_body_breaks_the_reader(data: bytes) -> None:
    """Arbitrary bytes are a value or InvalidInput, nothing else."""
    for operation, path in ((table.LIST_HOSTS, {}), (table.LOGIN, {}), (table.GET_CHUNK, {
        "id": data.decode("latin-1"), "number": data.decode("latin-1")
    })):  # fmt: skip
        for query, body in ((data, b""), (b"", data)):
            try:
                decode_request(operation, path, query, body)
            except InvalidInput:
                continue


@given(st.text(max_size=60))
def test_no_path_breaks_the_router(path: str) -> None:
    """Whatever the path is, it is a row, none, or InvalidInput."""
    try:
        found = ROUTES.find("GET", "/v1/" + path)
    except InvalidInput:
        return
    assert isinstance(found, Route | NoRoute)


def test_fixed_paths_win_over_names() -> None:
    """``/v1/hosts/watch`` is not a host called watch."""
    found = ROUTES.find("GET", "/v1/hosts/watch")
    assert isinstance(found, Route)
    assert found.operation is table.WATCH_HOSTS
    assert ROUTES.find("DELETE", "/v1/hosts/watch") == NoRoute(("GET", "HEAD", "OPTIONS"))
    assert ROUTES.find("GET", "/v1/hosts/x") == NoRoute(("DELETE", "OPTIONS"))
    assert ROUTES.find("GET", "/v1/hosts/") == NoRoute()


@pytest.mark.parametrize("cls", BY_KIND.values(), ids=lambda c: c.__name__)
def test_errors_survive_the_way(cls: type[TeleError]) -> None:
    """Each kind is decoded as its own class with its text."""
    again = decode_error(status_of(cls("because")), encode_error(cls("because")))
    assert (type(again), str(again)) == (cls, "because")


def test_a_denial_keeps_its_reason() -> None:
    """The reason is a plain string in JSON and in the error."""
    again = decode_error(403, encode_error(AccessDenied("no", Reason.LOCKED)))
    assert isinstance(again, AccessDenied)
    assert again.reason == "locked"
    assert json.loads(encode_error(BadCertificate("x", "expired")))["error"]["kind"] == "invalid"
    assert status_of(errors.ConfigError(["x"])) == 400


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"[]", b"null", b'{"error": 1}', b'{"error": {}}', b"[" * 99_999]
)
def test_an_answer_that_is_not_ours_is_an_error_too(body: bytes) -> None:
    """Something in between may answer anything."""
    assert "502" in str(decode_error(502, body))


def test_lines_of_a_stream() -> None:
    """A line is a value, an error, or not readable; the latter says so."""
    chunk = table.RECORDING_PROGRESS
    assert read_line(chunk, b'{"chunks": [1], "complete": true}').chunks == (1,)
    with pytest.raises(AccessDenied):
        read_line(chunk, encode_error(AccessDenied("no")))
    with pytest.raises(TeleError, match="another version"):
        read_line(chunk, b'{"chunks": 1}')
    with pytest.raises(TeleError, match="another version"):
        decode_response(chunk, b"")


def test_responses() -> None:
    """JSON or octets, as the table says."""
    assert encode_response(table.GET_CHUNK, Octets(b"x")) == (b"x", "application/octet-stream")
    assert shape_of(table.GET_CHUNK).query == {}
    assert carried(table.GET_CHUNK, GetChunk("a", 0)) == GetChunk("a", 0)


def test_the_description_names_everything() -> None:
    """Every row is in the OpenAPI document; every reference in it leads somewhere."""
    document = json.loads(encode(describe(ALL)))
    described = {
        (method.upper(), path) for path, methods in document["paths"].items() for method in methods
    }
    assert described == {(o.method, o.path) for o in ALL}
    schemas = document["components"]["schemas"]
    text = json.dumps(document)
    for part in text.split("#/components/schemas/")[1:]:
        assert part.partition('"')[0] in schemas
    assert "LoginRequest" in schemas
    assert schemas["HostRole"]["enum"] == ["node", "proxy", "auth"]
    assert schemas["Event"]["additionalProperties"] is True
    assert document["paths"]["/v1/login"]["post"]["security"] == []
    assert document["paths"]["/v1/recordings/{id}/chunks/{number}"]["put"]["requestBody"]


def test_durations_in_bodies() -> None:
    """A length of time travels as text."""
    from tele.model.api.tokens import NewToken

    request = NewToken((HostRole.NODE,), timedelta(minutes=90))
    encoded = encode_request(table.ADD_TOKEN, request)
    assert b'"ttl":"1h30m"' in encoded.body
    assert carried(table.ADD_TOKEN, request) == request
