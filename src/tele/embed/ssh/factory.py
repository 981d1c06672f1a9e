"""What does a program import in the place of ``twisted.conch.ssh.factory``?"""

from __future__ import annotations

from tele.conch.compat.server import SSHFactory

__all__ = [
    "SSHFactory",
]
