"""The JSON form of values: strict, canonical, with errors that name the place."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from counting import Text, calls, comparisons, is_linear
from tele.errors import InvalidInput
from tele.model.api import recordings
from tele.model.api.hosts import ListHosts
from tele.model.codec import (
    DEPTH_LIMIT,
    PROBLEM_LENGTH,
    PROBLEMS_LIMIT,
    _object,
    decode,
    encode,
    format_duration,
    format_time,
    from_json,
    parse_duration,
    parse_time,
    read_json,
    to_json,
)
from tele.model.event import CODES, Event
from tele.model.identity import HostRole
from tele.model.resources import (
    Conditions,
    Metadata,
    RecordingSettings,
    Role,
    RoleOptions,
    RoleSpec,
    User,
)

NOON = datetime(2026, 11, 24, 12, 0, 0, 250_000, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"metadata": {"name": "x", "zz": 1}}, "metadata: unknown key 'zz'"),
        ({"metadata": {}}, "metadata.name: missing"),
        ({"zz": 1, "metadata": {"name": "x"}}, "top level: unknown key 'zz'"),
        (
            {"metadata": {"name": "x"}, "spec": {"allow": {"logins": "abc"}}},
            "spec.allow.logins: expected a list, got str",
        ),
        (
            {"metadata": {"name": "x"}, "spec": {"allow": {"logins": ["a", 1]}}},
            "spec.allow.logins[1]: expected str, got int",
        ),
        (
            {"metadata": {"name": "x"}, "spec": {"allow": {"node_labels": {"env": [True]}}}},
            "spec.allow.node_labels['env'][0]: expected str, got bool",
        ),
        ([], "top level: expected a mapping"),
    ],
)
def test_a_mistake_is_named_with_its_place(value: object, text: str) -> None:
    """The author of a resource learns which key is wrong and why."""
    with pytest.raises(InvalidInput) as caught:
        from_json(Role, value)
    assert text in str(caught.value).splitlines()


def test_a_label_has_one_value_or_a_list() -> None:
    """A role is read as people write it, and always written the same way."""
    labels = {"*": "*", "env": ["prod", "test"]}
    role = from_json(Role, {"metadata": {"name": "x"}, "spec": {"allow": {"node_labels": labels}}})
    assert role.spec.allow.node_labels == {"*": ("*",), "env": ("prod", "test")}
    assert to_json(role)["spec"]["allow"]["node_labels"] == {"*": ["*"], "env": ["prod", "test"]}


def test_all_mistakes_are_reported_together() -> None:
    """One round trip is enough to correct a file."""
    with pytest.raises(InvalidInput) as caught:
        from_json(Role, {"metadata": {"zz": 1}, "spec": {"allow": {"logins": 1}}, "q": 1})
    assert len(str(caught.value).splitlines()) >= 3


@pytest.mark.parametrize("name", ["", "a/b", "a\nb", "../x", "-rf", "a ", "x" * 129, "é"])
def test_names_are_safe_in_paths_and_certificates(name: str) -> None:
    """A resource's name cannot be a path, an option or a control sequence."""
    with pytest.raises(InvalidInput):
        from_json(User, {"metadata": {"name": name}})


def test_a_role_survives_the_round_trip() -> None:
    """What is written is read again as the same value."""
    role = Role(
        Metadata("ops", expires=NOON),
        RoleSpec(allow=Conditions(logins=("root",), node_labels={"*": ("*",)})),
    )
    assert decode(Role, encode(role)) == role
    assert from_json(Role, to_json(role)) == role


def test_an_option_that_is_not_set_stays_unset() -> None:
    """Forwarding that a role does not name is not in its JSON; a yes or a no is, and survives."""
    for said in (None, True, False):
        options = RoleOptions(port_forwarding=said, forward_agent=said)
        form = to_json(options)
        assert form.get("port_forwarding") is form.get("forward_agent") is said
        assert ("port_forwarding" in form) is (said is not None)
        assert from_json(RoleOptions, form) == options
    assert from_json(RoleOptions, {"port_forwarding": None}) == RoleOptions()
    with pytest.raises(InvalidInput, match="port_forwarding: expected bool"):
        from_json(RoleOptions, {"port_forwarding": "no"})


