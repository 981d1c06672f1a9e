"""Invariant: a pattern of paths names what a regular expression made of it names, a malformed one
or a malformed destination is an error, and neither takes long.
"""

from __future__ import annotations

import re
from ipaddress import ip_address
from typing import Final

from attempts import Dice, main
from tele.errors import InvalidInput
from tele.rbac.destinations import allows, may_lead, plain_address, read_destination
from tele.spawner.path_patterns import PathPattern, pattern_problem
from tele.spawner.scp_request import read_scp

NAMES: Final = ("a", "b", "ab", "*", "a*", "*b", "?", "?*b", "**", "a*b*")
PARTS: Final = (
    "10.0.0.0/8", "10.1.2.3", "[fd00::/8]", "[::1]", "db", "*.db", "*", "localhost", ":", ":80",
    ":*", ":80-90", "-", "/", "[", "]", "1", "xn--a", "é", "\0", "0x7f", "::ffff:1.2.3.4",
)  # fmt: skip
HOSTS: Final = ("db", "a.db", "10.1.2.3", "::1", "fd00::1", "0.0.0.0", "é", "127.1", "", "a" * 300)
COMMANDS: Final = (b"scp -t /x", b"scp -r -f -- 'a b' c", b"scp -pqv -t ~/x", b"scp -d -t \\x")


def as_expression(names: list[str]) -> str:
    """Return the same as ``names`` in the language of ``re``."""
    found = ""
    for number, name in enumerate(names):
        if name == "**":
            found += "(?:/[^/]+)+" if number == len(names) - 1 else "(?:/[^/]+)*"
        else:
            one = {"*": "[^/]*", "?": "[^/]"}
            found += "/(?=[^/])" + "".join(one.get(each, re.escape(each)) for each in name)
    return found


def attempt(dice: Dice) -> None:
    """Compare one pattern, and read one destination and one command line, good or not."""
    names = [dice.choice(NAMES) for _ in range(dice.randint(1, 6))]
    path = "".join("/" + dice.choice(("a", "b", "ab", "aab")) for _ in range(dice.randint(0, 6)))
    text = "/" + "/".join(names)
    assert pattern_problem(text) == ""
    pattern = PathPattern.read(text, b"/root")
    named = re.fullmatch(as_expression(names), path) is not None
    assert pattern.matches(path.encode()) == named, (text, path)
    if named:
        above = path.rpartition("/")[0]
        assert pattern.leads_to(above.encode()), (text, path)
    if pattern.matches_all_below(path.encode()):
        assert pattern.matches((path + "/x/y").encode()), (text, path)
    pattern_problem(dice.damaged(text.encode()).decode("utf-8", "surrogateescape"))

    written = "".join(dice.choice(PARTS) for _ in range(dice.randint(0, 4)))
    host, port = dice.choice(HOSTS), dice.choice((0, 80, 85, 65535))
    address = plain_address(host) or ip_address(dice.choice(("10.1.2.3", "127.0.0.1", "fd00::1")))
    try:
        read_destination(written)
    except InvalidInput:
        assert not allows((written,), (), host, address, port)
        assert not allows(("*:*",), (written,), host, address, port)
    if allows((written,), (), host, address, port):
        assert may_lead((written,), (), host, port)
        assert not allows(("*:*",), (written,), host, address, port)

    copy = read_scp(dice.damaged(dice.choice(COMMANDS)))
    if copy is not None:
        assert len({"t", "f"} & set(copy.options)) == 1
        assert all(b"\0" not in each for each in copy.paths)


if __name__ == "__main__":
    main(attempt)
