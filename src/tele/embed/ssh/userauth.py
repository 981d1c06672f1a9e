"""What does a program import in the place of ``twisted.conch.ssh.userauth``?"""

from __future__ import annotations

from twisted.conch.ssh.userauth import (
    MSG_USERAUTH_BANNER,
    MSG_USERAUTH_FAILURE,
    MSG_USERAUTH_INFO_REQUEST,
    MSG_USERAUTH_INFO_RESPONSE,
    MSG_USERAUTH_PASSWD_CHANGEREQ,
    MSG_USERAUTH_PK_OK,
    MSG_USERAUTH_REQUEST,
    MSG_USERAUTH_SUCCESS,
)

from tele.conch.compat.client import ConchUserAuthClient as SSHUserAuthClient
from tele.conch.compat.userauth import PortalUserAuthServer as SSHUserAuthServer

__all__ = [
    "MSG_USERAUTH_BANNER",
    "MSG_USERAUTH_FAILURE",
    "MSG_USERAUTH_INFO_REQUEST",
    "MSG_USERAUTH_INFO_RESPONSE",
    "MSG_USERAUTH_PASSWD_CHANGEREQ",
    "MSG_USERAUTH_PK_OK",
    "MSG_USERAUTH_REQUEST",
    "MSG_USERAUTH_SUCCESS",
    "SSHUserAuthClient",
    "SSHUserAuthServer",
]
