"""Invariant: a request for an account is read to plain names, lines and numbers, or is refused."""

from __future__ import annotations

from attempts import Dice, main
from tele.spawner.accounts import Refused
from tele.spawner.host_account import (
    check_login,
    check_new_group,
    sudoers_name,
    sudoers_text,
    wanted_from,
)
from tele.spawner.spawn_messages import unpack


def check(data: bytes) -> None:
    """Hold the invariant for one message."""
    try:
        header, _ = unpack(data)
        wanted = wanted_from(header)
        check_login(wanted.login)
    except (ValueError, Refused):
        return
    login = wanted.login
    assert login.isascii()
    assert login.isprintable()
    assert not set(login) & set(" /:,;=!%#\\'\"$`()<>|&*?[]{}~^@+")
    assert login[0].isalpha()
    name = sudoers_name("0a1b2c3d", login)
    assert "." not in name
    assert not name.endswith("~")
    lines = sudoers_text(login, wanted.sudoers).splitlines()[1:]
    assert len(lines) == len(wanted.sudoers)
    assert all(line.startswith(f"{login} ") and not line.endswith("\\") for line in lines)
    for group in wanted.groups:
        assert "," not in group
        assert not group.startswith("-")
        try:
            check_new_group(group)
        except Refused:
            continue
        assert group.isascii()
        assert group == group.lower()
    assert wanted.shell == "" or wanted.shell.startswith("/")
    assert ".." not in wanted.shell.split("/")


SEEDS = [
    b'{"login":"bob","make":true,"drop":true,"groups":["audio","A"],"sudoers":["ALL=(ALL) ALL"]}',
    b'{"login":"new.hire","shell":"/bin/bash","uid":2001,"gid":null,"groups":[]}',
    b'{"login":"a","sudoers":["ALL=(ALL) NOPASSWD: /usr/bin/id","x = ALL"]}',
]


def attempt(dice: Dice) -> None:
    """A request with damage."""
    check(dice.damaged(dice.choice(SEEDS), 3))


if __name__ == "__main__":
    main(attempt)
