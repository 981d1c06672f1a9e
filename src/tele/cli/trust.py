"""How does what a user trusts follow a rotation of the CAs, between two logins?

By a program that commands start when it is due (:mod:`tele.cli.trust_age`), in the background::

    python -m tele.cli.trust HOME CLUSTER USER

So ``ca.json``, the pins, ``known_hosts`` and ``ssh_config`` are as new as the last use of the
cluster.

Invariants:

* Only an answer under a key that is trusted already changes what is trusted.
* A certificate whose CA key was dropped does not count any more: commands say to log in again.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tele.cli.auth_client import Where, trusted_hosts
from tele.cli.home import Files, Home, Profile
from tele.cli.openssh import write_openssh_files
from tele.cli.output import plain, print_notice
from tele.errors import TeleError

if TYPE_CHECKING:
    from tele.model.authority import TrustedAuthority


def refresh(home: Home, profile: Profile) -> None:
    """Ask auth for the authorities, and write what has changed. Raises :class:`TeleError`."""
    from tele.https.blocking import BlockingAuthority
    from tele.model.api.members import CLUSTER
    from tele.model.api.operation import Nothing
    from tele.model.authority import AuthorityKind, authority_of

    files = home.files(profile)
    trust = trusted_hosts(files)
    with BlockingAuthority(profile.proxy, None, trust, f"auth.{profile.cluster}") as remote:
        info = remote.perform(CLUSTER, Nothing())
    host = authority_of(info.authorities, AuthorityKind.HOST)
    if info.cluster != profile.cluster or host is None:
        raise TeleError(f"auth answered for another cluster than {profile.cluster}")
    content = json.dumps(plain(info.authorities), indent=1)
    if files.authorities.read_text("utf-8") != content:
        home.write(files.authorities, content)
    current = home.profile(profile.cluster)  # another user may have logged in meanwhile
    if current is not None and current.ca_pins != host.pins:
        fields = current._replace(ca_pins=host.pins)._asdict()
        home.write(files.folder / "profile.json", json.dumps(fields, indent=1))
    write_openssh_files(home, profile)
    _drop(files, authority_of(info.authorities, AuthorityKind.USER))


def refresh_own(where: Where) -> None:
    """Refresh at once for the user who rotates: otherwise the next call may be refused.

    A failure is a notice: the phase has begun.
    """
    home = Home.find()
    try:
        profile = home.chosen(where.cluster, where.proxy, where.user)
        if profile is not None:
            refresh(home, profile)
    except TeleError as error:
        print_notice(f"note: what you trust is as before: {error}")


def _drop(files: Files, users: TrustedAuthority | None) -> None:
    """Forget a certificate that no node accepts any more."""
    from tele.certs.certificate import parse_certificate
    from tele.certs.keys import parse_line

    try:
        kind, certificate, *_ = files.certificate.read_text("utf-8").split()
    except (OSError, ValueError):
        return  # logged out
    signer = parse_certificate(parse_line(f"{kind} {certificate}")).authority_key
    if users is not None and signer not in map(parse_line, users.ssh_public_keys):
        files.summary.unlink(missing_ok=True)


def main(path: str, cluster: str, user: str) -> int:
    """Refresh what ``user`` trusts of ``cluster`` by the files in ``path``; return a status."""
    home = Home(Path(path))
    try:
        profile = home.chosen(cluster, None, user)
        if profile is None:
            return 1
        refresh(home, profile)
    except (TeleError, OSError) as error:
        print_notice(str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
