"""Lifetimes that were not chosen have one value each, which requests and commands share."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

import tele
from tele.cli.authorities import sign_host, sign_user
from tele.cli.login import login
from tele.cli.tokens import add as add_token
from tele.model.api.authorities import SignHost, SignUser
from tele.model.api.members import PublicKeys
from tele.model.api.tokens import NewToken
from tele.model.api.users import LoginRequest
from tele.model.lifetimes import HOST_LIFETIME, TOKEN_LIFETIME, USER_LIFETIME
from tele.model.scalars import format_duration

SOURCE = Path(tele.__file__).parent


def test_requests_without_a_lifetime_have_it() -> None:
    """A request that names no lifetime asks for the one of this module."""
    assert LoginRequest("alice", "secret", PublicKeys("", "")).ttl == USER_LIFETIME
    assert SignUser("alice", "").ttl == USER_LIFETIME
    assert SignHost("", ()).ttl == HOST_LIFETIME
    assert NewToken(()).ttl == TOKEN_LIFETIME


@pytest.mark.parametrize(
    ("command", "lifetime"),
    [
        (login, USER_LIFETIME),
        (sign_user, USER_LIFETIME),
        (sign_host, HOST_LIFETIME),
        (add_token, TOKEN_LIFETIME),
    ],
)
def test_help_states_it(command: click.Command, lifetime: timedelta) -> None:
    """``--help`` of a command states the lifetime that it asks for without ``--ttl``."""
    shown = CliRunner().invoke(command, ["--help"]).output
    assert f"[default: {format_duration(lifetime)}]" in " ".join(shown.split())


def test_no_other_file_has_a_lifetime_of_its_own() -> None:
    """No parameter, field or variable called ``ttl`` or ``lifetime`` has a literal default."""
    own = re.compile(r"\b(?:ttl|lifetime)\b[^=\n]*=\s*timedelta\(\w+=")
    found = [
        str(file.relative_to(SOURCE))
        for file in SOURCE.rglob("*.py")
        if own.search(file.read_text())
    ]
    assert not found
