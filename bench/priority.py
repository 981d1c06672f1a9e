"""How is a measurement kept from other work on the machine?

Servers and their clients get real-time priority while they are measured, and a pause after that
lets others run. The kernel leaves other work a twentieth of the time. Needs root.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from servers import Server

#: Seconds between two measurements, in which other work runs.
PAUSE_SECONDS = 0.4


def _set(pids: Iterable[int], policy: int, priority: int) -> None:
    for pid in pids:
        with contextlib.suppress(OSError):  # it has ended
            for thread in Path(f"/proc/{pid}/task").iterdir():
                os.sched_setscheduler(int(thread.name), policy, os.sched_param(priority))


@contextmanager
def undisturbed(servers: Iterable[Server]) -> Iterator[None]:
    """Give ``servers``, this process and all that they start from now on precedence."""

    def pids() -> list[int]:
        return [os.getpid(), *(process.pid for each in servers for process in each.processes())]

    _set(pids(), os.SCHED_RR, 1)
    try:
        yield
    finally:
        _set(pids(), os.SCHED_OTHER, 0)
        time.sleep(PAUSE_SECONDS)
