"""The API on in-memory wires: which callers are permitted, and what a bad peer can do."""

from __future__ import annotations

import json
import re
from datetime import timedelta

import pytest
from attrs import evolve
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred

from api_world import Ca, RawClient, World, error_of, host, parsed, user
from tele.errors import AccessDenied, NotLoggedIn
from tele.https.limits import Limits
from tele.model.api.tokens import TokenList
from tele.model.authority import AuthorityKind
from tele.model.identity import HostRole, UserIdentity


@pytest.fixture
def world() -> World:
    return World()


def test_an_unauthenticated_client_may_ask_for_health_only(world: World) -> None:
    """Without a certificate the open operations answer, and no other."""
    client = world.raw()
    assert world.request(client, "GET", "/v1/health")[0] == 200
    status, _, body = world.request(client, "GET", "/v1/whoami")
    assert status == 401
    assert error_of(body)["kind"] == "not_logged_in"
    assert [c[0] for c in world.handler.calls] == ["health"]


def test_a_user_is_known_by_the_certificate(world: World) -> None:
    """The handler gets the identity; keep-alive serves the next request too."""
    client = world.raw(world.user_ca.issue(user("alice")))
    for _ in range(2):
        status, headers, body = world.request(client, "GET", "/v1/whoami")
        assert (status, json.loads(body)["user"]) == (200, "alice")
    assert "server" not in headers
    assert headers["cache-control"] == "no-store"
    identity = world.handler.calls[0][2].identity
    assert isinstance(identity, UserIdentity)
    assert identity.roles == ("access",)


def test_users_and_hosts_cannot_call_each_others_operations(world: World) -> None:
    """Operations for hosts refuse users and vice versa, with an audit event."""
    alice = user("alice")
    user_identity = world.user_ca.issue(alice)
    machine = world.host_ca.issue(host(HostRole.NODE))
    announce = b'{"name": "web1", "role": "node"}'
    for identity, method, target, body in (
        (user_identity, "PUT", "/v1/presence", announce),
        (user_identity, "GET", "/v1/state", b""),
        (machine, "GET", "/v1/whoami", b""),
        (machine, "GET", "/v1/users", b""),
        (machine, "GET", "/v1/hosts/watch", b""),
    ):
        status, _, answer = world.request(world.raw(identity), method, target, body)
        assert (status, error_of(answer)["reason"]) == (403, "rule"), target
    assert world.handler.calls == []
    assert len(world.refused) == 5
    refused = world.refused[0][1].identity
    assert isinstance(refused, UserIdentity)
    assert evolve(refused, issued=alice.issued, serial=alice.serial) == alice


def test_an_authority_vouches_for_its_own_kind_only(world: World) -> None:
    """A user identity signed by the host authority, and the reverse, are refused."""
    for identity in (
        world.host_ca.issue(user("admin")),
        world.user_ca.issue(host(HostRole.AUTH)),
    ):
        client = world.raw(identity)
        assert world.request(client, "GET", "/v1/whoami")[0] == 401
        assert world.request(client, "GET", "/v1/state")[0] == 401
        assert world.request(client, "GET", "/v1/health")[0] == 200


def test_a_certificate_of_another_ca_fails_in_the_handshake(world: World) -> None:
    """Whatever it says of itself; the name of the real CA does not help."""
    for kind in AuthorityKind:
        rogue = Ca.make(kind)
        client = world.raw(rogue.issue(user("admin") if kind == "user" else host(HostRole.AUTH)))
        assert client.lost is not None
        assert "unknown ca" in str(client.lost.value)


def test_a_certificate_that_expires_on_an_open_connection_is_refused(world: World) -> None:
    """The next request of a kept-alive connection is refused, and open operations still answer."""
    client = world.raw(world.user_ca.issue(user("alice", timedelta(seconds=40))))
    assert world.request(client, "GET", "/v1/whoami")[0] == 200
    world.wires.pass_time(41)
    status, _, body = world.request(client, "GET", "/v1/whoami")
    assert status == 401
    assert "expired" in error_of(body)["message"]
    assert world.request(client, "GET", "/v1/health")[0] == 200


