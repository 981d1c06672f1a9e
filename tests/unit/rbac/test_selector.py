"""What a caller may select hosts by, and what that costs."""

from __future__ import annotations

import pytest

from tele.errors import InvalidInput
from tele.rbac.selector import LENGTH_LIMIT, SELECTORS_LIMIT, read_selector

WEB = {"env": "prod", "zone": "eu-1"}


@pytest.mark.parametrize(
    ("said", "selects"),
    [
        ((), True),
        (("env=prod",), True),
        (("env=dev",), False),
        (("env=dev", "env=prod"), True),
        (("env=prod", "env=dev", "zone=eu-2"), False),
        (("env=p*", "zone=eu-?"), True),
        (("role=web",), False),
        (("role=*",), False),
        (("env=",), False),
        (("env=a=b",), False),
    ],
)
def test_several_values_of_a_key_are_any_and_several_keys_all(
    said: tuple[str, ...], selects: bool
) -> None:
    """A key given twice means either value; no label that was given is ignored."""
    assert read_selector(said).selects(WEB) is selects


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (("nonsense",), "key=value"),
        (("=x",), "key=value"),
        (("env=^(a+)+$",), "regular expressions are for roles"),
        (("*=*",), "only the value"),
        (("e?v=prod",), "only the value"),
        *(
            ((text,), "only operator is =")
            for text in ("a!=b", "a==b", "a=~b", "a<=b", "a>=b", "a~=b")
        ),
        (("env=" + "x" * LENGTH_LIMIT,), "characters"),
        (("env=prod",) * (SELECTORS_LIMIT + 1), "more than"),
    ],
)
def test_what_a_selector_cannot_be(said: tuple[str, ...], words: str) -> None:
    """Regular expressions, patterns for keys, other operators and endless lists are refused."""
    with pytest.raises(InvalidInput, match=words):
        read_selector(said)
