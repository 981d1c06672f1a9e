"""Measures how late the reactor of this process is: put this folder into ``PYTHONPATH``.

Python loads a module of this name when it starts. With ``LOOP_PROBE`` in the environment, the name
of a folder, a thread asks the reactor every 5 ms to call back, and writes to a file there when it
asked (``time.monotonic()``) and how long that took, in seconds.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

PERIOD = 0.005


def probe(folder: str) -> None:
    """In a thread, for as long as the process lives."""
    reactor: Any = None
    while not getattr(reactor, "running", False):
        time.sleep(0.05)
        reactor = sys.modules.get("twisted.internet.reactor")
    with (Path(folder) / str(os.getpid())).open("w", buffering=1) as file:
        while True:
            asked = time.monotonic()
            called = threading.Event()
            reactor.callFromThread(called.set)
            called.wait()
            file.write(f"{asked} {time.monotonic() - asked}\n")
            time.sleep(PERIOD)


if folder := os.environ.get("LOOP_PROBE"):
    threading.Thread(target=probe, args=(folder,), daemon=True).start()