def test_a_removed_authority_ends_its_certificates_at_once(world: World) -> None:
    """After a rotation an open connection of the old CA is worth nothing."""
    client = world.raw(world.user_ca.issue(user("alice")))
    assert world.request(client, "GET", "/v1/whoami")[0] == 200
    world.trusted = (Ca.make(AuthorityKind.USER).trusted, world.host_ca.trusted)
    assert world.request(client, "GET", "/v1/whoami")[0] == 401


def test_a_new_authority_applies_to_the_next_connection(world: World) -> None:
    """Trust and the server's own certificate are renewed without a restart."""
    new = Ca.make(AuthorityKind.USER)
    world.trusted = (*world.trusted, new.trusted)
    world.auth = world.host_ca.issue(host(HostRole.AUTH, name="auth"))
    client = world.raw(new.issue(user("bob")))
    assert world.request(client, "GET", "/v1/whoami")[0] == 200


def test_unknown_paths_and_methods(world: World) -> None:
    """404 and 405 are JSON; 405 names what there is."""
    client = world.raw()
    status, headers, body = world.request(client, "GET", "/v1/nothing")
    assert (status, headers["content-type"], error_of(body)["kind"]) == (
        404,
        "application/json",
        "not_found",
    )
    status, headers, _ = world.request(world.raw(), "DELETE", "/v1/users")
    assert (status, headers["allow"]) == (405, "GET, HEAD, OPTIONS, POST")
    for method in ("TRACE", "CONNECT", "POST", "BREW"):
        for path in ("/v1/health", "/v1/openapi.json"):
            status, headers, _ = world.request(world.raw(), method, path)
            assert (status, headers["allow"]) == (405, "GET, HEAD, OPTIONS"), path


@pytest.mark.parametrize(
    "target",
    ["/v1/health", "/v1/openapi.json", "/v1/whoami", "/v1/users", "/v1/nothing", "/v1/hosts",
     "/v1/recordings/abc/chunks/3", "/v1/users/alice", "/v1/hosts?limit=0"],
)  # fmt: skip
def test_head_is_get_without_the_body(world: World, target: str) -> None:
    """Status and headers, length included, are those of GET (RFC 9110, section 9.3.2)."""
    client = world.raw(world.user_ca.issue(user("alice")))
    status, headers, body = world.request(client, "GET", target)
    world.request(client, "HEAD", target)
    head, _, rest = client.received.partition(b"\r\n\r\n")
    assert rest == b""
    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert f"content-length: {len(body)}".encode() in head.lower()
    assert f"content-type: {headers['content-type']}".encode() in head.lower()
    assert world.request(client, "GET", "/v1/health")[0] == 200, "the connection stays open"


def test_the_head_of_a_stream_follows_nothing(world: World) -> None:
    """Whether a stream may be followed is answered, at once, without a stream."""
    client = world.raw(world.host_ca.issue(host(HostRole.PROXY)))
    for path in ("/v1/state", "/v1/hosts/watch"):
        world.request(client, "HEAD", path)
        assert client.received.startswith(b"HTTP/1.1 200 ")
        assert b"application/x-ndjson" in client.received
        assert client.received.endswith(b"\r\n\r\n")
    assert world.handler.receivers == []
    assert world.handler.checked == ["watch_state", "watch_hosts"]
    world.handler.denies = AccessDenied("no rule lets you", reason="rule")
    world.request(client, "HEAD", "/v1/state")
    assert client.received.startswith(b"HTTP/1.1 403 ")
    world.request(world.raw(), "HEAD", "/v1/state")
    assert len(world.refused) == 1