def test_not_json_is_an_input_error() -> None:
    """Neither broken text nor absurd nesting gets past as another exception."""
    for data in (b"{", b"\xff", b"[" * 100_000, b""):
        with pytest.raises(InvalidInput):
            decode(Role, data)


@given(st.integers(min_value=0, max_value=10**9))
def test_durations_round_trip(seconds: int) -> None:
    """Every length of time that is printed can be read again."""
    value = timedelta(seconds=seconds)
    assert parse_duration(format_duration(value)) == value


@pytest.mark.parametrize("text", ["", "12", "h", "-1h", "1h ", "1w", "1h1d", "9" * 30 + "d"])
def test_bad_durations_are_refused(text: str) -> None:
    """A number without a unit is not guessed at."""
    with pytest.raises(ValueError, match=r"length of time|too long"):
        parse_duration(text)


def test_times_are_utc_with_a_z() -> None:
    """Times read and sort alike everywhere."""
    assert format_time(NOON) == "2026-11-24T12:00:00.250Z"
    assert parse_time("2026-11-24T13:00:00.250+01:00") == NOON
    with pytest.raises(ValueError, match="offset"):
        parse_time("2026-11-24T12:00:00")


def test_event_fields_stand_beside_the_others() -> None:
    """An event is one flat object, and is read back as the same value."""
    event = Event("1", NOON, "exec", CODES["exec"], "c", fields={"command": "ls"})
    assert to_json(event)["command"] == "ls"
    assert decode(Event, encode(event)) == event


def test_event_fields_cannot_hide_the_envelope() -> None:
    """A field named like an envelope key does not replace it."""
    event = Event("1", NOON, "exec", CODES["exec"], "c", user="eve", fields={"user": "root"})
    assert to_json(event)["user"] == "eve"


def test_event_codes_are_unique() -> None:
    """A code names one event."""
    assert len(set(CODES.values())) == len(CODES)


@pytest.mark.parametrize(
    "data",
    [
        b'{"kind": "role", "kind": "user"}',
        b"[NaN]",
        b"[-Infinity]",
        b"[1e999]",
        b"[" + b"9" * 4000 + b"]",
        b'["\\ud800"]',
        b'["\\uDC00x"]',
        "[1]".encode("utf-16"),
        b'["\xff"]',
        b"[" * 100_000,
        b"",
        b"[1] x",
    ],
    ids=lambda d: repr(d[:24]),
)
def test_what_readers_would_disagree_about_is_not_json(data: bytes) -> None:
    """Double keys, NaN, huge numbers, lone surrogates, other encodings: one clear error."""
    with pytest.raises(InvalidInput, match="not JSON"):
        read_json(data)


def test_surrogate_pairs_are_characters() -> None:
    """An escaped pair is one character and allowed."""
    assert read_json(b'"\\ud83d\\ude00"') == "\U0001f600"


def test_an_enumeration_becomes_a_plain_value() -> None:
    """JSON and YAML writers get a string, not a subclass of it."""
    assert type(to_json(ListHosts())["role"]) is str


def test_an_enumeration_takes_its_own_values_only() -> None:
    """Enumerations that are strings are not just any string."""
    assert from_json(ListHosts, {"role": "proxy"}).role is HostRole.PROXY
    for bad in ("king", 1, None, ["node"]):
        with pytest.raises(InvalidInput, match=r"role: .* is none of node, proxy, auth"):
            from_json(ListHosts, {"role": bad})


def test_a_wrong_value_is_told_what_can_be_given() -> None:
    """The value that stands for those of newer versions cannot."""
    with pytest.raises(InvalidInput, match=r"mode: 3 is none of node, .*, off$"):
        from_json(RecordingSettings, {"mode": 3})
    unknown = from_json(RecordingSettings, {"mode": "quantum"})
    assert unknown.problem.startswith("session_recording mode: this version supports node, ")


# -- what hostile bytes cost ------------------------------------------------------------
def _nested(depth: int) -> bytes:
    return b'{"a":' * depth + b"1" + b"}" * depth


