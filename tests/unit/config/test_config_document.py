"""What a YAML text says, and where."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tele.config.document import SIZE_LIMIT, find_documents, read_documents
from tele.errors import ConfigError


def plain(text: str) -> object:
    return [document.plain for document in read_documents(text, "f.yaml")]


def problems(text: str) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        read_documents(text, "f.yaml")
    return caught.value.problems


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no", "no"),
        ("on", "on"),
        ("2026-11-24", "2026-11-24"),
        ("2026-11-24T12:00:00Z", "2026-11-24T12:00:00Z"),
        ("12:30:45", "12:30:45"),
        ("true", True),
        ("null", None),
        ("~", None),
        ("", None),
        ("17", 17),
        ("010", 10),
        ("0o17", 15),
        ("0x1F", 31),
        ("-3", -3),
        ("1.5", 1.5),
        ("'17'", "17"),
        ("[a, {b: c}]", ["a", {"b": "c"}]),
    ],
)
def test_scalars_are_those_of_yaml_1_2(text: str, value: object) -> None:
    """``no`` and dates are strings: unlike in YAML 1.1."""
    assert plain(f"key: {text}\n") == [{"key": value}]


def test_json_is_read_as_json() -> None:
    """What JSON escapes as a surrogate pair is one character; half a pair, which nothing could
    write again, is a mistake with its line, in a key too.
    """
    (document,) = read_documents('{"\\ud83d\\ude00": "\\ud83d\\ude00 \\u202e"}', "f")
    assert document.plain == {"\U0001f600": "\U0001f600 \u202e"}
    for text in ('a: "\\ud83d"', '"\\ude00": 1', '- "\\ude00\\ud83d"'):
        with pytest.raises(ConfigError, match="f:1: half of a surrogate pair"):
            read_documents(text, "f")


def test_places_are_lines() -> None:
    """Each key and value knows its line."""
    (document,) = read_documents("a: 1\n\nb:\n  c: 2\n", "f.yaml")
    assert isinstance(document.value, dict)
    assert str(document.keys["b"]) == "f.yaml:3"
    assert str(document.value["b"].keys["c"]) == "f.yaml:4"


def test_several_documents() -> None:
    """Documents are separate; empty ones do not count."""
    assert plain("a: 1\n---\nb: 2\n") == [{"a": 1}, {"b": 2}]
    assert plain("") == []


def test_all_mistakes_are_reported_with_their_lines() -> None:
    """One run reports every duplicate, tag and key that is not a string."""
    text = "a: 1\na: 2\n3: x\nb: !!python/object:os.system ls\nc: !mine d\n"
    assert problems(text) == (
        "f.yaml:2: key 'a' is given twice, first on line 1",
        "f.yaml:3: a key has to be a string (quote it)",
        "f.yaml:4: tag 'tag:yaml.org,2002:python/object:os.system' is not allowed here",
        "f.yaml:5: tag '!mine' is not allowed here",
    )


def test_a_bomb_of_aliases_is_refused() -> None:
    """Anchors would let a small file mean a huge value, or one that contains itself."""
    assert all("anchors" in each for each in problems("a: &a [x, x]\nb: [*a, *a]\n"))
    assert problems("a: &a [*a]\n")


@pytest.mark.parametrize("text", ["[" * 5000, "{a: " * 5000, "- " * 5000])
def test_depth_is_bounded(text: str) -> None:
    """A file that only nests ends in a sentence, not in a crash."""
    assert len(problems(text)) == 1


def test_size_is_bounded() -> None:
    """A text of megabytes is refused."""
    assert "larger than" in problems("x" * (SIZE_LIMIT + 1))[0]


def test_bad_syntax_has_its_line() -> None:
    """The parser's own message has the line."""
    assert problems("a: [1\nb: 2\n")[0].startswith("f.yaml:2: not YAML: ")


@given(st.text(max_size=200))
def test_any_text_is_read_or_refused(text: str) -> None:
    """Whatever the text, the answer is documents or a ConfigError."""
    found: list[str] = []
    documents = find_documents(text, "f.yaml", found)
    assert all(each.startswith("f.yaml:") for each in found)
    assert found or len([document.plain for document in documents]) == len(documents)


RESOURCE = """\
kind: role
spec:
  allow:
    logins: [a,
             b]
    "x'y": 1
    rules:
    - verbs: [list]
      foo: 1
"""


@pytest.mark.parametrize(
    ("error", "line"),
    [
        ("kind: wrong", 1),
        ("spec.allow.logins[1]: wrong", 5),
        ("spec.allow.logins[7]: wrong", 4),
        ("spec.allow.rules[0].verbs: wrong", 8),
        ("spec.allow.rules[0]: unknown key 'foo'", 9),
        ('spec.allow: unknown key "x\'y"', 6),
        ('spec.allow["x\'y"]: wrong', 6),
        ("spec.options.max_sessions: missing", 2),
        ("something else is wrong", 1),
        ("", 1),
    ],
)
def test_an_error_is_at_the_line_of_its_field(error: str, line: int) -> None:
    """Who wrote a long file finds the field that is wrong, or what is around it."""
    (document,) = read_documents(RESOURCE, "f.yaml")
    assert document.place_of(error).line == line


@given(st.text())
def test_any_error_has_a_place(error: str) -> None:
    """What a server answers is not expected to name a field."""
    (document,) = read_documents(RESOURCE, "f.yaml")
    assert document.place_of(error).file == "f.yaml"
    assert document.place_of(f"spec.allow[{error}]").file == "f.yaml"
