"""What can be configured of the accounts that a node makes?"""

from __future__ import annotations

from attrs import frozen

from tele.config.keys import key
from tele.config.scalars import Chosen


@frozen
class HostUsersConfig:
    """Whether roles have accounts made on this machine (the option ``create_host_user``)."""

    accounts: Chosen | None = key(
        "What makes them: ``local``, for a node that runs as root, or a plugin's kind. Default:"
        " none are made, and roles change nothing on this machine.",
        None,
    )
    home: bool = key("Whether a missing home is made, from /etc/skel.", True)
    shell: bool = key("Whether roles choose the shell (``create_host_user_shell``).", True)
    sudoers: bool = key(
        "Whether roles have lines of sudoers put into /etc/sudoers.d (``host_sudoers``).", True
    )
