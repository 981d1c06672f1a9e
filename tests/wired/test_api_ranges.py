"""Range requests over the API: a part of a chunk, and only of the chunk that was meant."""

from __future__ import annotations

import pytest

from api_world import World, user
from tele.https.openapi import describe
from tele.model.api.table import OPERATIONS

CHUNK = b"\x00\xff" * 9


@pytest.fixture
def world() -> World:
    return World()


def get(world: World, headers: str) -> tuple[int, dict[str, str], bytes]:
    client = world.raw(world.user_ca.issue(user("alice")))
    return world.request(client, "GET", "/v1/recordings/a/chunks/9", headers=headers)


def test_a_part_is_sent(world: World) -> None:
    """206 with its place and the digest of the whole; without a range all of it."""
    status, headers, body = get(world, "range: bytes=3-6\r\n")
    assert (status, body) == (206, CHUNK[3:7])
    assert headers["content-range"] == "bytes 3-6/18"
    assert headers["etag"] == '"aa"'
    status, headers, body = get(world, "range: bytes=-4\r\n")
    assert (status, headers["content-range"], body) == (206, "bytes 14-17/18", CHUNK[-4:])
    status, headers, body = get(world, "")
    assert (status, headers["accept-ranges"], body) == (200, "bytes", CHUNK)


def test_a_part_of_another_blob_is_not_sent(world: World) -> None:
    """If-Range with another digest: what the client has is old, so it gets all."""
    assert get(world, 'range: bytes=3-6\r\nif-range: "aa"\r\n')[0] == 206
    status, _, body = get(world, 'range: bytes=3-6\r\nif-range: "bb"\r\n')
    assert (status, body) == (200, CHUNK)


def test_after_the_end_there_is_nothing(world: World) -> None:
    """416 states how long it is, and a range that cannot be read is none."""
    status, headers, body = get(world, "range: bytes=18-\r\n")
    assert (status, headers["content-range"], body) == (416, "bytes */18", b"")
    assert get(world, "range: bytes=1-2,4-5\r\n")[0] == 200


def test_the_document_has_the_ranges() -> None:
    """A client that is made from the OpenAPI document knows of parts."""
    described = describe(OPERATIONS.values())["paths"]["/v1/recordings/{id}/index"]["get"]
    assert {each["name"] for each in described["parameters"]} == {"id", "Range", "If-Range"}
    assert {"200", "206", "416"} <= set(described["responses"])