def test_options_say_what_there_is(world: World) -> None:
    """The methods of a path are open to anyone; the response has no body, and no CORS header."""
    client = world.raw()
    for path, allowed in (
        ("/v1/users", "GET, HEAD, OPTIONS, POST"),
        ("/v1/openapi.json", "GET, HEAD, OPTIONS"),
        ("/v1/login", "OPTIONS, POST"),
    ):
        status, headers, body = world.request(client, "OPTIONS", path)
        assert (status, headers["allow"], body) == (204, allowed, b"")
        assert not [name for name in headers if name.startswith("access-control")]
    assert world.request(client, "OPTIONS", "/v1/nothing")[0] == 404
    assert world.handler.calls == []


@pytest.mark.parametrize(
    "kind",
    ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=a",
     "application/octet-stream", "application/json-seq", "", "text/plain; application/json"],
)  # fmt: skip
def test_a_body_of_another_type_is_refused(world: World, kind: str) -> None:
    """What a page in a browser may send without a preflight is not JSON (attack)."""
    client = world.raw()
    header = f"content-type: {kind}\r\n"
    status, _, body = world.request(client, "POST", "/v1/join", b"{}", header)
    assert status == 415
    assert "application/json" in error_of(body)["message"]
    assert world.handler.calls == []


def test_the_headers_of_a_body(world: World) -> None:
    """JSON with a parameter or in capitals is JSON; a compressed body is refused by name."""
    for header in ("content-type: application/json; charset=utf-8\r\n",
                   "content-type: Application/JSON\r\n"):  # fmt: skip
        status, _, body = world.request(world.raw(), "POST", "/v1/join", b"{}", header)
        assert status == 400
        assert "token: missing" in error_of(body)["message"]
    header = "content-type: application/json\r\ncontent-encoding: gzip\r\n"
    status, _, body = world.request(world.raw(), "POST", "/v1/join", b"{}", header)
    assert (status, "content-encoding" in error_of(body)["message"]) == (415, True)
    node = world.raw(world.host_ca.issue(host(HostRole.NODE)))
    header = "content-type: application/json\r\n"
    assert world.request(node, "PUT", "/v1/recordings/abc/chunks/0", b"{}", header)[0] == 415


@pytest.mark.parametrize(
    "target",
    [
        "/v1/users/..%2f..%2fetc%2fpasswd",
        "/v1/users/%2e%2e",
        "/v1/users/..",
        "/v1/users/.",
        "/v1/users/a%00b",
        "/v1/users/a%0d%0ab",
        "/v1/users/%ff%fe",
        "/v1/users/a%2Fb",
        "/v1/users/-rf",
        "/v1/users/a\\..\\b",
        "/v1/users/" + "a" * 129,
        "/v1/users/%F0%9F%98%80",
    ],
)
def test_names_in_paths_are_names(world: World, target: str) -> None:
    """Nothing that climbs, hides or breaks lines reaches a handler."""
    client = world.raw(world.user_ca.issue(user()))
    status, _, body = world.request(client, "GET", target)
    assert status in (400, 404)
    assert error_of(body)["kind"] in ("invalid", "not_found")
    assert world.handler.calls == []