def test_finding_a_key_that_is_given_twice_is_linear() -> None:
    """However many keys there are, each is read a fixed number of times."""

    def work(size: int) -> int:
        names = [Text(f"key{number}") for number in range(size)]
        pairs = [(name, 1) for name in (*names, Text(f"key{size - 1}"))]
        return comparisons(lambda: _object(pairs))

    assert is_linear(work)


@pytest.mark.parametrize(
    "make",
    [
        lambda n: b'{"x":' + b",".join(b'{"a":1,"a":2}' for _ in range(n)) + b"}",
        lambda n: b"{" + b",".join(b'"k%d":1' % i for i in range(n)) + b',"k0":1}',
        lambda n: b"{" + b",".join(b'"k%d":1' % i for i in range(n)) + b"}",
        lambda n: b'{"metadata":{"name":"x","labels":{' + b'"":1,' * n + b'"a":1}}}',
        lambda n: b'{"metadata":{"name":"x"},"spec":{"allow":{"logins":[' + b"1," * n + b"1]}}}",
        lambda n: b'{"metadata":{"name":"x"},"spec":{"allow":{"rules":[' + b"{}," * n + b"{}]}}}",
        lambda n: b'{"metadata":{"name":"' + b"a" * n + b'"}}',
        lambda n: b'{"metadata":{"name":"a","revision":' + b"9" * n + b"}}",
        lambda n: b'{"metadata":{"name":"a","revision":1.' + b"9" * n + b"}}",
        lambda n: b'{"metadata":{"name":"a","expires":"' + b"2" * n + b'"}}',
        lambda n: b'{"metadata":{"name":"a","description":"' + b"\\ud83d" * n + b'"}}',
        lambda n: b'{"metadata":{"name":"a","description":"' + b'\\"' * n,
        lambda n: b"[" * n,
        lambda n: b'{"a":' * n,
    ],
)
def test_reading_costs_the_same_for_each_byte(make: Callable[[int], bytes]) -> None:
    """Twice as many bytes of any nonsense are at most twice the work, also to say what is wrong."""
    assert is_linear(lambda n: calls(lambda: decode(Role, make(n))))


def test_a_report_of_mistakes_ends() -> None:
    """Ten thousand mistakes are a few lines, of bounded length, that say there are more."""
    many = {f"key{number}{'x' * 5000}": 1 for number in range(10_000)}
    with pytest.raises(InvalidInput) as caught:
        from_json(Role, {"metadata": {"name": "x"}, **many})
    lines = str(caught.value).splitlines()
    assert len(lines) == PROBLEMS_LIMIT + 1
    assert "more mistakes" in lines[-1]
    with pytest.raises(InvalidInput) as caught:
        from_json(User, {"metadata": {"name": "!" * 100_000}})
    assert len(str(caught.value)) < 2 * PROBLEM_LENGTH


def test_nesting_is_bounded_by_a_number() -> None:
    """What lies deeper than any value of ours is refused, before it is read; brackets in texts
    are not nesting.
    """
    assert read_json(_nested(DEPTH_LIMIT))
    with pytest.raises(InvalidInput, match="deep in each other"):
        read_json(_nested(DEPTH_LIMIT + 1))
    text = "[" * 10_000 + '\\"{'
    assert read_json(json.dumps([text]).encode()) == [text]


@pytest.mark.parametrize(
    "text", ["9" * 100_000 + "d", "9" * 100_000, "2026-11-24T12:00:00Z" + " " * 100_000]
)
def test_long_numbers_in_texts_are_not_calculated(text: str) -> None:
    """A time or length of time that is longer than any that means something is refused unread."""
    for read in (parse_duration, parse_time):
        with pytest.raises(ValueError, match=r"is not a|length of time") as caught:
            read(text)
        assert len(str(caught.value)) < 200


def test_older_hosts_read_the_answers_that_their_recordings_need() -> None:
    """What an answer says beyond what they know is left out while it says nothing special: a node
    of an older version still sends its recordings to a newer auth.
    """
    assert encode(recordings.ChunkStored()) == b"{}"
    assert encode(recordings.RecordingProgress((1,), complete=False)) == (
        b'{"chunks":[1],"complete":false}'
    )
    for value in (
        recordings.ChunkStored("over"),
        recordings.RecordingProgress((), False, closed=True),
    ):
        assert decode(type(value), encode(value)) == value
