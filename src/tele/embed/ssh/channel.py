"""What does a program import in the place of ``twisted.conch.ssh.channel``?"""

from __future__ import annotations

from tele.conch.connection.channel import Channel as SSHChannel

__all__ = [
    "SSHChannel",
]
