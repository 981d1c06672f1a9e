"""What may the user of a connection do on it?

Invariant: it is one value of the avatar; connection and sessions read only that. The avatar of a
Conch program has none, and gets the defaults of OpenSSH's sshd.
"""

from __future__ import annotations

from typing import Any, Final

from attrs import frozen
from zope.interface import Attribute, Interface, implementer

#: Sessions on one connection: MaxSessions of sshd_config(5).
SESSIONS_DEFAULT: Final = 10


class IPermissions(Interface):
    """What a user may do on one connection now. An avatar provides it or adapts to it.

    :class:`tele.model.access.Grant` has these attributes.
    """

    permit_pty: bool = Attribute("whether a session may have a terminal")
    max_sessions: int = Attribute("how many sessions may be open at once")


@implementer(IPermissions)
@frozen
class Permissions:
    """The permissions of an avatar that has none of its own."""

    permit_pty: bool = True
    max_sessions: int = SESSIONS_DEFAULT


_DEFAULT: Final = Permissions()


def permissions_of(avatar: Any) -> IPermissions:
    """Return what the user of ``avatar`` may do now."""
    return IPermissions(avatar, _DEFAULT)