@pytest.mark.parametrize(
    "target",
    [
        "/v1/hosts?limit=1e3",
        "/v1/hosts?limit=99999999999999999999",
        "/v1/hosts?limit=" + "9" * 8000,
        "/v1/hosts?limit=1&limit=2",
        "/v1/hosts?nothing=1",
        "/v1/hosts?limit",
        "/v1/hosts?role=king",
        "/v1/hosts?after=%ff",
        "/v1/hosts?" + "&".join(["labels=a=b"] * 300),
        "/v1/recordings/abc/chunks/" + "9" * 4000,
        "/v1/recordings/abc/chunks/0x10",
        "/v1/recordings/abc/chunks/%31%2e5",
    ],
    ids=lambda t: t[:48],
)
def test_bad_numbers_and_queries(world: World, target: str) -> None:
    """Huge, doubled, unknown and malformed parameters are 400 with a reason."""
    client = world.raw(world.user_ca.issue(user()))
    status, _, body = world.request(client, "GET", target)
    assert status == 400
    assert error_of(body)["kind"] == "invalid"
    assert world.handler.calls == []


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "missing"),
        (b"not json", "not JSON"),
        (b"[]", "mapping"),
        (b'{"name": "web1", "role": "node", "extra": 1}', "unknown key 'extra'"),
        (b'{"name": "web1", "role": "node", "version": 1}', "version"),
        (b'{"name": "../x", "role": "node"}', "name"),
        (b'{"name": "web1", "role": "node", "name": "web2"}', "twice"),
        (b"[" * 50_000, "not JSON"),
        (b'{"name": "web1", "role": "node", "labels": {"a": "\\ud800"}}', "not JSON"),
    ],
    ids=lambda v: repr(v[:24]),
)
def test_bad_bodies(world: World, body: bytes, message: str) -> None:
    """What is not exactly the request's type is refused with the place."""
    client = world.raw(world.host_ca.issue(host(HostRole.NODE)))
    status, _, answer = world.request(client, "PUT", "/v1/presence", body)
    assert status == 400
    assert message in error_of(answer)["message"]
    assert world.handler.calls == []


def test_a_body_cannot_replace_what_the_path_says(world: World) -> None:
    """The name in the body of a PUT is not a second opinion."""
    client = world.raw(world.user_ca.issue(user()))
    status, _, answer = world.request(client, "PUT", "/v1/users/bob", b'{"name": "root"}')
    assert status == 400
    assert "part of the path" in error_of(answer)["message"]


def test_an_oversize_body_is_refused_before_it_is_read(world: World) -> None:
    """The head alone is enough to say no; nothing of the body is kept."""
    client = world.raw()
    head = b"POST /v1/login HTTP/1.1\r\nhost: a\r\ncontent-length: 999999999\r\n\r\n"
    status, headers, _ = world.send(client, head)
    assert (status, headers["connection"]) == (413, "close")


def test_an_unauthenticated_client_cannot_make_the_server_read_a_body(world: World) -> None:
    """A caller is refused before the first byte of the body, also with Expect: 100-continue."""
    client = world.raw()
    head = (
        b"PUT /v1/recordings/abc/chunks/0 HTTP/1.1\r\nhost: a\r\n"
        b"expect: 100-continue\r\ncontent-length: 8000000\r\n\r\n"
    )
    status, _, body = world.send(client, head)
    assert (status, error_of(body)["kind"]) == (401, "not_logged_in")
    world.send(client, b"x" * 100_000)
    assert client.lost is not None
    assert b"HTTP" not in client.received


def test_expect_continue_is_answered_to_permitted_callers(world: World) -> None:
    """A permitted body is requested."""
    client = world.raw(world.host_ca.issue(host(HostRole.NODE)))
    head = (
        b"PUT /v1/recordings/abc/chunks/0 HTTP/1.1\r\nhost: a\r\n"
        b"expect: 100-continue\r\ncontent-length: 4\r\n\r\n"
    )
    assert world.send(client, head)[0] == 100
    assert world.send(client, b"\x00\x01\x02\x03")[0] == 200
    assert world.handler.calls[0][1].data == b"\x00\x01\x02\x03"


