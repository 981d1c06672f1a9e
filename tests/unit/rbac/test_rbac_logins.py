"""Which texts can be the name of an OS account?"""

from __future__ import annotations

import pytest

from tele.errors import InvalidInput
from tele.rbac.logins import check_traits, is_login


@pytest.mark.parametrize(
    "name",
    ["root", "_apt", "a", "1001", "jo.doe-2", "AB\\jo", "AB+jo", "jo@ab.example", "jö", "WEB1$",
     "AB\\WEB1$", "x" * 255],
)  # fmt: skip
def test_names_that_account_databases_have(name: str) -> None:
    """What directories make of names is a login; the node knows if there is such an account."""
    assert is_login(name)
    check_traits({"logins": (name,)})


@pytest.mark.parametrize(
    "name",
    ["", " ", "first last", "-x", "a/b", "../a", "a:b", "a,b", "a\\", "\\a", "a;b", "a$(b)", "a`b`",
     "a'b", 'a"b', "a|b", "a&b", "a\nb", "a\tb", "a\0b", "*", "a*", "a?", "[a]", "~a", "#a", "a%h",
     "{{x}}", "$a", "@a", "a\u202eb", "x" * 300],
)  # fmt: skip
def test_names_that_no_account_has(name: str) -> None:
    """What can never work is refused when it is said, with the reason."""
    assert not is_login(name)
    with pytest.raises(InvalidInput, match="is not a login"):
        check_traits({"logins": ("root", name)})
