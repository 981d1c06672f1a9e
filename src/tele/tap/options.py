"""How do the services of twistd read their options, and how do they fail?

Invariants:

* An invalid configuration ends twistd with status 2 and all errors on standard error, before
  anything is started.
* A data_dir that another process uses ends it with status 1, before it becomes a daemon. It is
  locked after that, when twistd has switched to its account.
* A service that cannot start ends the process with status 1 and one line in the log.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from twisted.application.service import IService
from twisted.internet.defer import CancelledError
from twisted.internet.interfaces import IReactorCore, IReactorFromThreads
from twisted.python.failure import Failure
from twisted.python.usage import Options as UsageOptions

from tele.capacity.descriptors import process_budget, raise_limit
from tele.capacity.memory import release_start
from tele.config.reading import Loaded
from tele.config.values import LogConfig
from tele.data_dir import check_unlocked
from tele.embed.cluster import ClusterService
from tele.embed.plugins import load_config
from tele.errors import ConfigError, Conflict, TeleError
from tele.log import LineObserver, LogFormat, log_observer, make_logger
from tele.loop import make_monotonic
from tele.text import printable_lines

_log = make_logger(__name__)


#: The log settings of the file. twistd finds an observer by its name only.
_log_configs: list[LogConfig] = []


def observer() -> LineObserver:
    """Return the log observer, for ``twistd --logger``."""
    config = _log_configs[-1] if _log_configs else LogConfig()
    return log_observer(sys.stderr, LogFormat(config.format.value), config.level.value)


class Options(UsageOptions):
    """The name of the configuration file."""

    optParameters = [["config", "c", "/etc/tele/tele.yaml", "The configuration file."]]
    loaded: Loaded

    def postOptions(self) -> None:
        """Read the file, and log as it says."""
        try:
            self.loaded = load_config(Path(self["config"]))
        except ConfigError as error:
            print(printable_lines(error), file=sys.stderr)
            sys.exit(error.exit_code)
        twistd: Any = self.parent
        log_config = self.loaded.config.log
        if (
            twistd is not None
            and twistd.get("nodaemon")
            and not (twistd.get("logger") or twistd.get("logfile") or twistd.get("syslog"))
        ):
            _log_configs.append(log_config)
            twistd["logger"] = f"{__name__}.observer"


def make(options: Options, parts: Sequence[str]) -> IService:
    """Return the service that runs ``parts`` (empty: all) of the configuration."""
    from twisted.internet import reactor

    make_monotonic(reactor)
    raise_limit()
    process_budget()
    for part in parts:
        if getattr(options.loaded.config, part) is None:
            problem = options.loaded.problem(part, "there is no such section")
            print(printable_lines(problem), file=sys.stderr)
            sys.exit(ConfigError.exit_code)
    service = ClusterService(reactor, options.loaded, parts)
    try:
        check_unlocked(options.loaded.config.data_dir, service.configured)
    except Conflict as error:
        print(printable_lines(error), file=sys.stderr)
        sys.exit(error.exit_code)
    service.ready.addCallbacks(lambda _: release_start(), _exit_with_error, errbackArgs=(reactor,))
    reactor.addSystemEventTrigger("before", "shutdown", _force_on_second_signal, service)
    return service


def _force_on_second_signal(service: ClusterService) -> None:
    """During the grace period of sessions a second signal ends it."""
    from twisted.internet import reactor

    threads = IReactorFromThreads(reactor)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: threads.callFromThread(service.force))


def _exit_with_error(failure: Failure, reactor: IReactorCore) -> None:
    if failure.check(CancelledError):
        return  # it was stopped while it started
    if failure.check(TeleError):
        _log.error("cannot start", error=str(failure.value))
    else:
        _log.failure("cannot start", failure)
    # twistd cannot exit with a status; the handler that was added last runs first.
    atexit.register(os._exit, 1)
    if reactor.running:
        reactor.stop()
    else:
        reactor.callWhenRunning(reactor.stop)