def test_octets_come_back_as_they_are(world: World) -> None:
    """A response with ``data`` is not JSON."""
    client = world.raw(world.user_ca.issue(user()))
    status, headers, body = world.request(client, "GET", "/v1/recordings/abc/chunks/3")
    assert (status, headers["content-type"]) == (200, "application/octet-stream")
    assert body == b"\x00\xff" * 3


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 200 + b"\r\n", b"431"),
        (b"GET / HTTP/1.1\r\na: " + b"x" * 60_000 + b"\r\n\r\n", b"431"),
        (b"GET / HTTP/1.1\r\n" + (b"a: " + b"x" * 900 + b"\r\n") * 20 + b"\r\n", b"431"),
        (b"GET /" + b"x" * 60_000 + b" HTTP/1.1\r\n\r\n", b"414"),
        (b"GET /" + b"x" * 16_380 + b" HTTP/1.1\r\n\r\n", b"414"),
        (b"\x16\x03\x01garbage\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nno colon\r\nhost: a\r\n\r\n", b"400"),
        (b"GET /v1/health HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab", b"400"),
        (b"GET /v1/health HTTP/1.1\r\ncontent-length: -1\r\n\r\n", b"400"),
        (b"GET /v1/health HTTP/1.1\r\nbad header: x\r\ncontent-length: 0\r\n\r\n", b"400"),
    ],
    ids=["many headers", "long header", "long head", "long target", "target to the end", "noise",
         "no colon", "two lengths", "negative length", "space in name"],
)  # fmt: skip
def test_malformed_heads_end_the_connection(world: World, data: bytes, status: bytes) -> None:
    """Floods of headers, smuggled lengths and noise get the status for that, and no handler."""
    client = world.raw()
    follow_up = b"GET /v1/cluster HTTP/1.1\r\nhost: a\r\n\r\n"
    world.send(client, data + follow_up)
    assert client.received.count(b"HTTP/1.1 ") <= 1
    assert client.received.startswith(b"HTTP/1.1 " + status + b" ")
    assert client.lost is not None
    assert world.handler.calls == []


def test_a_chunked_body_is_refused(world: World) -> None:
    """Its length would not be known before it is read."""
    client = world.raw()
    head = b"POST /v1/login HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n"
    assert world.send(client, head)[0] == 411
    world.send(client, b"5\r\nhello\r\n0\r\n\r\n")
    assert client.lost is not None
    assert world.handler.calls == []


def dribble(world: World, client: RawClient, data: bytes, seconds: float) -> None:
    for byte in data:
        if client.lost is None:
            client.transport.write(bytes([byte]))
            world.wires.flush(seconds)


def test_a_dribbled_head_is_cut_off(world: World) -> None:
    """Slowloris: a byte now and then does not move the deadline."""
    client = world.raw()
    dribble(world, client, b"GET /v1/health HTTP/1.1\r\nx: " + b"y" * 100, 2)
    assert client.lost is not None
    assert client.received == b""


def test_a_dribbled_body_is_cut_off(world: World) -> None:
    """A body has the time of its operation, as a whole."""
    client = world.raw()
    head = b"POST /v1/login HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n"
    world.send(client, head + b"content-length: 1000\r\n\r\n")
    dribble(world, client, b"z" * 100, 2)
    assert client.lost is not None
    assert world.handler.calls == []


def test_silence_ends_a_connection(world: World) -> None:
    """Before the first request sooner than between two."""
    silent, idle = world.raw(), world.raw()
    world.request(idle, "GET", "/v1/health")
    world.wires.pass_time(20)
    assert silent.lost is not None
    assert idle.lost is None
    world.wires.pass_time(60)
    assert idle.lost is not None


def test_a_connection_without_a_handshake_ends_too(world: World) -> None:
    """A connection that says nothing in TLS costs its place for 15 seconds."""
    client = RawClient()
    world.attach(client)
    world.wires.pass_time(20)
    assert client.lost is not None


def test_unauthenticated_connections_cannot_crowd_out_members() -> None:
    """Over their limit the oldest of them ends; members stay."""
    world = World(Limits(unauthenticated=3, connections=6))
    member = world.raw(world.user_ca.issue(user()))
    assert world.request(member, "GET", "/v1/whoami")[0] == 200
    unauthenticated = [world.raw() for _ in range(5)]
    assert [s.lost is not None for s in unauthenticated] == [True, True, False, False, False]
    assert world.request(member, "GET", "/v1/whoami")[0] == 200
    assert world.request(unauthenticated[-1], "GET", "/v1/health")[0] == 200


def test_connections_are_bounded() -> None:
    """Over the limit of all, new ones are dropped."""
    world = World(Limits(connections=2))
    first, second = world.raw(), world.raw()
    assert world.server.factory.buildProtocol(IPv4Address("TCP", "192.0.2.1", 1)) is None
    assert world.request(first, "GET", "/v1/health")[0] == 200
    second.transport.loseConnection()
    world.wires.flush()
    assert world.request(world.raw(), "GET", "/v1/health")[0] == 200


