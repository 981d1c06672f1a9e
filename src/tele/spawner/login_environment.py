"""With which variables does a session begin?

As under Debian's sshd: the client's allow-listed ones, then the account's, then what the
administrator wrote for every login (pam_env's files), then the connection's own. Nothing
comes from a file of the user: ``~/.ssh/environment`` is never read.

Invariants:

* Standard library only: the spawner loads it.
* What describes the connection comes last: neither a client nor a file can forge it.
* A module of PAM may read files of the user (pam_env's ``user_readenv``); its variables could
  direct a linker, an interpreter or a shell unless they are known not to.
"""

from __future__ import annotations

import os
import pwd
import re
from collections.abc import Mapping
from typing import Final

from tele.spawner.accounts import read_file
from tele.spawner.spawn_messages import NODE_ENVIRONMENT

#: environ(5) of the machine: what pam_env reads for sshd on Debian.
SYSTEM_FILES: Final = ("/etc/environment", "/etc/default/locale")
FILE_LIMIT: Final = 64 * 1024
#: As Debian's sshd is built (its default and superuser path); login.defs is login(1)'s.
_ROOT_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_USER_PATH: Final = "/usr/local/bin:/usr/bin:/bin:/usr/games"
#: Variables of PAM that a restricted session gets.
_HARMLESS: Final = re.compile(
    rb"LANG|LC_[A-Z]{1,32}|KRB5CCNAME|XDG_RUNTIME_DIR|XDG_SESSION_(?:ID|TYPE|CLASS)"
)
_ASSIGNMENT: Final = re.compile(rb"\s*(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)=([^#]*)")


def environment_of(
    account: pwd.struct_passwd,
    given: Mapping[str, bytes],
    terminal: str | None,
    extra: Mapping[bytes, bytes],
) -> dict[bytes, bytes]:
    """Return the variables of a session. ``extra`` is of the files, or of PAM."""
    own = {
        "USER": account.pw_name,
        "LOGNAME": account.pw_name,
        "HOME": account.pw_dir,
        "SHELL": account.pw_shell or "/bin/sh",
        "PATH": _ROOT_PATH if account.pw_uid == 0 else _USER_PATH,
        "MAIL": f"/var/mail/{account.pw_name}",
    }
    if "TZ" in os.environ:
        own["TZ"] = os.environ["TZ"]
    variables = {name.encode(): value for name, value in given.items()}
    connection = {
        name.encode(): value for name, value in given.items() if NODE_ENVIRONMENT.fullmatch(name)
    }
    if terminal is not None:
        connection[b"SSH_TTY"] = os.fsencode(terminal)
    return {
        **variables,
        **{name.encode(): os.fsencode(value) for name, value in own.items()},
        **extra,
        **connection,
    }


def system_variables(files: tuple[str, ...] = SYSTEM_FILES) -> dict[bytes, bytes]:
    """Read the administrator's variables as pam_env does; a file that is not there has none."""
    found: dict[bytes, bytes] = {}
    for path in files:
        for line in (read_file(path, FILE_LIMIT) or b"").splitlines():
            if (match := _ASSIGNMENT.match(line)) and b"\0" not in line:
                found[match[1]] = _unquoted(match[2].rstrip())
    return found


def harmless(variables: Mapping[bytes, bytes]) -> dict[bytes, bytes]:
    """Return those of PAM's ``variables`` that change nothing of what is run."""
    return {name: value for name, value in variables.items() if _HARMLESS.fullmatch(name)}


def _unquoted(value: bytes) -> bytes:
    if value[:1] in (b'"', b"'"):
        return value[1:].removesuffix(value[:1])
    return value
