"""How are the accounts that a node makes chosen and set up from its configuration?"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from twisted.internet.defer import Deferred

from tele.config.values import Chosen, HostUsersConfig
from tele.embed.plugins import choose
from tele.errors import InvalidInput
from tele.interfaces import HostUsersSurroundings, IHostUsers, IHostUsersFactory
from tele.reactor import Reactor
from tele.spawner.account_ledger import LedgerFile
from tele.spawner.spawn_messages import Options

#: The folder, below ``data_dir``, of what is known of accounts that were made.
FOLDER: Final = "host-users"
LOCAL: Final = Chosen("local")


def account_options(options: Options, config: HostUsersConfig, data_dir: Path) -> Options:
    """Return the spawner's options with what it may do about accounts.

    Accounts that were made before are still released when none are made any more. Raises
    InvalidInput for a node that cannot make any.
    """
    folder = str(data_dir / FOLDER)
    if config.accounts is None and not LedgerFile(folder).exists:
        return options
    if os.geteuid() != 0:
        if config.accounts == LOCAL:
            raise InvalidInput("node.host_users.accounts: needs a node that runs as root")
        return options
    return options._replace(
        accounts=folder, homes=config.home, shells=config.shell, sudoers=config.sudoers
    )


def host_users(
    reactor: Reactor,
    config: HostUsersConfig,
    data_dir: Path,
    options: Options,
    request: Callable[[Mapping[str, Any]], Deferred[Mapping[str, Any]]],
) -> IHostUsers | None:
    """Return what makes accounts; None if none are made, and none were."""
    chosen = config.accounts
    if chosen is None:
        if not options.accounts:
            return None
        chosen = LOCAL
    surroundings = HostUsersSurroundings(reactor, data_dir, request)
    made: IHostUsers = choose(IHostUsersFactory, chosen, surroundings)
    return made
