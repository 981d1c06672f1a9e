"""What does a program import in the place of ``twisted.conch.ssh.session``?"""

from __future__ import annotations

from twisted.conch.interfaces import EnvironmentVariableNotPermitted, ISession, ISessionSetEnv
from twisted.conch.ssh.session import (
    SUPPORTED_SIGNALS,
    SSHSessionClient,
    SSHSessionProcessProtocol,
    packRequest_pty_req,
    packRequest_window_change,
    parseRequest_pty_req,
    parseRequest_window_change,
    wrapProcessProtocol,
    wrapProtocol,
)

from tele.conch.compat.session_runner import ConchSession as SSHSession

__all__ = [
    "SUPPORTED_SIGNALS",
    "EnvironmentVariableNotPermitted",
    "ISession",
    "ISessionSetEnv",
    "SSHSession",
    "SSHSessionClient",
    "SSHSessionProcessProtocol",
    "packRequest_pty_req",
    "packRequest_window_change",
    "parseRequest_pty_req",
    "parseRequest_window_change",
    "wrapProcessProtocol",
    "wrapProtocol",
]