def test_errors_cross_with_kind_and_reason(world: World) -> None:
    """Each error of ours has its status; the handler's reason is kept."""
    client = world.raw(world.user_ca.issue(user()))
    status, _, body = world.request(client, "GET", "/v1/users/bob")
    assert (status, error_of(body)) == (
        404,
        {"kind": "not_found", "message": "there is no user 'bob'"},
    )
    status, _, body = world.request(client, "GET", "/v1/users")
    assert (status, error_of(body)["reason"]) == (403, "rule")


def test_an_internal_error_reveals_nothing(world: World) -> None:
    """An unexpected exception is a 500 with a number, and its text stays in the log."""
    client = world.raw(world.user_ca.issue(user()))
    status, _, body = world.request(client, "GET", "/v1/roles")
    assert status == 500
    assert "incident" in error_of(body)["message"]
    assert b"secret detail" not in body


def test_a_handler_that_hangs_is_answered_for(world: World) -> None:
    """After the operation's time the caller gets an error; the handler is not interrupted."""
    client = world.raw(world.user_ca.issue(user()))
    world.request(client, "GET", "/v1/tokens")
    world.wires.pass_time(31)
    status, _, body = parsed(client.received)
    assert (status, error_of(body)["kind"]) == (503, "unavailable")
    assert not world.handler.waiting[0].called
    world.handler.waiting[0].callback(None)
    assert world.request(client, "GET", "/v1/whoami")[0] == 200


def test_a_caller_that_leaves_does_not_stop_the_handler(world: World) -> None:
    """Work that was begun is finished, and its answer goes nowhere."""
    client = world.raw(world.user_ca.issue(user()))
    world.request(client, "GET", "/v1/tokens")
    client.transport.abortConnection()
    world.wires.flush()
    world.handler.waiting[0].callback(None)


def test_a_running_request_is_answered_before_closing(world: World) -> None:
    """Idle connections end at once, a running request gets its answer first, within bounds."""
    idle = world.raw()
    waiting, hanging = (world.raw(world.user_ca.issue(user())) for _ in range(2))
    for client in (waiting, hanging):
        world.request(client, "GET", "/v1/tokens")
    closed: list[object] = []
    Deferred.fromCoroutine(world.server.close()).addBoth(closed.append)
    world.wires.flush()
    assert (idle.lost is None, waiting.lost is None) == (False, True)
    world.handler.waiting[0].callback(TokenList(()))
    world.wires.flush()
    assert parsed(waiting.received)[0] == 200
    assert waiting.lost is not None
    assert closed == []
    world.wires.pass_time(6)
    assert hanging.lost is not None
    assert closed == [None]
    world.handler.waiting[1].callback(TokenList(()))


def test_pipelined_requests_are_answered_in_order(world: World) -> None:
    """Two requests in one packet give two answers."""
    client = world.raw()
    one = b"GET /v1/health HTTP/1.1\r\nhost: a\r\n\r\n"
    world.send(client, one + b"GET /v1/nothing HTTP/1.1\r\nhost: a\r\n\r\n" + one)
    assert re.findall(rb"HTTP/1.1 ([0-9]+)", client.received) == [b"200", b"404", b"200"]


def test_the_description_is_open(world: World) -> None:
    """Anyone may read the OpenAPI document."""
    status, _, body = world.request(world.raw(), "GET", "/v1/openapi.json")
    assert status == 200
    assert json.loads(body)["openapi"].startswith("3.1")


def test_refused_callers_are_audited(world: World) -> None:
    """A denial is always an event."""
    world.request(world.raw(), "GET", "/v1/users")
    name, caller, error = world.refused[0]
    assert (name, caller.identity) == ("list_users", None)
    assert isinstance(error, NotLoggedIn)
