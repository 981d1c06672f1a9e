"""What do users log in with beside a password? An invitation, or the token of a machine identity.

Both begin with the name of their user: whose files are written is known before auth is asked.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tele.cli.auth_client import typed_options
from tele.cli.home import CertificateSummary, Files, is_valid, safe_name
from tele.cli.lists import read_password
from tele.errors import InvalidInput, TeleError, quoted

if TYPE_CHECKING:
    from tele.certs.keys import PrivateKey
    from tele.certs.x509 import TlsKey

#: A certificate is renewed when less of its time is left than one part of so many.
RENEW_PARTS = 3


def check_ways(*, renew: bool) -> None:
    """Raise :class:`InvalidInput` if two options were typed of which one can hold."""
    for one, others in (
        ("invite", ("token_file", "if_needed")),
        ("token_file", ("password_file", "if_needed")),
    ):
        typed = typed_options(one, *others)
        if len(typed) > 1 and typed_options(one):
            raise InvalidInput(f"{' and '.join(typed[:2])} exclude each other")
    if renew and not typed_options("token_file"):
        raise InvalidInput("--renew needs --token-file: there is no password to ask for")


def read_invitation(code: str, user: str | None) -> tuple[str, str]:
    """Return an invitation's code, asked for if it is empty, and the user whom it names."""
    if not code:
        if not sys.stdin.isatty():
            raise click.UsageError("no terminal to ask for the invitation: use --invite CODE")
        code = click.prompt("Invitation", hide_input=True, err=True)
    invited, colon, _ = code.strip().partition(":")
    if not colon:
        raise InvalidInput("this is not an invitation: it begins with the name of a user and :")
    typed = typed_options("user")
    if typed and user != invited:
        raise InvalidInput(f"the invitation is for {quoted(invited)}, not for --user {user}")
    return code.strip(), safe_name("user", invited)


def read_token(file: Path, user: str | None) -> tuple[str, str]:
    """Return the token of a machine identity in ``file``, and its user.

    Raises :class:`InvalidInput`, or OSError.
    """
    token = read_password(file, "--token-file", "the token").strip()
    named, slash, _ = token.partition("/")
    if not slash:
        raise InvalidInput(
            f"{file} has no token of a machine identity; make one: tele tokens add --bot NAME"
        )
    if typed_options("user") and user != named:
        raise InvalidInput(f"the token in {file} is of {quoted(named)}, not of --user {user}")
    return token, safe_name("user", named)


def is_fresh(summary: CertificateSummary | None) -> bool:
    """Whether there is a certificate with a third of its time left, or more."""
    if summary is None or not is_valid(summary):
        return False
    return (summary.expires - time.time()) * RENEW_PARTS >= summary.expires - summary.issued


def kept_keys(files: Files) -> tuple[PrivateKey, TlsKey] | None:
    """Return the keys of an earlier login, or None.

    With new keys, a program that starts during a renewal could read a key and the certificate of
    another one.
    """
    from tele.certs.keys import PrivateKey
    from tele.certs.x509 import TlsKey

    try:
        ssh = PrivateKey.from_openssh(files.key.read_bytes())
        return ssh, TlsKey.from_pem(files.tls_key.read_bytes())
    except (OSError, TeleError):
        return None  # a first login, or a damaged folder, which this login repairs
