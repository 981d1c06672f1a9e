"""How do other programs, such as OpenSSH's sshd, get new keys of the CAs? From files.

Invariants:

* A file is replaced as a whole, and only if its content changes.
* While auth is away the files stay as they are.
"""

from __future__ import annotations

import time
from datetime import timedelta
from pathlib import Path
from typing import Final

import click

from tele.cli.auth_client import Where, open_authority
from tele.cli.home import replace_file, safe_name
from tele.cli.output import print_notice
from tele.errors import TeleError, Unavailable, Unreachable
from tele.text import printable

#: Asking auth more often finds nothing sooner than its operator needs.
SHORTEST: Final = timedelta(seconds=1)


def read_period(text: str) -> timedelta:
    """Return the value of ``--every``."""
    from tele.model.scalars import parse_duration

    try:
        period = parse_duration(text)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--every") from None
    if not SHORTEST <= period <= timedelta(days=1):
        raise click.BadParameter("it has to be 1s to 24h", param_hint="--every")
    return period


def one_key(line: str) -> str:
    """Return the line of a CA's key from auth; refuse anything that is not one line."""
    from tele.certs.keys import parse_line, parse_public_key

    return parse_public_key(parse_line(line)).line


def keep_files(folder: Path, period: timedelta, where: Where) -> None:
    """Write the keys to ``folder``, and again when they change; ends with the login, or Ctrl-C."""
    problem = ""
    while True:
        try:
            found = _read(where)
        except (Unreachable, Unavailable) as error:
            if str(error) != problem:
                print_notice(f"tele: {printable(error)}; asking again every {period}")
            problem = str(error)
        else:
            problem = ""
            for name, text in found.items():
                _keep(folder / name, text)
        time.sleep(period.total_seconds())


def _read(where: Where) -> dict[str, str]:
    """Return the files by name, as auth says now."""
    from tele.certs.known_hosts import cert_authority_lines
    from tele.model.api.authorities import AUTHORITIES
    from tele.model.api.members import CLUSTER
    from tele.model.api.operation import Nothing

    with open_authority(where) as authority:
        trusted = authority.perform(AUTHORITIES, Nothing()).trusted
        cluster = safe_name("cluster", authority.perform(CLUSTER, Nothing()).cluster)
    keys = {each.kind.value: [one_key(k) for k in each.ssh_public_keys] for each in trusted}
    if not keys.get("user") or not keys.get("host"):
        raise TeleError("auth named no keys of its CAs; the files stay as they are")
    files = {f"{kind}_ca.pub": "".join(f"{k}\n" for k in lines) for kind, lines in keys.items()}
    files["known_hosts"] = cert_authority_lines([f"*.{cluster}"], keys["host"])
    return files


def _keep(path: Path, text: str) -> None:
    if path.is_file() and path.read_bytes() == text.encode("ascii"):
        return
    replace_file(path, text, 0o644)
    count = text.count("\n")
    print_notice(f"{path}: {count} key{'s' if count > 1 else ''}")
