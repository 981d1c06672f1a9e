"""What does a session ask to be forwarded to it: an agent, a display (RFC 4254, 6.3)?

Invariant: values and interfaces only; whether something listens is the avatar's decision.
"""

from __future__ import annotations

import re
from typing import Final

from attrs import frozen
from twisted.internet.defer import Deferred
from zope.interface import Attribute, Interface

from tele.wire.fields import Reader

#: How OpenSSH's clients ask for an agent (PROTOCOL.agent).
AGENT_REQUEST: Final = b"auth-agent-req@openssh.com"
#: The types of channels that we open to an agent and to a display.
AGENT_CHANNEL: Final = b"auth-agent@openssh.com"
DISPLAY_CHANNEL: Final = b"x11"

_PROTOCOL: Final = re.compile(rb"[A-Za-z0-9-]{1,64}")
_COOKIE: Final = re.compile(rb"(?:[0-9a-fA-F]{2}){1,256}")
SCREEN_LIMIT: Final = 256


@frozen
class DisplayRequest:
    """``x11-req``. The cookie is a fake of the client's, which replaces it by the real one."""

    single: bool
    protocol: str
    cookie: str
    screen: int


class IDisplay(Interface):
    """A forwarded display of the client."""

    number: int = Attribute("the number after the colon of DISPLAY")
    request: DisplayRequest = Attribute("what the client asked for")

    def close() -> None:
        """Its session ended. May be called twice."""


class ISessionForwards(Interface):
    """Forwards an agent and displays for sessions. Avatars provide it or adapt to it.

    Failures are a :class:`tele.errors.TeleError`, whose text the client does not see.
    """

    def agent() -> Deferred[None]:
        """Forward the client's agent, for the whole connection."""

    def display(request: DisplayRequest) -> Deferred[IDisplay]:
        """Forward the client's display, for one session."""


def read_display(reader: Reader) -> DisplayRequest | None:
    """Read an ``x11-req``; None if xauth could not be given its protocol or cookie."""
    single, protocol = reader.boolean(), reader.string()
    cookie, screen = reader.string(), reader.uint32()
    usable = _PROTOCOL.fullmatch(protocol) and _COOKIE.fullmatch(cookie)
    if not usable or screen >= SCREEN_LIMIT:
        return None
    return DisplayRequest(single, protocol.decode("ascii"), cookie.decode("ascii"), screen)
