"""Who may take part in the sessions of others, in which mode, and how a client asks for it?

A client logs in to the host of the session with :func:`join_login` as its user name, and requests a
shell, or a mode as its command.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from enum import Enum
from typing import Final

from attrs import field, frozen

from tele.model.bounds import AtMost, Between
from tele.model.identity import UserIdentity
from tele.model.names import NAME

#: Rules of one side of a role, and patterns of roles in one of them.
JOIN_RULES_LIMIT: Final = 64
JOIN_ROLES_LIMIT: Final = 64
#: Users that a role may demand to watch.
WATCHERS_LIMIT: Final = 8
_LOGIN: Final = re.compile(r"join\+([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})", re.ASCII)


class JoinMode(str, Enum):
    """What a user who joins a session may do.

    ``observer``: see its terminals. ``moderator``: see them, and end the session. ``peer``: see
    them, and type.
    """

    OBSERVER = "observer"
    MODERATOR = "moderator"
    PEER = "peer"


@frozen
class JoinRule:
    """Sessions that may be joined in some ``modes``: those that one of ``roles`` gives a terminal.

    ``roles`` are names or patterns with ``*`` and ``?``. A rule that denies names modes that are
    denied.
    """

    name: str = field(validator=NAME)
    roles: tuple[str, ...] = field(validator=AtMost(JOIN_ROLES_LIMIT))
    modes: tuple[JoinMode, ...] = field(
        default=(JoinMode.OBSERVER,), validator=AtMost(len(JoinMode))
    )


class OnLeave(str, Enum):
    """What happens to a session that is not watched any more as a role demands.

    ``terminate``: it ends. ``pause``: nothing is typed in it and nothing shown, until it is watched
    again.
    """

    TERMINATE = "terminate"
    PAUSE = "pause"


@frozen
class WatchRule:
    """Sessions are watched by ``count`` other users with one of ``roles``, in one of ``modes``.

    ``roles`` are names or patterns with ``*`` and ``?``.
    """

    name: str = field(validator=NAME)
    roles: tuple[str, ...] = field(validator=AtMost(JOIN_ROLES_LIMIT))
    modes: tuple[JoinMode, ...] = field(
        default=(JoinMode.MODERATOR,), validator=AtMost(len(JoinMode))
    )
    count: int = field(default=1, validator=Between(1, WATCHERS_LIMIT))
    on_leave: OnLeave = OnLeave.TERMINATE


@frozen
class Watcher:
    """One who takes part in a session, and the roles of their certificate."""

    user: str
    roles: tuple[str, ...]
    mode: JoinMode


@frozen
class JoinTarget:
    """A session that runs on a host, as a decision about joining it knows it.

    ``roles`` are those that give its user a terminal, ``labels`` those of the host.
    """

    session_id: str
    roles: tuple[str, ...]
    host_id: str
    labels: Mapping[str, str]


@frozen
class JoinGrant:
    """In which modes a user may join one session; there is one at least.

    ``expires`` is the end of the certificate. With ``strict_locks`` it begins only where the locks
    of now are known.
    """

    identity: UserIdentity
    expires: datetime
    modes: frozenset[JoinMode]
    strict_locks: bool = False


def join_login(session_id: str) -> str:
    """Return the user name with which a client joins a session."""
    return f"join+{session_id}"


def joined_session(login: str) -> str:
    """Return the id of the session that a user name of a client joins, or nothing."""
    found = _LOGIN.fullmatch(login)
    return "" if found is None else found[1]
