"""Which OS account do roles want for a login on a node?

Invariant: a node that makes no accounts ignores it; what it says of an account that tele did not
make has no effect.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

from attrs import frozen

#: Traits of a user that are the numbers of accounts that are made for them.
UID_TRAIT: Final = "host_user_uid"
GID_TRAIT: Final = "host_user_gid"


class HostUserMode(str, Enum):
    """Whether a missing account is made at a login, and removed with its last session."""

    OFF = "off"
    KEEP = "keep"
    DROP = "drop"


@frozen
class HostUser:
    """An account that is made if it is missing.

    ``groups`` are the supplementary groups, ``sudoers`` what stands after the login in lines of
    sudoers(5), for as long as there are sessions. ``shell`` empty is the machine's default; ``uid``
    and ``gid`` None are chosen by the node, and -1 is what no account can have.
    """

    drop: bool = False
    groups: tuple[str, ...] = ()
    sudoers: tuple[str, ...] = ()
    shell: str = ""
    uid: int | None = None
    gid: int | None = None


@frozen
class Recovered:
    """Logins whose accounts were made before: those that are kept, those to be removed."""

    kept: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()


@frozen
class Ensured:
    """Whether the account was made by the plugin, at any time, and whether it was made now.

    ``changed``: it has other groups, another shell or other lines of sudoers in force than before.
    """

    managed: bool
    made: bool = False
    changed: bool = False


@frozen
class Released:
    """Whether the account was removed; ``busy``: it is to be, and processes of it run."""

    removed: bool = False
    busy: bool = False
